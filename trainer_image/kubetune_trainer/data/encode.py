"""Examples as tokens, and which tokens are trained on: the assistant's, or those after the prompt."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from kubetune_trainer.data import shown
from kubetune_trainer.data.formats import (
    Completion,
    Conversation,
    Example,
    Labelled,
    Preference,
    Prompt,
    Text,
)
from kubetune_trainer.data.special_tokens import begun_twice
from kubetune_trainer.data.thoughts import answer_in
from kubetune_trainer.errors import DataError, known
from kubetune_trainer.patience import cpu_time

BATCH = 1024
TEMPLATE_SECONDS = 10.0
"""CPU time, in seconds, that a chat template may take for a conversation; usual is a millisecond."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """An example as text."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """What the model is to say: character ranges of the text."""
    special: bool
    """Whether the tokenizer adds its own special tokens; a chat template writes them itself."""
    end: bool
    """Whether the end token is still to be added."""
    passed: tuple[tuple[int, int], ...] = ()
    """Ranges of the assistant's messages that are not trained on, even if prompts are."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example as tokens."""

    tokens: NDArray[np.int32]
    trained: NDArray[np.bool_]
    """Whether each token is trained on, [tokens]."""


@dataclass(frozen=True, slots=True)
class Question:
    """An example as a task: what is asked and what the answer should be."""

    prompt: str
    special: bool
    answer: str


