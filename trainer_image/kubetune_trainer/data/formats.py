"""The formats of a record. Each is a function that makes one of a few kinds of example of it; a new format is
one more function."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

from kubetune.api.data import FIELDS, Format
from kubetune_trainer.data import sides
from kubetune_trainer.data.fields import Fields, NoText, kind
from kubetune_trainer.data.hints import hint
from kubetune_trainer.data.read import Record
from kubetune_trainer.data.turns import Message as Message
from kubetune_trainer.data.turns import alike, messages_of, shared_turns, tools_of
from kubetune_trainer.errors import DataError


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns, the last one the assistant's. Rendered by the tokenizer's chat template."""

    messages: tuple[Message, ...]
    tools: str = ""
    """Functions that the assistant may call, for the template, as a JSON list. Empty: none."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and what follows it, both as they are, without any template."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Text:
    """A document without a prompt."""

    text: str


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to the same prompt, the first of which is the better one."""

    chosen: Conversation | Completion
    rejected: Conversation | Completion


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text, or a pair of texts, of some class."""

    text: str
    text_pair: str | None
    label: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is to answer by itself, and perhaps the right answer."""

    asked: str | tuple[Message, ...]
    """A text as it is, or messages for the chat template, the last one not the assistant's."""
    answer: str | None = None


Example = Conversation | Completion | Text | Preference | Labelled | Prompt


def to_example(
    record: Record, form: Format, text_field: str = "text", fields: Mapping[str, str] | None = None
) -> Example | None:
    """The example that a record holds; None where it lacks the text that its format is about, or nothing of
    it is to be trained on.

    Args:
        record: the record.
        form: its format.
        text_field: name of the text field in format text.
        fields: renamed fields: the format's name -> the record's own name.

    Raises:
        DataError: the record has not the shape of its format; names file and line.
    """
    names = ({"text": text_field} if form == "text" else {}) | dict(fields or {})
    with record.named():
        try:
            _check_said_beside(record.data, form, names)
            return _SHAPES[form](Fields(record.data, names))
        except NoText:
            return None
        except DataError as error:
            better = hint(record.data, form, partial(_fits, record.data))
            raise DataError(f"{error}; {better}" if better else str(error)) from error
        except RecursionError as error:
            raise DataError("is nested too deep: remove the record") from error


SAID_BESIDE = {
    "system": "write it as the first message, role system, of format messages",
    "history": "write its turns as messages, of format messages",
    "tools": "use format messages or sharegpt",
    "functions": "call the field tools, or name it by fields: {tools: functions}",
    "images": "only text is trained on",
    "videos": "only text is trained on",
    "audios": "only text is trained on",
    "chat_template_kwargs": "templates get data.enableThinking alone",
}
"""Fields of a record that other tools read as part of the conversation, and what to do with them here."""
CONVERSATIONS = ("alpaca", "dolly", "flan", "messages", "sharegpt")
"""Formats whose records the chat template writes as a whole."""
SPOKEN = (*CONVERSATIONS, "preference", "prompts", "prompt-completion")


def _check_said_beside(data: Mapping[str, object], form: str, names: Mapping[str, str]) -> None:
    """Refuse a field that belongs to a conversation but would be ignored. Other columns are no part of it."""
    if form not in SPOKEN:
        return
    known = {*FIELDS[cast("Format", form)], *names.values()}
    for name, remedy in SAID_BESIDE.items():
        if name in data and name not in known and data[name] not in (None, "", [], {}):
            raise DataError(
                f"field {name!r} is not read in format {form}: {remedy}; or remove it from the record"
            )


def _fits(data: Mapping[str, object], form: str, fields: Mapping[str, str]) -> bool:
    try:
        _SHAPES[form](Fields(data, fields))
    except (DataError, NoText, RecursionError):
        return False
    return True


def content_hash(example: Example) -> int:
    """64 bits of SHA-256 over the content: equal for equal examples in any source.

    The label of a labelled text and the answer to a prompt do not count.
    """
    return int.from_bytes(hashlib.sha256("\0".join(strings_of(example)).encode()).digest()[:8])


def strings_of(example: Example) -> list[str]:
    """All strings of an example, except its label or the answer to compare with."""
    match example:
        case Conversation(messages, tools):
            turns = [p for m in messages for p in (m.role, m.content, *_known(m.more), *_passed(m))]
            return [*turns, *_known(tools)]
        case Completion(prompt, completion):
            return [prompt, completion]
        case Text(text):
            return [text]
        case Preference(chosen, rejected):
            return [*strings_of(chosen), *strings_of(rejected)]
        case Labelled(text, pair):
            return [text] if pair is None else [text, pair]
        case Prompt(asked):
            return [asked] if isinstance(asked, str) else strings_of(Conversation(asked))


def _passed(message: Message) -> list[str]:
    return [] if message.trained else ["not trained on"]


def _known(text: str) -> list[str]:
    return [alike(text)] if text else []


def _text(fields: Fields) -> Example:
    return Text(fields.text("text", "text"))


def _alpaca(fields: Fields) -> Example:
    return _instruction(fields, "alpaca", extra="input", answer="output")


def _dolly(fields: Fields) -> Example:
    """databricks-dolly-15k."""
    return _instruction(fields, "dolly", extra="context", answer="response")


def _instruction(fields: Fields, form: str, extra: str, answer: str) -> Conversation:
    """An instruction, and perhaps input for it in a field of its own."""
    instruction, more = fields.string("instruction", form), fields.string(extra, form, optional=True)
    user = f"{instruction}\n\n{more}" if more else instruction
    return Conversation((Message("user", user), Message("assistant", fields.text(answer, form))))


