"""The tokenizer and the chat template beside an adapter from which training starts, where other tools save
those that it was trained with."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from kubetune.api.runspec import RunAdapter
from kubetune.api.warnings import WarningReason
from kubetune_trainer.data import faithful
from kubetune_trainer.data.tokenizer import TEMPLATE
from kubetune_trainer.model_files import json_object
from kubetune_trainer.warned import warn


def tell(adapter: RunAdapter, tokenizer: PreTrainedTokenizerBase) -> None:
    """Warn if the adapter's chat template or end token differs from the run's, which is used.

    Args:
        adapter: from which training starts.
        tokenizer: of the run.

    Raises:
        InvalidSpec: the settings of the adapter's tokenizer cannot be read.
    """
    folder, name = Path(adapter.path), f"adapter {adapter.uri}"
    path = folder / faithful.SETTINGS
    settings = json_object(path, name) if path.is_file() else {}
    template, end = settings.get("chat_template"), settings.get("eos_token")
    if (folder / TEMPLATE).is_file():
        template = (folder / TEMPLATE).read_text(encoding="utf-8")
    if isinstance(end, dict):
        end = end.get("content")
    others = []
    if isinstance(template, str) and template.strip() != str(tokenizer.chat_template or "").strip():
        others.append("chat template")
    if end is not None and end != tokenizer.eos_token:
        others.append(f"eos_token ({end!r}, not {tokenizer.eos_token!r})")
    if others:
        warn(
            WarningReason.ADAPTER_TOKENIZER_IGNORED,
            f"{name} comes with another {' and '.join(others)} than the base, and the base's are used: if "
            "the adapter was trained with its own, put them into the base's folder",
        )
