"""Checks that generation stops where the chat template ends an answer.

Many bases have a template that ends turns with one token (<|im_end|>), but stop generating at another
(<|endoftext|>). A model that is trained on such turns says the first token and goes on.
"""

from collections.abc import Iterable

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kubetune.api.warnings import WarningReason
from kubetune_trainer.data.encode import chat
from kubetune_trainer.data.formats import CONVERSATIONS, Conversation, Message
from kubetune_trainer.errors import DataError
from kubetune_trainer.model.counting import end_tokens
from kubetune_trainer.warned import warn

_ANSWER = "Nothing else."


def tell(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, formats: Iterable[str]) -> None:
    """Warn if nothing that the chat template writes after an answer ends the generation."""
    if not {*CONVERSATIONS} & {*formats}:
        return
    turns = (Message("user", "What else?"), Message("assistant", _ANSWER))
    try:
        written = chat(Conversation(turns), len(turns), tokenizer)
    except DataError:  # the template wants other turns; the data will show which
        return
    after = written.rpartition(_ANSWER)[2]
    tokens = {*tokenizer(after, add_special_tokens=False)["input_ids"]}
    if not tokens & {*end_tokens(model, tokenizer)}:
        warn(
            WarningReason.ANSWERS_DO_NOT_END,
            f"the chat template ends an answer with {after!r}, in which no token ends the generation, as "
            f"eos_token {tokenizer.eos_token!r} does: an engine goes on after the answer. Add the token to "
            "eos_token_id in the base's generation_config.json",
        )