def _flan(fields: Fields) -> Example:
    """The FLAN collection."""
    asked, answer = fields.string("inputs", "flan"), fields.text("targets", "flan")
    return Conversation((Message("user", asked), Message("assistant", answer)))


def _prompt_completion(fields: Fields) -> Example:
    form = "prompt-completion"
    return Completion(fields.string("prompt", form), fields.text("completion", form))


def _messages(fields: Fields) -> Example:
    entries = fields.filled("messages", "messages", '{"role": ..., "content": ...}')
    return _conversation(messages_of(entries, "message", chosen=True), tools_of(fields))


def _sharegpt(fields: Fields) -> Example:
    """Vicuna's export of ShareGPT."""
    return _conversation(shared_turns(fields, "sharegpt", chosen=True), tools_of(fields))


def _conversation(turns: list[Message], tools: str) -> Conversation:
    """The turns from the first question to the last answer that is trained on."""
    asked = next((i for i, m in enumerate(turns) if m.role == "user"), len(turns))
    if not any(m.role == "assistant" for m in turns[asked:]):
        raise DataError(
            "no message of the assistant answers the user, so there is nothing to learn: add one or "
            "remove the record"
        )
    while len(turns) > asked and not (turns[-1].role == "assistant" and turns[-1].trained):
        turns.pop()  # what no answer follows teaches nothing
    if not any(_says(m) for m in turns[asked:]):
        raise NoText
    # If the beginning of a conversation was cut off, the question to its first answers is unknown.
    opening = [m for m in turns[:asked] if m.role in ("system", "developer")]
    return Conversation((*opening, *turns[asked:]), tools)


def _says(message: Message) -> bool:
    """Whether there is something in a turn to learn from."""
    said = message.content.strip() or message.more
    return message.role == "assistant" and message.trained and bool(said)


def _preference(fields: Fields) -> Example:
    prompt, chosen, rejected = (fields.get(name) for name in ("prompt", "chosen", "rejected"))
    asked, better, worse = (fields.called(name) for name in ("prompt", "chosen", "rejected"))
    given = (type(chosen), type(rejected))
    if None in (chosen, rejected) and {better, worse} <= fields.data.keys():
        raise NoText
    if given == (str, str) and prompt is None:
        raise DataError(
            f"field {asked!r} is missing: move there what {better!r} and {worse!r} both begin with"
        )
    if given == (str, str) and isinstance(prompt, str):
        example = Preference(Completion(prompt, chosen), Completion(prompt, rejected))
    elif given == (list, list) and isinstance(prompt, list | str | None):
        example = _talks(sides.of_lists(fields, prompt), tools_of(fields))
    elif given == (dict, dict):
        example = _talks(sides.of_turns(fields), tools_of(fields))
    else:
        raise DataError(
            f'format preference needs "{asked}", "{better}" and "{worse}", all of them strings or all of '
            "them lists of messages; to lists the prompt may also be a string, or what both begin with; or "
            f'"{fields.called("conversations")}" and two objects {{"from": ..., "value": ...}}'
        )
    if example.chosen == example.rejected:
        raise DataError(f"{better!r} and {worse!r} are equal: nothing is preferred; remove the record")
    return example


def _talks(found: sides.Sides, tools: str) -> Preference:
    return Preference(*(Conversation(tuple(turns), tools) for turns in found))


def _classification(fields: Fields) -> Example:
    form = "classification"
    text = fields.text("text", form)
    pair = fields.string("text_pair", form) if fields.get("text_pair") is not None else None
    label = fields.get("label")
    if isinstance(label, float) and label.is_integer():
        label = int(label)  # pandas writes integers as floats once one is missing
    if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
        problem = "is missing" if label is None else "is empty" if label == "" else f"is {label!r}"
        raise DataError(
            f"field {fields.called('label')!r} {problem}; format {form} needs it to be a string or an integer"
        )
    return Labelled(text, pair, str(label))


def _prompts(fields: Fields) -> Example:
    own = fields.called("prompt")
    asked, answer = fields.get("prompt"), _right(fields)
    if isinstance(asked, str) and asked.strip():
        return Prompt(asked, answer)
    if isinstance(asked, list) and asked:
        turns = messages_of(asked, f"message of {own!r}")
        if turns[-1].role == "assistant":
            raise DataError(f"{own!r} ends with the assistant's words: remove them, the model is to answer")
        return Prompt(tuple(turns), answer)
    if own in fields.data and (asked in (None, []) or isinstance(asked, str)):
        raise NoText
    raise DataError(f"format prompts needs {own!r}, a string or a list of messages that is not empty")


def _right(fields: Fields) -> str | None:
    """The right answer to a prompt; a number is written as in JSON."""
    answer = fields.get("answer")
    if answer is None or isinstance(answer, str):
        return answer
    if isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer):
        return json.dumps(answer)
    problem = answer if isinstance(answer, float) else kind(answer)
    raise DataError(
        f"field {fields.called('answer')!r} is {problem}; format prompts needs it to be a string or a number"
    )


_SHAPES: dict[str, Callable[[Fields], Example | None]] = {
    "alpaca": _alpaca,
    "classification": _classification,
    "dolly": _dolly,
    "flan": _flan,
    "messages": _messages,
    "preference": _preference,
    "prompts": _prompts,
    "sharegpt": _sharegpt,
    "text": _text,
    "prompt-completion": _prompt_completion,
}
