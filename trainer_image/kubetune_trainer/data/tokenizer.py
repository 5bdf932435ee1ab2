"""The tokenizer of a base model."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoConfig, PreTrainedTokenizerBase

from kubetune.api.runspec import RunSpec
from kubetune.api.warnings import WarningReason
from kubetune_trainer import model_files
from kubetune_trainer.data import faithful
from kubetune_trainer.data.tokenizer_training import CHAT_TEMPLATE
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.reading import cause, of_the_file, reading
from kubetune_trainer.warned import warn

PROBE = "A text: the 1st, \u00e9 \u6f22 \U0001f642\n"
"""Encoded when a tokenizer is loaded, because it may load and still fail at every text."""
MOST_TOKENS = 100
"""Most tokens for a character, which has at most 4 bytes. More would fill the memory with the data."""
THINKING = "enable_thinking"
"""The variable of chat templates that asks for a thought before the answer, or for none."""
TEMPLATE = "chat_template.jinja"
FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json")


def load(
    folder: Path, *, speaks: bool = True, thinking: bool | None = None, what: str = "base model"
) -> PreTrainedTokenizerBase:
    """The tokenizer of a base model.

    A missing padding token is set. If the model speaks, a missing chat template is added, and
    `template_added` says so.

    Args:
        folder: of the model.
        speaks: whether answers are to be generated, which needs an end token.
        thinking: what the chat template gets as enable_thinking; None: nothing.
        what: name of the model in messages.

    Raises:
        InvalidSpec: there is no tokenizer, it fails at a text, is not a fast one, or lacks a token that is
            needed; or the template does not know enable_thinking.
    """
    tokenizer = _read(folder, what)
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
    if thinking is not None:
        if THINKING not in str(tokenizer.chat_template):
            raise InvalidSpec(
                f"data.enableThinking: the {what}'s chat template does not use {THINKING}, so the field "
                "would have no effect: remove it"
            )
        tokenizer.template_settings = {THINKING: thinking}
    return tokenizer


def load_for(spec: RunSpec) -> PreTrainedTokenizerBase:
    """The tokenizer of a run's base, for stages in which it answers; see `load`."""
    assert spec.model.path is not None, "a base comes with its tokenizer"
    return load(Path(spec.model.path), thinking=spec.data.enable_thinking)


def _read(folder: Path, what: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, which reads and writes text as its tokenizer.json says, if it has one."""
    by_class, problem = None, ""
    try:
        by_class = faithful.by_class(folder)
    except BaseException as error:  # transformers uses files before it checks them; Rust panics
        if not of_the_file(error):
            raise
        _check_files(folder, what)
        problem = cause(error)
    path = folder / faithful.FILE
    if not path.is_file():
        if by_class is None:
            raise InvalidSpec(f"the {what} has no usable tokenizer: put its {path.name} there ({problem})")
        return by_class
    with reading(f"the {what} has no usable tokenizer: {path.name}", "restore it"):
        if by_class is not None and by_class.is_fast and _same(by_class, folder):
            return by_class
        plain = faithful.as_its_file(folder, by_class)
        text = faithful.difference(plain, folder)
    if text is not None:
        raise InvalidSpec(
            f"the {what}'s {path.name} says other tokens than transformers makes of {text[:20]!r}, whatever "
            f"class reads it: make {faithful.SETTINGS} agree with it"
        )
    _warn_of_class(folder, by_class, problem, what)
    return plain


def _same(tokenizer: PreTrainedTokenizerBase, folder: Path) -> bool:
    try:
        return faithful.difference(tokenizer, folder) is None
    except Exception as error:  # some classes need more than a text
        if not of_the_file(error):
            raise
        return False


def _warn_of_class(folder: Path, by_class: PreTrainedTokenizerBase | None, problem: str, what: str) -> None:
    """Warn that its class does not read a tokenizer as its tokenizer.json says."""
    path = folder / faithful.SETTINGS
    settings = model_files.json_object(path, f"the {what}'s tokenizer") if path.is_file() else {}
    named = settings.get("tokenizer_class")
    remedy = f"set tokenizer_class in its {faithful.SETTINGS} to {faithful.AS_IT_IS}"
    if by_class is None:
        found = f"transformers cannot read the {what}'s tokenizer by its class {named} ({problem})"
    else:
        used = type(by_class).__name__
        found = (
            f"transformers reads the {what}'s tokenizer as a {used}, which makes other tokens of a text "
            f"than its {faithful.FILE} says"
        )
        if str(named).removesuffix("Fast") != used.removesuffix("Fast"):
            remedy = f"that class comes with the model_type in {model_files.CONFIG}, so see how it does"
    warn(
        WarningReason.TOKENIZER_CLASS_DIFFERS,
        f"{found}: the run uses {faithful.FILE}. An engine may read it differently: {remedy}",
    )


def _probe(tokenizer: PreTrainedTokenizerBase, what: str) -> None:
    """Encode a text, to fail now rather than at the data."""
    with encoding(what), faithful.left_as_it_came(tokenizer):
        count = len(tokenizer([PROBE], return_offsets_mapping=True)["input_ids"][0])
        if count > MOST_TOKENS * len(PROBE):
            raise ValueError(f"it makes {count:,} tokens of {len(PROBE)} characters")


def _check_files(folder: Path, what: str) -> None:
    """Look for the file that keeps a tokenizer from being loaded.

    Raises:
        InvalidSpec: it is found.
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
    """Turn a failure of a tokenizer at a text, even a panic in Rust, into an InvalidSpec.

    Raises:
        InvalidSpec: the tokenizer fails.
    """
    return reading(f"the {what}'s tokenizer", "it fails at a text: put the right tokenizer.json there")


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest token id that may come out of a tokenizer.

    Its length only counts the tokens, but their ids may have gaps, and the tokens around a text need not be
    in the vocabulary.
    """
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


def save(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer beside its model, and see whether transformers reads it as it was written."""
    faithful.write(tokenizer, folder)
    with reading("the tokenizer that was written", "see the base model's tokenizer.json"):
        text = faithful.difference(faithful.by_class(folder), folder)
    if text is not None:
        warn(
            WarningReason.TOKENIZER_CLASS_DIFFERS,
            "transformers reads the artifact's tokenizer by a class that comes with its model_type, and "
            f"makes other tokens of {text[:20]!r} than its tokenizer.json says: load it with "
            f"{faithful.AS_IT_IS}, and see how the engine reads it",
        )


def save_template(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Put our chat template beside an adapter whose base has none, so that it is served as it was trained."""
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


def of_documents(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A tokenizer for documents of any length.

    It is a copy without truncation and padding: the base model's own goes into the artifact unchanged.
    """
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    return plain
