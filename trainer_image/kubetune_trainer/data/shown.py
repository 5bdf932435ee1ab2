"""Whether a chat template writes all that it is given: no model sees or learns what it leaves out.

Each part of a conversation gets a mark of its own, and the marks are looked for in what the template writes.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kubetune_trainer.data.thoughts import PAIRS
from kubetune_trainer.errors import DataError

Turn = dict[str, Any]
Write = Callable[[list[Turn], list[Any] | None], str]
"""From turns and tools to the template's text."""
THOUGHTS = ("reasoning_content", "thinking")
LONGEST = 40
"""Most characters of a part that a message quotes."""


@dataclass(frozen=True, slots=True)
class _Part:
    what: str
    turn: int
    """Number of its turn; -1: it is part of a tool."""
    text: str
    """As it stands in the record."""


@dataclass
class _Marks:
    parts: dict[str, _Part] = field(default_factory=dict)

    def on(self, text: str, what: str, turn: int) -> str:
        """A text with a mark at its end. No template escapes, translates or splits the mark."""
        mark = f"zq{len(self.parts)}xqz"
        self.parts[mark] = _Part(what.replace("{}", _quoted(text)), turn, text)
        return text + mark


def check(turns: list[Turn], tools: list[Any] | None, write: Write) -> None:
    """Check that a template writes every part of a conversation.

    A template may by its own rules write a part, such as thoughts, only while no other turn follows. The id
    of a call need not be written, nor the name and id of a tool's answer, as the call itself is checked.

    Args:
        turns: the conversation, as the template gets it.
        tools: those that the assistant may call, as the template gets them.
        write: the template.

    Raises:
        DataError: it leaves something out.
    """
    marks = _Marks()
    marked = [_marked(turn, number, marks) for number, turn in enumerate(turns)]
    marked_tools = None if tools is None else [_marked_tool(tool, marks) for tool in tools]
    written: dict[int, str] = {}

    def shown(mark: str, part: _Part, count: int) -> bool:
        if count not in written:
            try:
                written[count] = write(marked[:count], marked_tools).lower()
            except DataError:  # a template may want a text in some form, which marks break
                written[count] = ""
        if written[count]:
            return mark in written[count]
        plain = write(turns[:count], tools)
        return part.text in plain or json.dumps(part.text, ensure_ascii=False)[1:-1] in plain

    for mark, part in marks.parts.items():
        if shown(mark, part, len(turns)) or (part.turn >= 0 and shown(mark, part, part.turn + 1)):
            continue
        raise DataError(
            f"the base model's chat template does not show {part.what}: remove it from the record, or "
            "give the base a template that shows it"
        )


def _marked(turn: Turn, number: int, marks: _Marks) -> Turn:
    role, found = turn["role"], dict(turn)
    who = "the assistant's words {}" if role == "assistant" else f"the words {{}} of role {role}"
    if turn["content"].strip():
        found["content"] = _with_thought(turn["content"], who, number, marks)
    for name in THOUGHTS:
        if turn.get(name, "").strip():
            found[name] = marks.on(turn[name], f"{name} {{}}", number)
    if turn.get("name") and role != "tool":
        found["name"] = marks.on(turn["name"], f"the name {{}} of a message of role {role}", number)
    if "tool_calls" in turn:
        found["tool_calls"] = [_marked_call(call, number, marks) for call in turn["tool_calls"]]
    return found


def _with_thought(content: str, what: str, number: int, marks: _Marks) -> str:
    """Thoughts inside the content are a part of their own."""
    for begin, end in PAIRS:
        thought, ended, said = content.rpartition(end)
        if ended and thought.rpartition(begin)[2].strip():
            content = marks.on(thought, "what the assistant thought", number) + ended + said
            if not said.strip():
                return content
            break
    return marks.on(content, what, number)


def _marked_call(call: dict[str, Any], number: int, marks: _Marks) -> dict[str, Any]:
    function = call["function"]
    name = function["name"]
    found = function | {"name": marks.on(name, "the call of {}", number)}
    if function.get("arguments"):
        what = f"the arguments of the call of {name!r}"
        found["arguments"] = _marked_value(function["arguments"], what, number, marks)
    return call | {"function": found}


def _marked_value(value: Any, what: str, number: int, marks: _Marks) -> Any:
    if isinstance(value, dict):
        return {
            marks.on(key, what, number): _marked_value(inner, what, number, marks)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_marked_value(inner, what, number, marks) for inner in value]
    return marks.on(value, what, number) if isinstance(value, str) and value.strip() else value


def _marked_tool(tool: dict[str, Any], marks: _Marks) -> dict[str, Any]:
    function = tool["function"]
    name = function["name"]
    found = function | {"name": marks.on(name, "the tool {}", -1)}
    if isinstance(function.get("description"), str) and function["description"].strip():
        found["description"] = marks.on(function["description"], f"the description of tool {name!r}", -1)
    parameters = function.get("parameters")
    if isinstance(parameters, dict) and isinstance(parameters.get("properties"), dict):
        what = f"the parameters of tool {name!r}"
        found["parameters"] = parameters | {
            "properties": {marks.on(key, what, -1): inner for key, inner in parameters["properties"].items()}
        }
    return tool | {"function": found}


def _quoted(text: str) -> str:
    return repr(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")
