"""What else belongs to a base and goes into a full or merged artifact: its whole generation config,
processors of inputs other than text, licences.

Pickles and code are never copied, because whoever loads the artifact would run them. Nor are copies of the
weights in other formats, because they are not trained.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from kubetune.api.warnings import WarningReason
from kubetune_trainer.model_files import CONFIG, LARGEST_JSON, json_object
from kubetune_trainer.warned import warn

GENERATION = "generation_config.json"
_SIDE_FILES = re.compile(
    r"[\w-]*(processor|extractor)_config\.json|chat_template\.(json|jinja)|[\w.-]*\.(model|tiktoken)"
    r"|(LICEN[CS]E|NOTICE|USE_POLICY|COPYING)(\.(txt|md))?"
)
_COMPUTED = re.compile(
    r"inv_freq|position_ids|relative_position_index|attn\.(masked_)?bias|attention\.(masked_)?bias|rotary_emb"
)
"""Tensors that old releases saved and that are computed from the config."""
_MOST_NAMED = 5


@contextmanager
def watching() -> Iterator[set[str]]:
    """While a model is loaded, gather the names of tensors in its files that it has no place for.
    transformers itself hides some: those of parts that it knows but lacks, such as mtp."""
    found: set[str] = set()
    adjust = PreTrainedModel._adjust_missing_and_unexpected_keys

    def look(self: Any, info: Any) -> None:
        found.update(info.unexpected_keys)
        adjust(self, info)

    PreTrainedModel._adjust_missing_and_unexpected_keys = look
    try:
        yield found
    finally:
        PreTrainedModel._adjust_missing_and_unexpected_keys = adjust


def tell_left_out(base: Path, kind: str, unexpected: Iterable[str]) -> None:
    """Warn about parts of a base that the whole model made of it will lack.

    Args:
        base: its folder.
        kind: the class that it is loaded as.
        unexpected: tensors of its files that have no place there.
    """
    lost = [name for name in unexpected if not _COMPUTED.search(name)]
    if lost:
        parts = Counter(".".join(name.split(".")[:2]) for name in lost)
        named = [part for part, _ in parts.most_common(_MOST_NAMED)]
        named += [f"{len(parts) - len(named)} more"] if len(parts) > len(named) else []
        warn(
            WarningReason.PARTS_LEFT_OUT,
            f"the base's files hold {len(lost)} tensors that transformers' {kind} has no place for "
            f"({', '.join(named)}): the artifact will lack them. Choose method lora to keep the base whole",
        )
    code = sorted(path.name for path in base.glob("*.py"))
    if code:
        warn(
            WarningReason.PARTS_LEFT_OUT,
            f"the base comes with code ({', '.join(code[:_MOST_NAMED])}), which is neither run nor copied: "
            "the artifact is loaded by transformers' own classes",
        )


def carry_over(base: Path, artifact: Path) -> None:
    """Put into an artifact what belongs to its base and is not there yet.

    Raises:
        StorageError: see `files.writing`, in which this is called.
    """
    for path in sorted(base.iterdir()):
        there = artifact / path.name
        if _SIDE_FILES.fullmatch(path.name) and path.is_file() and not there.exists():
            shutil.copyfile(path, there)
    written, own = artifact / GENERATION, base / GENERATION
    if written.is_file() and own.is_file() and own.stat().st_size <= LARGEST_JSON:
        ours = json_object(written, "the artifact")
        _write(written, json_object(own, "the base model") | {k: v for k, v in ours.items() if v is not None})
    config = json_object(artifact / CONFIG, "the artifact")
    if config.pop("auto_map", None):  # names code, which is not there
        _write(artifact / CONFIG, config)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
