"""Checks of what a model is, before it computes anything."""

import difflib
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kubetune_trainer import model_files
from kubetune_trainer.errors import InvalidSpec, known
from kubetune_trainer.model.counting import context_of
from kubetune_trainer.model.heads import CAUSAL_LM, MASKED_LM, Head
from kubetune_trainer.model.probing import evaluating

TAKE_ENCODERS = {"mlm", "classification"}
"""Stages that take encoders."""


def check_kind(folder: Path, stage: str) -> None:
    """Refuse an encoder as base of a stage that takes a causal language model, before its tokenizer reads any
    data.

    Args:
        folder: of the base.
        stage: of the run.

    Raises:
        InvalidSpec: the base is an encoder; or config.json cannot be read.
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


def check_type(folder: Path, head: Head, what: str) -> None:
    """Refuse an architecture that no model with a head can be made of.

    Raises:
        InvalidSpec: transformers has no such class.
    """
    path = folder / model_files.CONFIG
    kind = model_files.json_object(path, f"the {what}").get("model_type") if path.is_file() else None
    if isinstance(kind, str) and kind not in head.types:
        raise InvalidSpec(f"the {what} cannot be loaded: {unsupported(kind, head)}")


def unsupported(kind: str, head: Head) -> str:
    """Why a model type is not supported with a head, and what to do."""
    release = f"transformers {transformers.__version__}"
    if kind in CONFIG_MAPPING:
        problem = f"{release} has no {head.what} of model_type {kind!r}"
    else:
        problem = f"{release} does not know model_type {kind!r}, and code that comes with a model is not run"
    near = ", ".join(difflib.get_close_matches(kind, head.types, n=3))
    return (
        f"{problem}{f' (it has {near})' if near else ''}: choose one of the {len(head.types)} architectures "
        "that docs/models.md lists, or an image with a newer transformers (compute.podTemplate.image)"
    )


def check_length(model: PreTrainedModel, length: int, remedy: str) -> None:
    """Refuse sequences that are longer than the model's context.

    Raises:
        InvalidSpec: they are.
    """
    context = context_of(model)
    if context is not None and length > context:
        raise InvalidSpec(f"data.sequenceLength {length} exceeds the model's context of {context}: {remedy}")


def check_positions(model: PreTrainedModel, token: int, length: int, remedy: str) -> None:
    """Refuse sequences that are longer than a masked language model's positions. One is tried, because
    RoBERTa counts positions from the padding token's id.

    Raises:
        InvalidSpec: they are.
    """
    try:
        with evaluating(model):
            model(input_ids=torch.full((1, length), token, device=model.device))
    except (IndexError, RuntimeError) as error:
        if known(error):
            raise
        problem = f"data.sequenceLength {length} exceeds the model's positions: {remedy}"
        raise InvalidSpec(problem) from error


def check_ends(model: PreTrainedModel, rows: int, what: str) -> None:
    """Refuse end tokens that the model does not have.

    Raises:
        InvalidSpec: generation_config.json names something other than tokens.
    """
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    for token in named if isinstance(named, list) else [] if named is None else [named]:
        if type(token) is not int or not 0 <= token < rows:
            raise InvalidSpec(
                f"the {what}'s generation_config.json has eos_token_id {named!r}, but its tokens are the "
                f"numbers from 0 to {rows - 1}: mend it there, or in config.json if that file has none"
            )


def check_finite(tensors: Iterable[tuple[str, torch.Tensor]], what: str) -> None:
    """Refuse weights that are not finite, because training cannot mend them.

    Raises:
        InvalidSpec: there is one.
    """
    for name, tensor in tensors:
        for part in _numbers(tensor):
            # A sum takes no memory. It is finite only if every number is, but finite numbers can overflow it.
            if not part.sum().isfinite() and not part.isfinite().all():
                raise InvalidSpec(
                    f"{what} hold numbers in {name} that are not finite (NaN or infinite): "
                    "restore the file, or name a model that was saved before training diverged"
                )


def _numbers(tensor: torch.Tensor) -> list[torch.Tensor]:
    """A tensor's numbers; of one held in 4 bits, the scales of its blocks."""
    state = getattr(tensor, "quant_state", None)
    if state is not None:
        return [x for x in (state.absmax, getattr(state.state2, "absmax", None), state.offset)
                if x is not None and x.is_floating_point()]  # fmt: skip
    # torch has no sum of 8-bit numbers.
    return [tensor.detach()] if tensor.is_floating_point() and tensor.itemsize > 1 else []
