"""Making or loading a model, and checks that what training assumes about it is so."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kubetune.artifacts.digest import UnsafePath, folder_digest
from kubetune_trainer.errors import BaseModelMismatch, DataError, InvalidSpec, known
from kubetune_trainer.files import leads_into
from kubetune_trainer.heads import CAUSAL_LM, CLASSIFIER, MASKED_LM, Head
from kubetune_trainer.log import say

PREFIX = "soft_prompt"
"""Name of the part of a model that holds its virtual tokens, if it has any."""
CLASSIFIERS = {*CLASSIFIER.types.values()}


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
        if known(error):
            raise
        problem = " ".join(str(error).split())
        raise InvalidSpec(f"model.config makes no valid {kind} model: {problem}") from error
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
) -> tuple[PreTrainedModel, list[str]]:
    """A base model from a folder of safetensors.

    Args:
        folder: of the model.
        options: how its weights are held: the dtype, and what else `from_pretrained` takes.
        tokenizer: its own.
        length: longest sequence that it must take.
        head: what is to stand on it.
        settings: fields of its config that the data decide on.

    Returns:
        The model, and the modules that the folder has no weights for, initialised anew: the head, if it may
        be new, and what pools for it.

    Raises:
        InvalidSpec: no such model there, its context is shorter than `length`, its weights are incomplete, or
            its tokenizer knows more tokens than it.
    """
    try:
        model, info = head.auto.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True, **options, **(settings or {}),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if known(error):
            raise
        raise InvalidSpec(f"the base model cannot be loaded: {str(error).splitlines()[0]}") from error
    kinds = set(model.config.architectures or ())
    if not head.fresh and kinds and kinds <= CLASSIFIERS:
        raise InvalidSpec(
            f"the base model is a sequence classifier ({', '.join(sorted(kinds))}): name a {head.what}"
        )
    remedy = "lower data.sequenceLength"
    check_length(model, length, remedy)
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise InvalidSpec(
            f"the base model's tokenizer has {len(tokenizer)} tokens but the model embeds {rows}: "
            "put the tokenizer there that belongs to it"
        )
    if head is MASKED_LM:
        _check_positions(model, len(tokenizer) - 1, length, remedy)
    return model, _fresh(model, info["missing_keys"], head)


def _fresh(model: PreTrainedModel, missing: Iterable[str], head: Head) -> list[str]:
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
                f"the base model's files hold no weights for {name}: name the folder of a whole {head.what}"
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
    device = model.device
    tokens = torch.tensor([[3, 4, 5, 6, 7, 8, 9], [9, 8, 7, 6, 7, 8, 9]], device=device)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]] * 2, device=device)
    with evaluating(model):
        try:
            logits = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
        except TypeError:  # the model takes no position_ids
            logits = torch.tensor([[0.0] * 4, [1.0] * 4])
    if not torch.equal(*logits[:, 3:].nan_to_num()):
        raise InvalidSpec(
            f"documents packed into one sequence would see each other in a {model.config.model_type} model: "
            "set data.packing to false (stages that learn from examples) or choose another model"
        )
