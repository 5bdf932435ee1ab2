"""Making or loading a model, and checks that what training assumes about it is so."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kubetune.artifacts.digest import UnsafePath, folder_digest
from kubetune_trainer import model_files
from kubetune_trainer.data.tokenizer import vocabulary
from kubetune_trainer.errors import BaseModelMismatch, DataError, InvalidSpec, known
from kubetune_trainer.files import leads_into
from kubetune_trainer.heads import CAUSAL_LM, CLASSIFIER, MASKED_LM, Head
from kubetune_trainer.log import say
from kubetune_trainer.reading import cause, of_the_file, reading

PREFIX = "soft_prompt"
"""Name of the part of a model that holds its virtual tokens, if it has any."""
CLASSIFIERS = {*CLASSIFIER.types.values()}
TAKE_ENCODERS = {"mlm", "classification"}
"""Stages."""
_TEXT = "put the file there that belongs to it"


def create(
    config: dict[str, Any], tokenizer: PreTrainedTokenizerBase, length: int, head: Head = CAUSAL_LM
) -> PreTrainedModel:
    """A freshly initialised fp32 model.

    Args:
        config: fields of a transformers config, model_type among them.
        tokenizer: gives vocabulary size and special token ids.
        length: longest sequence that it must take.
        head: what stands on it.

    Raises:
        InvalidSpec: an unknown model type or field, values that do not go together, too short a context.
    """
    fields = {k: v for k, v in config.items() if k != "model_type"}
    kind = str(config.get("model_type"))
    if kind not in head.types:
        raise InvalidSpec(f"model.config.model_type {kind!r} is no {head.what} that transformers knows")
    usual = CONFIG_MAPPING[kind]().to_dict()
    there = set(usual) | set(CONFIG_MAPPING[kind].attribute_map)
    # In JSON, and so in Kubernetes, 1.0 is 1; transformers' configs insist on the type.
    fields = {n: float(v) if type(v) is int and type(usual.get(n)) is float else v for n, v in fields.items()}
    for field in set(fields) - there:
        near = difflib.get_close_matches(field, there, n=1)
        hint = f": did you mean {near[0]}?" if near else ": remove it"
        raise InvalidSpec(f"model.config has no field {field!r} for model_type {kind}{hint}")
    model_files.check_config(fields, "model.config")
    fields |= {
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    try:
        made = AutoConfig.for_model(kind, **fields)
        model = head.auto.from_config(made, dtype=torch.float32)
    except Exception as error:  # transformers raises whatever the arithmetic of the layers runs into
        if not of_the_file(error):
            raise
        raise InvalidSpec(f"model.config makes no valid {kind} model: {cause(error)}") from error
    remedy = "raise max_position_embeddings in model.config or lower data.sequenceLength"
    check_length(model, length, remedy)
    if head is MASKED_LM:
        _check_positions(model, len(tokenizer) - 1, length, remedy)
    return model


def load(
    folder: Path,
    options: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    head: Head = CAUSAL_LM,
    settings: Mapping[str, Any] | None = None,
    what: str = "base model",
) -> tuple[PreTrainedModel, list[str]]:
    """A base model from a folder of safetensors.

    Args:
        folder: of the model.
        options: how its weights are held: the dtype, and what else `from_pretrained` takes.
        tokenizer: its own.
        length: longest sequence that it must take.
        head: what is to stand on it.
        settings: fields of its config that the data decide on.
        what: it is, for messages.

    Returns:
        The model, and the modules that the folder has no weights for, initialised anew: the head, if it may
        be new, and what pools for it.

    Raises:
        InvalidSpec: no such model there, its context is shorter than `length`, its weights are incomplete or
            not finite, or its tokenizer knows more tokens than it.
    """
    model_files.check_folder(folder, what)
    try:
        model, info = head.auto.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True, **options, **(settings or {}),
        )  # fmt: skip
    except Exception as error:  # transformers, and what it imports for a base, raises anything
        if not of_the_file(error):
            raise
        problem = cause(error)
        if "ignore_mismatched_sizes" in problem:
            problem = _mismatch(folder, head, settings or {}, what)
        raise InvalidSpec(f"the {what} cannot be loaded: {problem}") from error
    model.config.return_dict = True  # what all of this reads; a config may say otherwise
    kinds = set(model.config.architectures or ())
    if not head.fresh and kinds and kinds <= CLASSIFIERS:
        raise InvalidSpec(
            f"the {what} is a sequence classifier ({', '.join(sorted(kinds))}): name a {head.what}"
        )
    with reading(f"config.json of the {what}", _TEXT):
        rows: int = model.get_input_embeddings().num_embeddings
    remedy = "lower data.sequenceLength"
    check_length(model, length, remedy)
    needed = vocabulary(tokenizer)
    if needed > rows:
        raise InvalidSpec(
            f"the {what}'s tokenizer has {needed} tokens but the model embeds {rows}: "
            "put the tokenizer there that belongs to it"
        )
    _check_ends(model, rows, what)
    if head is MASKED_LM:
        _check_positions(model, len(tokenizer) - 1, length, remedy)
    fresh = _fresh(model, info["missing_keys"], head, what)
    check_finite(model.named_parameters(), f"the {what}'s files")
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


def _check_ends(model: PreTrainedModel, rows: int, what: str) -> None:
    """Refuse end tokens that are none.

    Raises:
        InvalidSpec: generation_config.json names something else than tokens.
    """
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    for token in named if isinstance(named, list) else [] if named is None else [named]:
        if type(token) is not int or not 0 <= token < rows:
            raise InvalidSpec(
                f"the {what}'s generation_config.json has eos_token_id {named!r}, but its tokens are the "
                f"numbers from 0 to {rows - 1}: mend it there, or in config.json if that file has none"
            )


def check_finite(tensors: Iterable[tuple[str, torch.Tensor]], what: str) -> None:
    """Refuse weights that are no finite numbers: no training mends them.

    Raises:
        InvalidSpec: there is one.
    """
    for name, tensor in tensors:
        for part in _numbers(tensor):
            # A sum takes no memory, and is finite only where every number is; the opposite need not be so.
            if not part.sum().isfinite() and not part.isfinite().all():
                raise InvalidSpec(
                    f"{what} hold numbers in {name} that are not finite (NaN or infinite): "
                    "restore the file, or name a model that was saved before training diverged"
                )


def _numbers(tensor: torch.Tensor) -> list[torch.Tensor]:
    """A tensor's numbers; of one held in 4 bits those that its blocks are scaled by."""
    state = getattr(tensor, "quant_state", None)
    if state is not None:
        return [x for x in (state.absmax, getattr(state.state2, "absmax", None), state.offset)
                if x is not None and x.is_floating_point()]  # fmt: skip
    # Numbers of 8 bits have no sums in torch.
    return [tensor.detach()] if tensor.is_floating_point() and tensor.itemsize > 1 else []


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


