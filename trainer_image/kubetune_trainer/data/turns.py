"""Turns of a conversation as records write them: OpenAI's messages, ShareGPT's turns, and the functions that
the assistant may call."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubetune_trainer.data.fields import Fields, kind
from kubetune_trainer.errors import DataError

ROLES = ("system", "user", "assistant", "tool", "developer")
_CALL = "function_call"
_SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    _CALL: "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""Roles by the names of speakers in ShareGPT and in data like it."""
_STRINGS = ("name", "reasoning_content", "thinking", "tool_call_id")
"""Strings that a message may hold beside its content, by the names that templates use."""
_MEMBERS = {"role", "content", "tool_calls", *_STRINGS, "weight", "train"}
_SHARED = {"from", "value", "weight", "train"}
"""Members of a turn of ShareGPT."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str
    more: str = ""
    """What else the chat template is given, as a JSON object: tool calls, a name. Empty: nothing."""
    trained: bool = True
    """Whether a turn of the assistant is trained on."""


def messages_of(entries: list[object], what: str, *, chosen: bool = False) -> list[Message]:
    """The turns of a list of messages.

    Args:
        entries: the messages.
        what: what each message is called in errors.
        chosen: whether a turn may say that it is not trained on.

    Raises:
        DataError: an entry is not a message, or has a member that is not understood.
    """
    return [_message(entry, f"{what} {number}", chosen) for number, entry in enumerate(entries, 1)]


def shared_turns(fields: Fields, form: str, *, chosen: bool = False) -> list[Message]:
    """The turns of a ShareGPT conversation; the system's may be in a field of its own. See `messages_of`.

    Raises:
        DataError: an entry is not a turn, or its speaker is unknown.
    """
    entries = fields.filled("conversations", form, '{"from": ..., "value": ...}')
    turns = [turn_of(entry, f"turn {number}", chosen=chosen) for number, entry in enumerate(entries, 1)]
    system = fields.string("system", form, optional=True)
    return [Message("system", system), *turns] if system else turns


def turn_of(entry: object, what: str, *, chosen: bool = False) -> Message:
    """One turn of ShareGPT; see `shared_turns`."""
    if isinstance(entry, dict) and entry.get("value", 0) is None:
        raise DataError(f"{what} has no value: write what was said, or remove the record")
    if not isinstance(entry, dict) or not isinstance(entry.get("value"), str):
        raise DataError(f"{what} must be an object with from and value, value a string")
    speaker, value = entry.get("from"), entry["value"]
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        raise DataError(f"{what} is from {speaker!r}: use {', '.join(_SPEAKERS)}")
    role = _SPEAKERS[speaker]
    _check_members(entry, _SHARED, what)
    trained = _trained(entry, role, what, chosen)
    if speaker != _CALL:
        return Message(role, value, trained=trained)
    call = _parsed(value, f"the value of {what}")
    if not isinstance(call, dict) or not call.keys() >= {"name", "arguments"}:
        raise DataError(f'{what} is a {_CALL}: its value must be JSON {{"name": ..., "arguments": {{...}}}}')
    return Message(role, "", _text({"tool_calls": [_call(call, what)]}, what), trained)


def tools_of(fields: Fields) -> str:
    """Functions that the assistant may call, given as a list or as the JSON of one; see `Conversation`.

    Raises:
        DataError: it is something else.
    """
    value, what = fields.get("tools"), f"field {fields.called('tools')!r}"
    if isinstance(value, str):
        value = _parsed(value, what) if value.strip() else None
    if value is None or value == []:
        return ""
    if not isinstance(value, list):
        raise DataError(f"{what} is {kind(value)}; it must be a list of functions, or its JSON")
    return _text([_function(tool, f"function {n} of {what}") for n, tool in enumerate(value, 1)], what)


def alike(text: str) -> str:
    """JSON text with sorted keys, so that equal objects have equal texts."""
    return json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False)


def _message(entry: object, what: str, chosen: bool) -> Message:
    if not isinstance(entry, dict):
        raise DataError(f"{what} must be an object with role and content")
    role = entry.get("role")
    if role not in ROLES:
        raise DataError(f"{what} has role {role!r}: use {', '.join(ROLES)}")
    more: dict[str, Any] = {}
    for name in _STRINGS:
        value = entry.get(name)
        if value is not None and not isinstance(value, str):
            raise DataError(f"{what}: {name} is {kind(value)}; it must be a string")
        if value is not None:
            more[name] = value
    if entry.get("function_call") is not None:
        raise DataError(f"{what} has a function_call: write it as tool_calls")
    _check_members(entry, _MEMBERS, what)
    calls = entry.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise DataError(f"{what}: tool_calls is {kind(calls)}; it must be a list")
    if calls:
        if role != "assistant":
            raise DataError(f"{what} has tool_calls, but role {role}: only the assistant calls tools")
        more["tool_calls"] = [_call(call, f"tool call {n} of {what}") for n, call in enumerate(calls, 1)]
    content = entry.get("content")
    if not (content is None and calls):
        content = _content(content, what)
    trained = _trained(entry, role, what, chosen)
    return Message(str(role), content or "", _text(more, what) if more else "", trained)


def _check_members(entry: Mapping[str, object], known: set[str], what: str) -> None:
    """Refuse members that are not understood. Null and empty ones pass, because a row of a table has every
    member that any other row has."""
    for name, value in entry.items():
        if name not in known and value is not None and value != [] and value != {} and value != "":
            raise DataError(f"{what} has {name!r}, which is not understood: remove it or the record")


def _trained(entry: Mapping[str, object], role: str, what: str, chosen: bool) -> bool:
    """Whether a turn is trained on, as `weight` (OpenAI) or `train` (axolotl) say."""
    said = {}
    for name in ("weight", "train"):
        value = entry.get(name)
        if value is None:
            continue
        if not chosen:
            raise DataError(f"{what} has {name!r}, which goes with formats messages and sharegpt: remove it")
        right, told = (value in (0, 1), "0 or 1") if name == "weight" else (True, "true or false")
        if (
            not right
            or isinstance(value, bool) != (name == "train")
            or not isinstance(value, bool | int | float)
        ):
            shown = f"is {value}" if isinstance(value, int | float) else f"is {kind(value)}"
            raise DataError(f"{what}: {name} {shown}; it must be {told}")
        said[name] = bool(value)
        if value and role != "assistant":
            raise DataError(
                f"{what} has {name!r}, but role {role}: only the assistant's turns are trained on"
            )
    if len({*said.values()}) > 1:
        raise DataError(f"{what}: weight and train contradict each other: remove one")
    return all(said.values())


def _content(value: object, what: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise DataError(
            f"{what} must be an object with role and content, content a string or a list of text parts"
        )
    texts = []
    for part in value:
        shown = part.get("type") if isinstance(part, dict) else part
        if shown != "text":
            raise DataError(
                f"{what} has a part {shown!r} in its content, but only text is trained on: remove the part "
                "or the record"
            )
        if not isinstance(part.get("text"), str):
            raise DataError(f'{what}: a part of its content must be {{"type": "text", "text": "..."}}')
        _check_members(part, {"type", "text"}, f"a part of the content of {what}")
        texts.append(part["text"])
    return "".join(texts)


def _call(call: object, what: str) -> dict[str, Any]:
    """A function call. Its arguments are an object, because templates write them as JSON themselves."""
    wrapped = _function(call, what)
    _check_members(wrapped, {"id", "type", "function"}, what)
    _check_members(wrapped["function"], {"id", "name", "arguments"}, what)
    arguments = wrapped["function"].get("arguments", {})
    if isinstance(arguments, str):
        arguments = _parsed(arguments, f"the string of arguments of {what}")
    if not isinstance(arguments, dict):
        raise DataError(f"{what}: arguments is {kind(arguments)}; it must be an object, or the JSON of one")
    return wrapped | {"function": wrapped["function"] | {"arguments": arguments}}


def _function(value: object, what: str) -> dict[str, Any]:
    """{"type": "function", "function": {"name": ..., ...}}, also where only the inner object is given."""
    value = _without_nulls(value)
    if isinstance(value, dict) and value.get("type", "function") == "function":
        inner = {name: held for name, held in value.items() if name != "type"}
        function = value.get("function", inner)
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            return {"type": "function"} | (value if "function" in value else {"function": inner})
    raise DataError(f'{what} must be {{"type": "function", "function": {{"name": ..., ...}}}}')


def _without_nulls(value: object) -> Any:
    """The value without null members: a row of a table has every member that any other row has."""
    if isinstance(value, Mapping):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{what} is not JSON ({error.msg} at character {error.pos}): mend it") from error
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{what} cannot be read ({error}): mend it") from error


def _text(value: object, what: str) -> str:
    """As JSON. Objects keep the order of the record, in which the model reads and writes them."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:  # from Parquet: a date, bytes
        raise DataError(
            f"{what} holds a value that JSON cannot express ({error}): write it as a string"
        ) from error
