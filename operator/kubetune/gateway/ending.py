"""Where an adapter's answers end, if that is not only where the base's do.

The engine stops at the base's end-of-sequence token. An adapter that was trained with another one ends its
answers with that, and would be heard to talk on after it.
"""

from pathlib import Path
from typing import Any

from kubetune.api.table import AdapterReason
from kubetune.gateway.refused import AdapterRefused
from kubetune.gateway.tokenizer_config import token, tokenizer_config

_END = "eos_token"


def own_end(adapter: Path, base: Path) -> str | None:
    """The end-of-sequence token of an adapter's folder, if it is another than the base's.

    Raises:
        AdapterRefused: it cannot be read.
    """
    end = token(tokenizer_config(adapter), _END)
    return end if end != token(tokenizer_config(base, strict=False), _END) else None


def one_token(end: str, ids: list[int]) -> int:
    """The id of an end-of-sequence token, from what the base's tokenizer makes of it.

    Raises:
        AdapterRefused: it is no token of the base.
    """
    if len(ids) == 1:
        return ids[0]
    raise AdapterRefused(
        AdapterReason.BASE_MODEL_MISMATCH,
        f"its answers end with {end[:80]!r} (eos_token of tokenizer_config.json), which is no token of the "
        "base: train it with the base's tokenizer, or remove the file if it does not belong to the adapter",
    )


def stop_at(body: dict[str, Any], end: int) -> None:
    """End an answer at this token, too, unless the client wants no token to end it."""
    named = body.get("stop_token_ids") or []
    if isinstance(named, list) and not body.get("ignore_eos"):
        body["stop_token_ids"] = [*named, end]
