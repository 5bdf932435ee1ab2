"""Examples to tokens, and which of them are trained on: the assistant's, or what follows the prompt."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice, pairwise

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from kubetune_trainer.data.formats import (
    Completion,
    Conversation,
    Example,
    Labelled,
    Preference,
    Prompt,
    Text,
)
from kubetune_trainer.errors import DataError

BATCH = 1024


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


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example as tokens."""

    tokens: NDArray[np.int32]
    trained: NDArray[np.bool_]
    """Whether the model is to say the token, [tokens]."""


@dataclass(frozen=True, slots=True)
class Question:
    """An example as a task: what is asked and what the answer should be."""

    prompt: str
    special: bool
    answer: str


def render(example: Example, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """The text of an example.

    Raises:
        DataError: the chat template refuses the conversation.
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
        case Conversation(messages):
            whole = chat(example, len(messages), tokenizer)
            spans = []
            for i, message in enumerate(messages):
                if message.role == "assistant":
                    before = chat(example, i, tokenizer, answer=True)
                    after = chat(example, i + 1, tokenizer)
                    if not (whole.startswith(after) and after.startswith(before)):
                        raise DataError(
                            "the base model's chat template rewrites earlier turns when one is added, so the "
                            "assistant's words cannot be told apart: use the format prompt-completion"
                        )
                    spans.append((len(before), len(after)))
            return Rendered(whole, tuple(spans), special=False, end=False)


def question(example: Example, tokenizer: PreTrainedTokenizerBase) -> Question | None:
    """The example's last turn as a task; None for a text, which asks nothing."""
    match example:
        case Text() | Preference() | Labelled() | Prompt():
            return None
        case Completion(prompt, completion):
            return Question(prompt, True, completion)
        case Conversation(messages):
            return Question(
                chat(example, len(messages) - 1, tokenizer, answer=True), False, messages[-1].content
            )


def encode(
    rendered: Iterable[Rendered], tokenizer: PreTrainedTokenizerBase, *, prompt_loss: bool = False
) -> Iterator[Encoded]:
    """Tokenise texts. A token is trained on if it starts inside a span; with prompt_loss every one is."""
    for special, run in groupby(rendered, key=lambda r: r.special):
        while batch := list(islice(run, BATCH)):
            found = tokenizer(
                [r.text for r in batch],
                add_special_tokens=special,
                return_offsets_mapping=True,
                return_attention_mask=False,
            )
            for r, ids, offsets in zip(batch, found["input_ids"], found["offset_mapping"], strict=True):
                if any(low < edge < high for edge, _ in r.spans for low, high in offsets):
                    ids, offsets = _apart(r, tokenizer)
                yield _marked(r, ids, offsets, tokenizer.eos_token_id, prompt_loss)


def _apart(r: Rendered, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids and offsets when a token would lie across the edge of prompt and answer: each part by itself,
    as in serving, where the prompt is given and the answer comes token by token."""
    edges = [0, *(low for low, _ in r.spans if low), len(r.text)]
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    for start, end in pairwise(edges):
        found = tokenizer(
            r.text[start:end], add_special_tokens=r.special and not ids, return_offsets_mapping=True
        )
        if end < len(r.text) and found["input_ids"][-1:] == [tokenizer.eos_token_id]:
            found = {name: values[:-1] for name, values in found.items()}  # the prompt does not end the text
        ids += found["input_ids"]
        offsets += [(low + start, high + start) for low, high in found["offset_mapping"]]
    return ids, offsets


def _marked(
    r: Rendered, ids: list[int], offsets: list[tuple[int, int]], end: int, prompt_loss: bool
) -> Encoded:
    starts = np.array([low for low, _ in offsets], dtype=np.int64)
    trained = np.full(len(ids), prompt_loss)
    for low, high in r.spans:
        trained |= (starts >= low) & (starts < high)
    if r.end:
        if not ids or ids[-1] != end:
            ids, trained = [*ids, end], np.append(trained, True)
        trained[-1] = True
    return Encoded(np.array(ids, dtype=np.int32), trained)


def chat(
    example: Conversation, count: int, tokenizer: PreTrainedTokenizerBase, *, answer: bool = False
) -> str:
    """The first `count` turns by the chat template; with answer, up to where the assistant's words begin.

    Raises:
        DataError: the template refuses them.
    """
    turns = [{"role": m.role, "content": m.content} for m in example.messages[:count]]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer)
    except TemplateError as error:
        raise DataError(f"the base model's chat template refuses the conversation: {error}") from error
    return str(text)
