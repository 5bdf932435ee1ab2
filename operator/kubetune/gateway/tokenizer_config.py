"""What a folder's tokenizer_config.json says of its tokenizer."""

import json
from pathlib import Path
from typing import Any

from kubetune.api.table import AdapterReason
from kubetune.gateway.refused import AdapterRefused

_NAME = "tokenizer_config.json"


def tokenizer_config(folder: Path, *, strict: bool = True) -> dict[str, Any]:
    """The content of the file; empty if there is none.

    Raises:
        AdapterRefused: it cannot be read. If not strict, it counts as empty.
    """
    try:
        config = json.loads((folder / _NAME).read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        if strict:
            raise unreadable(_NAME, error) from error
        return {}
    return config if isinstance(config, dict) else {}


def token(config: dict[str, Any], name: str) -> str | None:
    """A special token, such as `eos_token`."""
    found = config.get(name)
    text = found.get("content") if isinstance(found, dict) else found
    return text if isinstance(text, str) else None


def unreadable(name: str, error: Exception) -> AdapterRefused:
    """Why an adapter with a file that cannot be read is refused."""
    return AdapterRefused(AdapterReason.UNSUPPORTED, f"{name} cannot be read: {error}. Remove or restore it")
