"""Which `format` and `fields` a record fits, if it does not fit its own format."""

from collections.abc import Callable, Mapping
from typing import Any

from kubetune.api.data import FIELDS

ASKED = ("question", "query", "prompt", "instruction", "inputs", "input", "problem", "human", "user")
ANSWERED = (
    "answer",
    "response",
    "completion",
    "output",
    "targets",
    "target",
    "solution",
    "reply",
    "assistant",
)
WITH_STAGE = {"preference": "dpo or reward", "classification": "classification", "prompts": "ppo or grpo"}
"""Formats that go with stages of their own, and those stages."""
LOOSE = ("prompts", "preference", "text")
"""Formats that records of other formats fit, too: named only if no other fits."""


def hint(data: Mapping[str, Any], form: str, fits: Callable[[str, dict[str, str]], bool]) -> str:
    """A sentence that names a format and fields that a record fits; empty if none is found.

    Args:
        data: the record.
        form: the format that it does not fit.
        fits: whether the record is complete in a format with such renamed fields.
    """
    if not all(isinstance(name, str) for name in data):
        return ""
    for other, fields in _candidates(data):
        if (other != form or fields) and fits(other, fields):
            named = f" with fields: {{{', '.join(f'{k}: {v}' for k, v in fields.items())}}}" if fields else ""
            named += f" (in a PretrainJob textField: {fields['text']})" if "text" in fields else ""
            stage = f", which goes with stage {WITH_STAGE[other]}" if other in WITH_STAGE else ""
            return f"the record fits format {other}{named}{stage}"
    return ""


def _candidates(data: Mapping[str, Any]) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = [(form, {}) for form in FIELDS if form not in LOOSE]
    found.append(("preference", {}))
    for name, value in data.items():
        keys = set(value[0]) if isinstance(value, list) and value and isinstance(value[0], dict) else set()
        if {"role", "content"} <= keys:
            found.append(("messages", {"messages": name}))
        if {"from", "value"} <= keys:
            found.append(("sharegpt", {"conversations": name}))
    strings = {name for name, value in data.items() if isinstance(value, str)}
    asked = next((name for name in ASKED if name in strings), None)
    answered = next((name for name in ANSWERED if name in strings), None)
    if asked and answered:
        found.append(("alpaca", {"instruction": asked, "output": answered}))
    found += [("prompts", {}), ("text", {})]
    if len(strings) == 1:
        found.append(("text", {"text": next(iter(strings))}))
    return found
