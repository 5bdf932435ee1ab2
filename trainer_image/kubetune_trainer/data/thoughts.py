"""Tells the answer of a model from the thoughts before it."""

from bisect import bisect_left
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

PAIRS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("◁think▷", "◁/think▷"),
)
"""What begins and what ends a thought, as models write it. vLLM's reasoning parsers know the same marks."""


TAIL = 32
"""Tokens at the end of a prompt in which the beginning of a thought is looked for."""


def answer_in(text: str) -> str:
    """A text that somebody wrote, such as the right answer of a record, without the thought before it."""
    for _, end in PAIRS:
        text = text.rpartition(end)[2]
    return text.strip()


class Thoughts:
    """The marks of thoughts that a base knows, from its chat template and its tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """A pair counts if the template writes its end or the vocabulary has tokens for both."""
        template = tokenizer.chat_template
        written = template if isinstance(template, str) else " ".join((template or {}).values())
        known = tokenizer.get_added_vocab()
        self._tokenizer = tokenizer
        self._pairs = [(b, e) for b, e in PAIRS if e in written or (b in known and e in known)]

    @property
    def end(self) -> int | str | None:
        """What ends a thought: the id of its token if it has one, else its text; None: the base knows none.

        The id also finds a special token, which decoded text does not show.
        """
        if not self._pairs:
            return None
        text = self._pairs[0][1]
        token: int | str = self._tokenizer.get_added_vocab().get(text, text)
        return token

    def answer(self, prompt: Sequence[int], said: Sequence[int]) -> str | None:
        """The part of an answer that is meant for its reader, without special tokens; None if the thought
        before it does not end.

        Args:
            prompt: tokens that were answered; they may begin the thought.
            said: the answer's tokens.
        """
        left = ""
        for begin, end in self._pairs:
            whole = self._decoded(said)
            if (times := whole.count(end)) > 0:
                ahead = self._first(said, end, times)
                left = self._decoded(said[:ahead]).rpartition(end)[2]
                said = said[ahead:]
            elif begin in whole or self._decoded(prompt[-TAIL:]).rstrip().endswith(begin):
                return None
        return (left + self._decoded(said, special=False)).strip()

    def _first(self, said: Sequence[int], end: str, times: int) -> int:
        """Number of tokens after which the text `end` has occurred `times` times."""
        return bisect_left(range(len(said)), times, key=lambda n: self._decoded(said[:n]).count(end))

    def _decoded(self, tokens: Sequence[int], *, special: bool = True) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=not special, clean_up_tokenization_spaces=False
        )
        return text
