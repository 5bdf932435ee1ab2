"""Prompts as tokens, for the stages in which the model answers by itself."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from kubetune_trainer.data.encode import chat, check_shown, prompt_tokens
from kubetune_trainer.data.formats import Completion, Conversation, Message, Prompt
from kubetune_trainer.data.read import Record


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    """A prompt and the tokens that the model continues."""

    prompt: Prompt
    tokens: tuple[int, ...]
    cut: bool = False
    """Whether its beginning was cut off."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def targets(self) -> int:
        """0: nothing is learned from a prompt itself."""
        return 0

    def idle(self) -> "AskedPrompt":
        """The same: it has nothing to learn from."""
        return self


def ask(prompt: Prompt, place: Record, tokenizer: PreTrainedTokenizerBase, length: int) -> AskedPrompt:
    """Tokenise a prompt as serving does.

    Args:
        prompt: the prompt.
        place: the record that it comes from.
        tokenizer: of the model.
        length: most tokens; of a longer prompt, the end is kept.

    Raises:
        DataError: the chat template refuses the messages, or does not show all of them.
    """
    if isinstance(prompt.asked, str):
        tokens = prompt_tokens(prompt.asked, True, tokenizer)
    else:
        with place.named():
            asked = Conversation(prompt.asked)
            check_shown(asked, tokenizer)
            text = chat(asked, len(prompt.asked), tokenizer, answer=True)
        tokens = prompt_tokens(text, False, tokenizer)
    return AskedPrompt(prompt, tuple(tokens[-length:]), len(tokens) > length)


def answered(prompt: Prompt, answer: str) -> Completion | Conversation:
    """Prompt and answer as one example, for a judge of both."""
    if isinstance(prompt.asked, str):
        return Completion(prompt.asked, answer)
    return Conversation((*prompt.asked, Message("assistant", answer)))
