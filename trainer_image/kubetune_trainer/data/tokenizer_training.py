"""A byte-level BPE tokenizer trained on the corpus, and the plain-text chat template that goes with it."""

from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kubetune_trainer.data import faithful
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.reading import of_the_file

END = "<|endoftext|>"
"""Ends every document in pretraining, so it is a trained token, and every answer afterwards. There is no
begin token: a prompt starts at position 0 in training and in serving."""
PAD = "<|pad|>"
"""Never trained on and never seen by attention."""
MASKED = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
"""Special tokens of a masked language model, ids 0 to 3: BERT's without [UNK], which bytes do not need."""
CORPUS_CHARACTERS = 100_000_000
"""Most characters that a tokenizer is trained on; more changes little and takes long."""

# Plain text only: a base model has seen such words, while new special tokens would be untrained. The text of
# some turns is a prefix of the text with one more, so the assistant's tokens are known exactly.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{- message['content'] + '\\n\\n' -}}
{%- elif message['role'] == 'user' -%}
{{- '### Instruction:\\n' + message['content'] + '\\n\\n' -}}
{%- elif message['role'] == 'assistant' -%}
{{- '### Response:\\n' + message['content'] + eos_token -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '### Response:\\n' -}}
{%- endif -%}
"""


def train(
    texts: Iterator[str], vocabulary: int, *, masked: bool = False, config: dict[str, Any] | None = None
) -> PreTrainedTokenizerBase:
    """Train on texts. The same texts give the same tokenizer.

    Args:
        texts: the corpus, in the proportions wanted.
        vocabulary: number of tokens at most, special ones and 256 bytes included; a small corpus gives fewer.
        masked: for a masked language model instead of a causal one.
        config: of the model. For its type transformers may read the tokenizer with steps of its own, so it is
            trained with those.

    Raises:
        InvalidSpec: beside this config, transformers reads texts differently from the trained tokenizer.
    """
    specials = list(MASKED.values()) if masked else [END, PAD]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator([], trainers.BpeTrainer(
        special_tokens=specials, initial_alphabet=letters, show_progress=False
    ))  # fmt: skip
    steps = _read_beside(wrap(bpe), config)[0].backend_tokenizer
    bpe.normalizer, bpe.pre_tokenizer, bpe.decoder = steps.normalizer, steps.pre_tokenizer, steps.decoder
    bpe.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=specials, initial_alphabet=letters, show_progress=False
    ))  # fmt: skip
    trained = wrap(bpe)
    read, text = _read_beside(trained, config)
    if text is not None or read.eos_token != trained.eos_token:
        raise InvalidSpec(
            f"transformers reads the tokenizer of a {(config or {}).get('model_type')} model as a "
            f"{type(read).__name__}, which makes other tokens of a text than are trained on: choose another "
            "model_type in model.config"
        )
    return trained


def _read_beside(
    tokenizer: PreTrainedTokenizerBase, config: dict[str, Any] | None
) -> tuple[PreTrainedTokenizerBase, str | None]:
    """See `faithful.read_beside`. The tokenizer itself if there is no config, or none that can be read: that
    error comes when the model is made of it."""
    if config is not None:
        try:
            return faithful.read_beside(tokenizer, config)
        except Exception as error:
            if not of_the_file(error):
                raise
    return tokenizer, None


def wrap(bpe: Tokenizer) -> PreTrainedTokenizerBase:
    """A trained tokenizer as transformers and vLLM load it."""
    if bpe.token_to_id(END) is None:
        first, last = MASKED["cls_token"], MASKED["sep_token"]
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B {last}",
            special_tokens=[(token, bpe.token_to_id(token)) for token in (first, last)],
        )
        return PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False, **MASKED)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token=PAD, chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