def size(model: torch.nn.Module, *, trainable: bool = False) -> int:
    """How many parameters a model has; of one held in 4 bits those that the packed bytes stand for."""
    chosen = (p for p in model.parameters() if p.requires_grad or not trainable)
    return sum(p.quant_state.shape.numel() if hasattr(p, "quant_state") else p.numel() for p in chosen)


def virtual_tokens(model: torch.nn.Module) -> int:
    """How many virtual tokens stand before each row."""
    return len(getattr(model, PREFIX, ()))


def context_of(model: PreTrainedModel) -> int | None:
    """Tokens that a model's positions reach, less its virtual ones; None without a limit."""
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    return None if positions is None else positions - virtual_tokens(model)


def check_length(model: PreTrainedModel, length: int, remedy: str) -> None:
    """Refuse sequences that the model's positions do not reach.

    Raises:
        InvalidSpec: they do not.
    """
    context = context_of(model)
    if context is not None and length > context:
        raise InvalidSpec(f"data.sequenceLength {length} exceeds the model's context of {context}: {remedy}")


def _check_positions(model: PreTrainedModel, token: int, length: int, remedy: str) -> None:
    """Refuse sequences that a masked language model's positions do not reach: RoBERTa counts them from the
    padding token's id.

    Raises:
        InvalidSpec: they do not.
    """
    try:
        with evaluating(model):
            model(input_ids=torch.full((1, length), token, device=model.device))
    except (IndexError, RuntimeError) as error:
        if known(error):
            raise
        problem = f"data.sequenceLength {length} exceeds the model's positions: {remedy}"
        raise InvalidSpec(problem) from error