def examples_of(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[tuple[Example, Rendered]]:
    """An example as text to learn from.

    Some chat templates write an earlier turn differently once another follows, for example without its
    thoughts. Then each answer of a conversation is an example of its own, with the text that the model sees
    when it gives that answer.

    Raises:
        DataError: see `render`.
    """
    if not isinstance(example, Conversation):
        return [(example, render(example, tokenizer))]
    check_shown(example, tokenizer)
    if (whole := _all_answers(example, tokenizer)) is not None:
        return [(example, whole)]
    ends = [i for i, m in enumerate(example.messages, 1) if m.role == "assistant" and m.trained]
    parts = [Conversation(example.messages[:end], example.tools) for end in ends]
    return [(part, _last_answer(part, tokenizer)) for part in parts]


def check_shown(example: Conversation, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the chat template writes all of a conversation.

    Raises:
        DataError: it leaves something out, or refuses the conversation.
    """
    shown.check(*_given(example), partial(_by_template, tokenizer))


def render(example: Example, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """The text of an example. Of a conversation only the last answer is trained on.

    Raises:
        DataError: the chat template refuses the conversation, or an answer in it begins differently from the
            opening that the template writes to ask for one.
    """
    match example:
        case Preference():
            raise DataError("format preference goes with stages dpo and reward: choose another format")
        case Labelled():
            raise DataError("format classification goes with stage classification: choose another format")
        case Prompt():
            raise DataError("format prompts goes with stages ppo and grpo: choose another format")
        case Text(text):
            return Rendered(text, ((0, len(text)),), special=True, end=True)
        case Completion(prompt, completion):
            text = prompt + completion
            return Rendered(text, ((len(prompt), len(text)),), special=True, end=True)
        case Conversation():
            check_shown(example, tokenizer)
            return _last_answer(example, tokenizer)


def unchecked(example: Conversation | Completion, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """As `render`, without the check that the chat template leaves nothing out."""
    if isinstance(example, Conversation):
        return _last_answer(example, tokenizer)
    return render(example, tokenizer)


def _last_answer(example: Conversation, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    before = chat(example, len(example.messages) - 1, tokenizer, answer=True)
    whole = chat(example, len(example.messages), tokenizer)
    if not whole.startswith(before):
        raise DataError(
            f"the base model's chat template opens an answer with {before[-40:]!r}, but writes one "
            "differently: give prompt and answer as strings, exactly as the model reads and writes them "
            "(format prompt-completion, or strings in format preference)"
        )
    return Rendered(whole, ((len(before), len(whole)),), special=False, end=False)


def _all_answers(example: Conversation, tokenizer: PreTrainedTokenizerBase) -> Rendered | None:
    """A conversation with every answer in its place; None where later turns change earlier ones."""
    count = len(example.messages)
    whole = chat(example, count, tokenizer)
    spans: list[tuple[int, int]] = []
    passed: list[tuple[int, int]] = []
    for i, message in enumerate(example.messages):
        if message.role == "assistant":
            before = chat(example, i, tokenizer, answer=True)
            after = whole if i + 1 == count else chat(example, i + 1, tokenizer)
            if not (whole.startswith(after) and after.startswith(before)):
                return None
            (spans if message.trained else passed).append((len(before), len(after)))
    return Rendered(whole, tuple(spans), special=False, end=False, passed=tuple(passed))


def question(example: Example, tokenizer: PreTrainedTokenizerBase) -> Question | None:
    """The example's last turn as a task. None if it asks nothing, as a text, or only calls a tool."""
    match example:
        case Text() | Preference() | Labelled() | Prompt():
            return None
        case Completion(prompt, completion):
            return Question(prompt, True, completion)
        case Conversation(messages) if messages[-1].more and not messages[-1].content:
            return None
        case Conversation(messages):
            asked = chat(example, len(messages) - 1, tokenizer, answer=True)
            return Question(asked, False, answer_in(messages[-1].content))


def encode(
    rendered: Iterable[Rendered], tokenizer: PreTrainedTokenizerBase, *, prompt_loss: bool = False
) -> Iterator[Encoded]:
    """Tokenise texts.

    A token is trained on if it starts inside a span; with prompt_loss, if it starts outside `passed`.
    An added end token is always trained on.
    """
    for special, run in groupby(rendered, key=lambda r: r.special):
        while batch := list(islice(run, BATCH)):
            found = _tokens([r.text for r in batch], tokenizer, special)
            for r, ids, offsets in zip(batch, found["input_ids"], found["offset_mapping"], strict=True):
                places = _places(offsets)
                if r.special and begun_twice(ids, tokenizer):
                    ids, places = ids[1:], places[1:]
                if any(low < edge < high for edge, _ in (*r.spans, *r.passed) for low, high in places):
                    ids, places = _apart(r, tokenizer)
                yield _marked(r, ids, places, tokenizer.eos_token_id, prompt_loss)


def _tokens(text: str | list[str], tokenizer: PreTrainedTokenizerBase, special: bool) -> dict[str, Any]:
    try:
        return dict(
            tokenizer(
                text,
                add_special_tokens=special,
                return_offsets_mapping=True,
                return_attention_mask=False,
            )
        )
    except Exception as error:  # whatever the tokenizer's library raises
        if known(error):
            raise
        raise DataError(
            f"the base model's tokenizer cannot read the texts ({error}): put a tokenizer there that knows "
            "every character, or has an unk_token"
        ) from error


def _places(offsets: Sequence[tuple[int, int]], begin: int = 0) -> list[tuple[int, int]]:
    """The range of the text that each token stands for.

    Some tokenizers leave a token's leading space out of its offsets. Here the range includes it.
    """
    places = []
    reached = begin
    for low, high in offsets:
        places.append((min(low, reached), high))
        reached = max(reached, high)
    return places


def _apart(r: Rendered, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids and their ranges, if a token would lie across the border of prompt and answer.

    Each part is tokenised by itself, as in serving: there the prompt is given and the answer comes token by
    token.
    """
    edges = [0, *sorted(low for low, _ in (*r.spans, *r.passed) if low), len(r.text)]
    ids: list[int] = []
    places: list[tuple[int, int]] = []
    for start, end in pairwise(edges):
        found = _tokens(r.text[start:end], tokenizer, r.special and not ids)
        part = found["input_ids"]
        part = unended(part, tokenizer) if end < len(r.text) else part
        skip = int(r.special and not ids and begun_twice(part, tokenizer))
        ids += part[skip:]
        offsets = found["offset_mapping"][skip : len(part)]
        places += _places([(low + start, high + start) for low, high in offsets], start)
    return ids, places


def prompt_tokens(text: str, special: bool, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of a prompt, which the model continues; at least one.

    Args:
        text: the prompt.
        special: whether the tokenizer adds its own special tokens.
        tokenizer: of the model.
    """
    tokens = list(tokenizer(text, add_special_tokens=special)["input_ids"])
    if special:
        tokens = unended(tokens, tokenizer)[int(begun_twice(tokens, tokenizer)) :]
    return tokens or [tokenizer.eos_token_id]


def unended(tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Without the end token that some tokenizers add: a prompt does not end the text."""
    return tokens[:-1] if tokens[-1:] == [tokenizer.eos_token_id] else tokens


def _marked(
    r: Rendered, ids: list[int], places: list[tuple[int, int]], end: int, prompt_loss: bool
) -> Encoded:
    starts = np.array([low for low, _ in places], dtype=np.int64)
    trained = np.full(len(ids), prompt_loss)
    for low, high in r.spans:
        trained |= (starts >= low) & (starts < high)
    for low, high in r.passed:
        trained &= (starts < low) | (starts >= high)
    if r.end:
        if not ids or ids[-1] != end:
            ids, trained = [*ids, end], np.append(trained, True)
        trained[-1] = True
    return Encoded(np.array(ids, dtype=np.int32), trained)


def chat(
    example: Conversation, count: int, tokenizer: PreTrainedTokenizerBase, *, answer: bool = False
) -> str:
    """The first `count` turns as the chat template writes them; with `answer`, it also opens the next answer.

    Raises:
        DataError: the template refuses them.
    """
    turns, tools = _given(example)
    return _by_template(tokenizer, turns[:count], tools, answer=answer)


def _given(example: Conversation) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Turns and tools as a chat template gets them."""
    turns = [
        {"role": m.role, "content": m.content} | (json.loads(m.more) if m.more else {})
        for m in example.messages
    ]
    return turns, json.loads(example.tools) if example.tools else None


def _by_template(
    tokenizer: PreTrainedTokenizerBase,
    turns: list[dict[str, Any]],
    tools: list[Any] | None,
    *,
    answer: bool = False,
) -> str:
    try:
        with cpu_time(TEMPLATE_SECONDS):
            text = tokenizer.apply_chat_template(
                turns, tools=tools, tokenize=False, add_generation_prompt=answer,
                **getattr(tokenizer, "template_settings", {}),
            )  # fmt: skip
    except Exception as error:  # a template is a program and may raise anything
        if known(error):
            raise
        raise DataError(f"the base model's chat template refuses the conversation: {error}") from error
    return str(text)
