"""Loading a model from a folder."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from kubetune_trainer import model_files
from kubetune_trainer.data.tokenizer import vocabulary
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.log import say
from kubetune_trainer.model import belongings, quantised, rescaling
from kubetune_trainer.model.checking import (
    check_ends,
    check_finite,
    check_length,
    check_positions,
    check_type,
)
from kubetune_trainer.model.heads import CAUSAL_LM, CLASSIFIER, MASKED_LM, Head
from kubetune_trainer.model.probing import RESTORE
from kubetune_trainer.reading import cause, of_the_file, reading

CLASSIFIERS = {*CLASSIFIER.types.values()}


def load(
    folder: Path,
    options: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    head: Head = CAUSAL_LM,
    settings: Mapping[str, Any] | None = None,
    what: str = "base model",
    *,
    whole: bool = False,
) -> tuple[PreTrainedModel, list[str]]:
    """A base model from a folder of safetensors.

    Args:
        folder: of the model.
        options: how its weights are held: the dtype, and what else `from_pretrained` takes.
        tokenizer: its own.
        length: longest sequence that it must take.
        head: its head.
        settings: fields of its config that depend on the data.
        what: name of the model in messages.
        whole: whether a whole model is made of it: then a warning tells what that will lack.

    Returns:
        The model, and those of its modules that are initialised anew, because the folder has no weights for
        them: the head, if it may be new, and its pooler.

    Raises:
        InvalidSpec: no such model there, its context is shorter than `length`, its weights are incomplete or
            not finite, or its tokenizer knows more tokens than it.
    """
    model_files.check_folder(folder, what)
    options = quantised.options(folder, what, options)
    check_type(folder, head, what)
    try:
        with belongings.watching() as unexpected:
            model, info = head.auto.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True, **options, **(settings or {}),
            )  # fmt: skip
    except Exception as error:  # transformers, and what it imports, may raise anything
        if not of_the_file(error):
            raise
        problem = cause(error)
        if "ignore_mismatched_sizes" in problem:
            problem = _mismatch(folder, head, settings or {}, what)
        raise InvalidSpec(f"the {what} cannot be loaded: {problem}") from error
    quantised.settle(model, options["dtype"])
    rescaling.prevent(model)
    model.config.return_dict = True  # as all code here expects; a config may say otherwise
    kinds = set(model.config.architectures or ())
    if not head.fresh and kinds and kinds <= CLASSIFIERS:
        raise InvalidSpec(
            f"the {what} is a sequence classifier ({', '.join(sorted(kinds))}): name a {head.what}"
        )
    with reading(f"config.json of the {what}", RESTORE):
        rows: int = model.get_input_embeddings().num_embeddings
    remedy = "lower data.sequenceLength"
    check_length(model, length, remedy)
    needed = vocabulary(tokenizer)
    if needed > rows:
        raise InvalidSpec(
            f"the {what}'s tokenizer has {needed} tokens but the model embeds {rows}: "
            "put the tokenizer there that belongs to it"
        )
    check_ends(model, rows, what)
    if head is MASKED_LM:
        check_positions(model, len(tokenizer) - 1, length, remedy)
    fresh = _fresh(model, info["missing_keys"], head, what)
    check_finite(model.named_parameters(), f"the {what}'s files")
    if whole:
        lost = () if head.fresh else unexpected  # a former head is left out on purpose
        belongings.tell_left_out(folder, type(model).__name__, lost)
    return model, fresh


def _mismatch(folder: Path, head: Head, settings: Mapping[str, Any], what: str) -> str:
    """Which weight of a folder has another shape than its config says."""
    found = "its weights have other shapes than config.json says"
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **settings)
    with torch.device("meta"):
        model = head.auto.from_config(config, trust_remote_code=False)
    wanted = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    for name, _, shape in model_files.tensors(folder, what):
        expected = wanted.get(name) or wanted.get(f"{model.base_model_prefix}.{name}")
        if expected not in (None, shape):
            found += f" ({name} is {[*shape]}, not {[*expected]})"
            break
    return f"{found}: put the config.json there that belongs to them"


def _fresh(model: PreTrainedModel, missing: Iterable[str], head: Head, what: str) -> list[str]:
    """The modules of missing weights.

    Raises:
        InvalidSpec: they may not be missing.
    """
    inside = f"{model.base_model_prefix}."
    found = set()
    for name in sorted(missing):
        module = name.rpartition(".")[0]
        if not head.fresh or (name.startswith(inside) and "pooler" not in module):
            raise InvalidSpec(
                f"the {what}'s files hold no weights for {name}: name the folder of a whole {head.what}"
            )
        found.add(module if name.startswith(inside) else name.partition(".")[0])
    if found:
        say("head", new=", ".join(sorted(found)))
    return sorted(found)
