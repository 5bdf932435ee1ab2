"""What a model thought before it answered: which words of it are the answer."""

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
"""What begins and what ends a thought, as models write it (vLLM's reasoning parsers know the same)."""


TAIL = 32
"""Tokens of a prompt in which the beginning of a thought may be."""


def answer_in(text: str) -> str:
    """A text that somebody wrote, such as the right answer of a record, without the thought before it."""
    for _, end in PAIRS:
        text = text.rpartition(end)[2]
    return text.strip()


class Thoughts:
    """The marks of thoughts that a base knows, from its chat template and its tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """A pair counts if the template writes its end or the vocabulary has a token for it."""
        template = tokenizer.chat_template
        written = template if isinstance(template, str) else " ".join((template or {}).values())
        known = tokenizer.get_added_vocab()
        self._tokenizer = tokenizer
        self._pairs = [(b, e) for b, e in PAIRS if e in written or (b in known and e in known)]

    @property
    def end(self) -> int | str | None:
        """What ends a thought: the number of the token that does, else the text; None: the base knows none.
        By its number it is found though it be a special token, which is not written."""
        if not self._pairs:
            return None
        text = self._pairs[0][1]
        token: int | str = self._tokenizer.get_added_vocab().get(text, text)
        return token

    def answer(self, prompt: Sequence[int], said: Sequence[int]) -> str | None:
        """What of an answer is meant for whoever asked, without special tokens; None where the thought before
        it does not end.

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
        """How many tokens it takes until a text has occurred that often."""
        return bisect_left(range(len(said)), times, key=lambda n: self._decoded(said[:n]).count(end))

    def _decoded(self, tokens: Sequence[int], *, special: bool = True) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=not special, clean_up_tokenization_spaces=False
        )
        return text