def checked_digest(what: str, path: str, root: str | None, expected: str | None) -> str:
    """Digest of a folder: the base model's, or an adapter's.

    Args:
        what: it is, for messages.
        path: the folder.
        root: of the volume that it must lie in.
        expected: the digest that it must have.

    Raises:
        DataError: there is no such folder.
        BaseModelMismatch: it is not the one that was asked for, or leads elsewhere.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"the {what}'s folder {folder.name} does not exist: put the {what.split()[-1]} there")
    if root is not None and not leads_into(folder, Path(root)):
        raise BaseModelMismatch(f"the {what}'s folder leads out of its volume by a symbolic link")
    try:
        found = folder_digest(folder)
    except UnsafePath as error:
        raise BaseModelMismatch(f"the {what}'s folder must hold plain files only: {error}") from error
    if expected is not None and found != expected:
        raise BaseModelMismatch(
            f"the {what} has digest {found}, not {expected}: its files changed"
            "; name the right folder or digest"
        )
    return found


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: the tokenizer's, and what else the model's generation config names (chat
    models often end a turn and a document differently)."""
    named = model.generation_config.eos_token_id if model.generation_config else None
    others = named if isinstance(named, list) else [] if named is None else [named]
    return sorted({tokenizer.eos_token_id, *others})


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """No dropout and no gradients inside, training mode as before after it."""
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was)


def check_isolation(model: PreTrainedModel) -> None:
    """Refuse to pack documents for a model that lets them see each other.

    Two documents share a row; changing the first must not change the second's logits in a single bit.

    Raises:
        InvalidSpec: it does.
    """
    rows = [3, 4, 5, 6, 7, 8, 9], [9, 8, 7, 6, 7, 8, 9]
    try:
        one, other = _each(model, *rows, position_ids=[0, 1, 2, 0, 1, 2, 3])
    except TypeError:  # the model takes no position_ids
        one, other = torch.zeros(7), torch.ones(7)
    if not torch.equal(one[3:], other[3:]):
        raise InvalidSpec(
            f"documents packed into one sequence would see each other in a {model.config.model_type} model: "
            "set data.packing to false (stages that learn from examples) or choose another model"
        )


def _each(model: PreTrainedModel, *rows: list[int], **more: list[int]) -> Iterator[torch.Tensor]:
    """Logits of each row by itself, [tokens, vocabulary]: in a batch, some processors round the same sum
    otherwise in another row."""
    settings = {name: torch.tensor([value], device=model.device) for name, value in more.items()}
    with evaluating(model):
        for row in rows:
            tokens = torch.tensor([row], device=model.device)
            yield model(input_ids=tokens, use_cache=False, **settings).logits[0].nan_to_num()


def check_kind(folder: Path, stage: str) -> None:
    """Refuse an encoder as base of a stage that takes a causal language model, before anything is read by its
    tokenizer.

    Args:
        folder: of the base.
        stage: of the run.

    Raises:
        InvalidSpec: it is one; or config.json cannot be read.
    """
    path = folder / model_files.CONFIG
    if stage in TAKE_ENCODERS or not path.is_file():
        return
    config = model_files.json_object(path, "the base model cannot be loaded")
    named = config.get("architectures")
    kinds = {str(kind) for kind in named} if isinstance(named, list) else set()
    kind = str(config.get("model_type"))
    if kind in MASKED_LM.types and not kinds & {*CAUSAL_LM.types.values()} and not config.get("is_decoder"):
        encoder = ", ".join(sorted(kinds)) or f"a {kind} model"
        raise InvalidSpec(
            f"the base model is an encoder ({encoder}), and stage {stage} needs a causal language model: "
            "name one as base"
        )


def check_causal(model: PreTrainedModel) -> None:
    """Refuse a causal language model whose tokens see what comes after them: it would learn to copy.

    In two rows that differ in the last token alone, the logits before it must be the same in every bit.

    Raises:
        InvalidSpec: they are not.
    """
    with reading("config.json of the base model", _TEXT):
        one, other = _each(model, [3, 4, 5, 6, 7, 8, 9], [3, 4, 5, 6, 7, 8, 4])
    if not torch.equal(one[:-1], other[:-1]):
        raise InvalidSpec(
            f"each token of this {model.config.model_type} model sees those after it, so it cannot learn to "
            "write: name a causal language model (of an encoder, config.json may set is_decoder)"
        )
