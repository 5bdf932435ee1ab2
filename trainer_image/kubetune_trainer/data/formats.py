"""The shapes of a record, each a function to one of a few kinds of example. A new format is one more
function."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from kubetune.api.data import Format
from kubetune_trainer.data.read import Record

ROLES = ("system", "user", "assistant")
_SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
"""ShareGPT's names of the roles."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns, the last one the assistant's. Rendered by the tokenizer's chat template."""

    messages: tuple[Message, ...]


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


def to_example(record: Record, form: Format, text_field: str = "text") -> Example | None:
    """The example that a record holds; None for an empty text.

    Raises:
        DataError: the record has not the shape of its format; names file and line.
    """
    if form == "text":
        text = _string(record, text_field, form)
        return Text(text) if text.strip() else None
    return _SHAPES[form](record)


def content_hash(example: Example) -> int:
    """64 bits of SHA-256 over the content: equal for equal examples, whatever source they are in; of a
    labelled text, whatever its label; of a prompt, whatever its answer."""
    return int.from_bytes(hashlib.sha256("\0".join(_parts(example)).encode()).digest()[:8])


def _parts(example: Example) -> list[str]:
    match example:
        case Conversation(messages):
            return [part for m in messages for part in (m.role, m.content)]
        case Completion(prompt, completion):
            return [prompt, completion]
        case Text(text):
            return [text]
        case Preference(chosen, rejected):
            return [*_parts(chosen), *_parts(rejected)]
        case Labelled(text, pair):
            return [text] if pair is None else [text, pair]
        case Prompt(asked):
            return [asked] if isinstance(asked, str) else _parts(Conversation(asked))


def _alpaca(record: Record) -> Example:
    return _instruction(record, "alpaca", extra="input", answer="output")


def _dolly(record: Record) -> Example:
    """databricks-dolly-15k."""
    return _instruction(record, "dolly", extra="context", answer="response")


def _instruction(record: Record, form: str, extra: str, answer: str) -> Conversation:
    """What to do, perhaps with something to do it on, in a field of its own."""
    instruction, more = _string(record, "instruction", form), _string(record, extra, form, optional=True)
    user = f"{instruction}\n\n{more}" if more else instruction
    return Conversation((Message("user", user), Message("assistant", _string(record, answer, form))))


def _messages(record: Record) -> Example:
    entries = record.data.get("messages")
    if not isinstance(entries, list) or not entries:
        raise record.error('format messages needs "messages": [{"role": ..., "content": ...}, ...]')
    return _conversation(record, _turns(record, entries, "message"))


def _conversation(record: Record, turns: list[Message]) -> Conversation:
    """The turns up to the last answer."""
    while turns and turns[-1].role != "assistant":
        turns.pop()  # nothing is learned from what no answer follows
    if not turns:
        raise record.error("there is no message of the assistant to learn from: add one or remove the record")
    return Conversation(tuple(turns))


def _turns(record: Record, entries: list[object], what: str) -> list[Message]:
    turns = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise record.error(f"{what} {number} must be an object with role and content, content a string")
        if entry.get("role") not in ROLES:
            raise record.error(f"{what} {number} has role {entry.get('role')!r}: use {', '.join(ROLES)}")
        turns.append(Message(entry["role"], entry["content"]))
    return turns


def _preference(record: Record) -> Example:
    fields = [record.data.get(name) for name in ("prompt", "chosen", "rejected")]
    if all(isinstance(value, str) for value in fields):
        prompt, chosen, rejected = (str(value) for value in fields)
        example = Preference(Completion(prompt, chosen), Completion(prompt, rejected))
    elif all(isinstance(value, list) for value in fields):
        asked = _turns(record, record.data["prompt"], "message of 'prompt'")
        sides = []
        for name in ("chosen", "rejected"):
            said = _turns(record, record.data[name], f"message of {name!r}")
            if [m.role for m in said] != ["assistant"]:
                raise record.error(f"{name!r} must be one message of the assistant")
            sides.append(Conversation((*asked, *said)))
        example = Preference(*sides)
    else:
        raise record.error(
            'format preference needs "prompt", "chosen" and "rejected", all of them strings or all of them '
            "lists of messages"
        )
    if example.chosen == example.rejected:
        raise record.error("'chosen' and 'rejected' are equal: nothing is preferred; remove the record")
    return example


def _flan(record: Record) -> Example:
    """The FLAN collection."""
    asked, answer = _string(record, "inputs", "flan"), _string(record, "targets", "flan")
    return Conversation((Message("user", asked), Message("assistant", answer)))


def _sharegpt(record: Record) -> Example:
    """Vicuna's export of ShareGPT."""
    entries = record.data.get("conversations")
    if not isinstance(entries, list) or not entries:
        raise record.error('format sharegpt needs "conversations": [{"from": ..., "value": ...}, ...]')
    turns: list[Message] = []
    if system := _string(record, "system", "sharegpt", optional=True):
        turns.append(Message("system", system))
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("value"), str):
            raise record.error(f"turn {number} must be an object with from and value, value a string")
        speaker = entry.get("from")
        if not isinstance(speaker, str) or speaker not in _SPEAKERS:
            raise record.error(f"turn {number} is from {speaker!r}: use {', '.join(_SPEAKERS)}")
        turns.append(Message(_SPEAKERS[speaker], entry["value"]))
    return _conversation(record, turns)


def _prompt_completion(record: Record) -> Example:
    form = "prompt-completion"
    return Completion(_string(record, "prompt", form), _string(record, "completion", form))


def _classification(record: Record) -> Example:
    form = "classification"
    text = _string(record, "text", form)
    pair = _string(record, "text_pair", form) if record.data.get("text_pair") is not None else None
    if not text.strip():
        raise record.error("field 'text' is empty: there is nothing to classify; remove the record")
    label = record.data.get("label")
    if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
        problem = "is missing" if label is None else "is empty" if label == "" else f"is {label!r}"
        raise record.error(f"field 'label' {problem}; format {form} needs it to be a string or an integer")
    return Labelled(text, pair, str(label))


def _prompts(record: Record) -> Example:
    asked, answer = record.data.get("prompt"), record.data.get("answer")
    if not (answer is None or isinstance(answer, str)):
        raise record.error(f"field 'answer' is a {type(answer).__name__}; format prompts needs a string")
    if isinstance(asked, str) and asked.strip():
        return Prompt(asked, answer)
    if isinstance(asked, list) and asked:
        turns = _turns(record, asked, "message of 'prompt'")
        if turns[-1].role == "assistant":
            raise record.error(
                "'prompt' ends with the assistant's words: remove them, the model is to answer"
            )
        return Prompt(tuple(turns), answer)
    raise record.error("format prompts needs 'prompt', a string or a list of messages that is not empty")


def _string(record: Record, field: str, form: str, *, optional: bool = False) -> str:
    value = record.data.get(field)
    if value is None and optional:
        return ""
    if not isinstance(value, str):
        problem = "is missing" if value is None else f"is a {type(value).__name__}"
        raise record.error(f"field {field!r} {problem}; format {form} needs it to be a string")
    return value


_SHAPES: dict[str, Callable[[Record], Example]] = {
    "alpaca": _alpaca,
    "classification": _classification,
    "dolly": _dolly,
    "flan": _flan,
    "messages": _messages,
    "preference": _preference,
    "prompts": _prompts,
    "sharegpt": _sharegpt,
    "prompt-completion": _prompt_completion,
}
