"""A byte-level BPE tokenizer trained on the corpus, and the plain-text chat template that goes with it; or
the tokenizer of a base model."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kubetune.api.warnings import WarningReason
from kubetune_trainer import model_files
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.reading import cause, of_the_file, reading
from kubetune_trainer.warned import warn

END = "<|endoftext|>"
"""Ends every document in pretraining, so it is a trained token, and every answer afterwards. There is no
token for the beginning: a prompt starts at position 0 in training as in serving."""
PAD = "<|pad|>"
"""Never trained on and never seen by attention."""
MASKED = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
"""Special tokens of a masked language model, ids 0 to 3: BERT's, but [UNK], which bytes make needless."""
PROBE = "A text: the 1st, \u00e9 \u6f22 \U0001f642\n"
"""Encoded at once, since a tokenizer may be loaded and fail at any text."""
MOST_TOKENS = 100
"""Of a character; its bytes are 4 at most. More would fill the memory once the data are read."""
TEMPLATE = "chat_template.jinja"
FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json")
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


def load(folder: Path, *, speaks: bool = True, what: str = "base model") -> PreTrainedTokenizerBase:
    """The tokenizer of a base model, with a padding token and a chat template in any case; `template_added`
    tells whether that is ours.

    Args:
        folder: of the model.
        speaks: whether answers are to be generated, which takes an end token.
        what: the model is, for messages.

    Raises:
        InvalidSpec: there is none, it fails at a text, or it cannot tell where a token came from in the text.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except BaseException as error:  # it looks into files before it checks them; and Rust panics
        if not of_the_file(error):
            raise
        _check_files(folder, what)
        raise InvalidSpec(
            f"the {what} has no usable tokenizer: put its tokenizer.json there ({cause(error)})"
        ) from error
    if not tokenizer.is_fast:
        raise InvalidSpec(f"the {what}'s tokenizer is not a fast one: convert it to a tokenizer.json")
    _probe(tokenizer, what)
    if speaks and tokenizer.eos_token_id is None:
        raise InvalidSpec(f"the {what}'s tokenizer has no eos_token: set one in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise InvalidSpec(f"the {what}'s tokenizer has no pad_token: set one in tokenizer_config.json")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.template_added = speaks and tokenizer.chat_template is None
    if tokenizer.template_added:
        warn(
            WarningReason.CHAT_TEMPLATE_ADDED,
            f"the {what} has no chat template: conversations are written in kubetune's own",
        )
        tokenizer.chat_template = CHAT_TEMPLATE
    elif speaks:
        _check_template(tokenizer.chat_template, what)
    return tokenizer


def _probe(tokenizer: PreTrainedTokenizerBase, what: str) -> None:
    """Encode a text, and leave the tokenizer as it came: a call sets how it cuts and pads."""
    backend = tokenizer.backend_tokenizer
    cuts, pads = backend.truncation, backend.padding
    with encoding(what):
        count = len(tokenizer([PROBE], return_offsets_mapping=True)["input_ids"][0])
        if count > MOST_TOKENS * len(PROBE):
            raise ValueError(f"it makes {count:,} tokens of {len(PROBE)} characters")
    if cuts:
        backend.enable_truncation(**cuts)
    if pads:
        backend.enable_padding(**pads)


def _check_files(folder: Path, what: str) -> None:
    """Where a tokenizer could not be loaded: blame the file that is at fault, if that is seen.

    Raises:
        InvalidSpec: it is.
    """
    for name in FILES:
        if (folder / name).is_file():
            model_files.json_object(folder / name, f"the {what} has no usable tokenizer")
    config = folder / model_files.CONFIG
    if config.is_file():  # transformers looks there for the tokenizer's class
        failed = f"the {what} cannot be loaded"
        model_files.check_config(model_files.json_object(config, failed), f"{failed}: {config.name}")
        with reading(f"{failed}: {config.name}", "restore it"):
            AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _check_template(template: Any, what: str) -> None:
    if isinstance(template, str) or (isinstance(template, dict) and isinstance(template.get("default"), str)):
        return
    wrong = f"none of {', '.join(template)} is the default" if isinstance(template, dict) else "it is no text"
    raise InvalidSpec(f"the {what}'s chat template cannot be used, since {wrong}: write it into {TEMPLATE}")


def encoding(what: str = "base model") -> AbstractContextManager[None]:
    """Around a tokenizer's work on texts, at which one in Rust may panic.

    Raises:
        InvalidSpec: it fails.
    """
    return reading(f"the {what}'s tokenizer", "it fails at a text: put the right tokenizer.json there")


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest token that may come out of a tokenizer. Its length only counts the tokens,
    and there may be gaps between their numbers; what it puts around a text need not be among them."""
    ids = [*tokenizer.get_vocab().values()]
    processor = tokenizer.backend_tokenizer.post_processor
    waiting: list[Any] = [] if processor is None else [json.loads(processor.__getstate__())]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            ids += part.get("ids") or []
            ids += [part[name][1] for name in ("cls", "sep") if name in part]
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return max(ids, default=-1) + 1


def save_template(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Put our chat template beside an adapter whose base has none, so that it is served with the one that it
    was trained with."""
    if getattr(tokenizer, "template_added", False):
        (folder / TEMPLATE).write_text(tokenizer.chat_template, encoding="utf-8")


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
