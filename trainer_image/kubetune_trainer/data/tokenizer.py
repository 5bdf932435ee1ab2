"""A byte-level BPE tokenizer trained on the corpus, and the plain-text chat template that goes with it; or
the tokenizer of a base model."""

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kubetune_trainer.errors import InvalidSpec

END = "<|endoftext|>"
"""Ends every document in pretraining, so it is a trained token, and every answer afterwards. There is no
token for the beginning: a prompt starts at position 0 in training as in serving."""
PAD = "<|pad|>"
"""Never trained on and never seen by attention."""
MASKED = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
"""Special tokens of a masked language model, ids 0 to 3: BERT's, but [UNK], which bytes make needless."""
CORPUS_CHARACTERS = 100_000_000
"""As much text as a tokenizer is trained on; more changes little and takes long."""

# Plain text only: a base model has seen such words, while new special tokens would be untrained. Every turn's
# text is a prefix of the next one's, so the assistant's tokens are known exactly.
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


def train(texts: Iterator[str], vocabulary: int, *, masked: bool = False) -> PreTrainedTokenizerBase:
    """Train on texts. The same texts give the same tokenizer.

    Args:
        texts: the corpus, in the proportions wanted.
        vocabulary: number of tokens at most, special ones and 256 bytes included; a small corpus gives fewer.
        masked: for a masked language model instead of a causal one.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(MASKED.values()) if masked else [END, PAD],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return wrap(bpe)


def wrap(bpe: Tokenizer) -> PreTrainedTokenizerBase:
    """A trained tokenizer as transformers and vLLM know it."""
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


def load(folder: Path, *, speaks: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer of a base model, with a padding token and a chat template in any case.

    Args:
        folder: of the model.
        speaks: whether answers are to be generated, which takes an end token.

    Raises:
        InvalidSpec: there is none, or it cannot tell where a token came from in the text.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidSpec(
            f"the base model has no usable tokenizer: put its tokenizer.json there ({error})"
        ) from error
    if not tokenizer.is_fast:
        raise InvalidSpec("the base model's tokenizer is not a fast one: convert it to a tokenizer.json")
    if speaks and tokenizer.eos_token_id is None:
        raise InvalidSpec("the base model's tokenizer has no eos_token: set one in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise InvalidSpec("the base model's tokenizer has no pad_token: set one in tokenizer_config.json")
        tokenizer.pad_token = tokenizer.eos_token
    if speaks and tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def load_masked(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a masked language model.

    Raises:
        InvalidSpec: see `load`; or it lacks one of the special tokens that rows are made of.
    """
    tokenizer = load(folder, speaks=False)
    missing = [name for name in ("mask_token", "cls_token", "sep_token") if getattr(tokenizer, name) is None]
    if missing:
        raise InvalidSpec(
            f"the base model's tokenizer has no {' and no '.join(missing)}, which objective mlm needs: "
            "name the folder of a masked language model, or choose objective clm"
        )
    return tokenizer


def of_plain_text(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A tokenizer as it reads documents: of any length, "<|endoftext|>" inside one being text like any other.

    It is a copy: a base model's tokenizer may cut and pad its inputs, and goes into the artifact as it came.
    """
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    plain.encode_special_tokens = True
    return plain
