"""Special tokens that are written out in a text.

In every stage they are read as those tokens, as an engine reads them in a prompt: so a text that a chat
template wrote beforehand is read as the model knows it. A warning says so, as users may not expect it.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from kubetune.api.runspec import RunSource
from kubetune.api.warnings import WarningReason
from kubetune_trainer.data.formats import Example, strings_of
from kubetune_trainer.data.read import Record
from kubetune_trainer.warned import warn

Read = tuple[Record, Example, int]


def noticed(found: Iterable[Read], tokenizer: PreTrainedTokenizerBase, source: RunSource) -> Iterator[Read]:
    """The examples of a source; warns at the end if some hold special tokens."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    pattern = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")
    count, first, token = 0, "", ""
    for record, example, number in found:
        hit = next((m for text in strings_of(example) if (m := pattern.search(text))), None)
        if hit:
            count += 1
            first, token = first or record.where, token or hit[0]
        yield record, example, number
    if count:
        warn(
            WarningReason.SPECIAL_TOKENS_IN_TEXT,
            f"source {source.name}: {count:,} records hold special tokens of the tokenizer, the first "
            f"{token} at {first}: they are read as these tokens. If a chat template wrote them, give the "
            "conversations themselves in format messages; if they are mere text, remove them",
        )


def begun_twice(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether tokens begin with the begin token twice: the tokenizer adds it, and the text has it already."""
    begin = tokenizer.bos_token_id
    return begin is not None and list(tokens[:2]) == [begin, begin]
