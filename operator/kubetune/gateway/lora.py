"""Whether an adapter's tensors are LoRA matrices that change the base as they were trained to."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kubetune.api.table import AdapterReason
from kubetune.gateway.base import BaseModules
from kubetune.gateway.refused import AdapterRefused
from kubetune.gateway.tensors import MATRIX_DTYPES, Tensor, read_values

_MATRIX = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.(?:lora_(?P<side>[AB])\.weight|lora_embedding_(?P<of_embedding>[AB]))"
)
# A copy of the base's own embedding, which peft saves beside matrices for it, and vLLM passes over.
_OWN_EMBEDDING = re.compile(
    r"(?:base_model\.model\.)?(?P<module>(?:.+\.)?(?:embed_tokens|lm_head))\.base_layer\.weight"
)
_STACKED = re.compile(r"\.experts(\.base_layer)*$")
_SHOWN = 4


@dataclass
class LoraPair:
    """The two matrices of a module."""

    embedding: bool = False
    """Whether it is looked up, not multiplied: A is (rank, rows) then, and B (columns, rank)."""
    names: dict[str, str] = field(default_factory=dict)
    """Name of the tensor by side, A or B."""


def pairs_of(tensors: dict[str, Tensor], base: BaseModules) -> dict[str, LoraPair]:
    """The pairs by module.

    Raises:
        AdapterRefused: there are none, a matrix lacks its other half, or there is something else.
    """
    pairs: dict[str, LoraPair] = {}
    others = []
    for name, tensor in tensors.items():
        if match := _MATRIX.fullmatch(name):
            pair = pairs.setdefault(match["module"], LoraPair(bool(match["of_embedding"])))
            pair.names[match["side"] or match["of_embedding"]] = name
        elif not ((own := _OWN_EMBEDDING.fullmatch(name)) and _same_size(own["module"], tensor, base)):
            others.append(name)
    if not pairs:
        some = f", but {_some(others)}" if others else ""
        raise AdapterRefused(
            AdapterReason.UNSUPPORTED,
            f"the weights hold no LoRA matrices by peft's names (...lora_A.weight){some}: "
            "convert the adapter to peft's layout and save it with save_pretrained",
        )
    if others:
        raise AdapterRefused(
            AdapterReason.UNSUPPORTED,
            f"the engine takes LoRA matrices only, but the weights hold {_some(others)} too: "
            "train without modules_to_save, new tokens, biases and DoRA",
        )
    if halves := [name for pair in pairs.values() if len(pair.names) == 1 for name in pair.names.values()]:
        raise AdapterRefused(
            AdapterReason.UNSUPPORTED,
            f"lora_A or lora_B is missing beside {_some(halves)}: save the adapter again",
        )
    return pairs


def check_matrices(pairs: dict[str, LoraPair], tensors: dict[str, Tensor], ranks: set[int]) -> None:
    """Each must be a matrix of numbers, of a rank that the config names.

    Raises:
        AdapterRefused: one is not.
    """
    for module, pair in pairs.items():
        a, b = (tensors[pair.names[side]] for side in "AB")
        for name, tensor in ((pair.names["A"], a), (pair.names["B"], b)):
            if tensor.dtype not in MATRIX_DTYPES:
                raise AdapterRefused(
                    AdapterReason.UNSUPPORTED,
                    f"{name} is {tensor.dtype}: save the adapter as {', '.join(MATRIX_DTYPES[:-1])}",
                )
            if len(tensor.shape) != 2 or 0 in tensor.shape:
                raise AdapterRefused(
                    AdapterReason.UNSUPPORTED, f"{name} has shape {list(tensor.shape)}: it must be a matrix"
                )
        rank = a.shape[0]
        if rank != b.shape[1]:
            raise AdapterRefused(
                AdapterReason.UNSUPPORTED,
                f"the matrices of {module} have ranks {rank} and {b.shape[1]}: save the adapter again",
            )
        if rank not in ranks and not _of_experts(module):  # peft stacks the experts' matrices in one
            raise AdapterRefused(
                AdapterReason.UNSUPPORTED,
                f"the matrices of {module} have rank {rank}, which neither r nor rank_pattern of "
                f"adapter_config.json names: restore the config that belongs to the weights",
            )


def check_base(pairs: dict[str, LoraPair], tensors: dict[str, Tensor], base: BaseModules) -> None:
    """Each pair must belong to a module of the base and fit its size.

    The engine only looks at the last part of a name: a pair with another path is loaded and never used.

    Raises:
        AdapterRefused: one does not.
    """
    if (
        stacked := [module for module in pairs if _STACKED.search(module)]
    ) and not base.takes_stacked_experts:
        raise AdapterRefused(
            AdapterReason.UNSUPPORTED,
            f"the engine does not take matrices of all experts in one for a {base.model_type or 'base'} "
            f"model: {_some(stacked)}. Serve the merged model (output.merge), or train without experts "
            "(lora.targetParameters: [])",
        )
    if not base.paths:
        return  # no safetensors files: the engine judges
    strangers = []
    for module, pair in pairs.items():
        named = base.named(module)
        if named is None:
            if module.rpartition(".")[2] in base.leaves and not _known_experts(module, base):
                strangers.append(module)
            continue
        weight = base.shapes.get(named)
        if weight is None:
            continue
        into, out = weight[::-1] if not pair.embedding else weight
        for name, size, expected in (
            (pair.names["A"], tensors[pair.names["A"]].shape[1], into),
            (pair.names["B"], tensors[pair.names["B"]].shape[0], out),
        ):
            if size != expected:
                raise AdapterRefused(
                    AdapterReason.BASE_MODEL_MISMATCH,
                    f"{name} is made for {size} features where the base's {named} has {expected}: "
                    "train it on this base",
                )
    if strangers:
        raise AdapterRefused(
            AdapterReason.BASE_MODEL_MISMATCH,
            f"{len(strangers)} of the adapter's {len(pairs)} modules are not in the base and would have no "
            f"effect: {_some(strangers)}. Train it on this base, or rename its tensors to the base's modules",
        )


def check_values(weights: Path, pairs: dict[str, LoraPair], tensors: dict[str, Tensor]) -> None:
    """All numbers must be finite, and some pair must change something.

    Raises:
        AdapterRefused: otherwise.
    """
    effect = False
    for pair in pairs.values():
        values = [read_values(weights, tensors[name]) for name in pair.names.values()]
        for name, value in zip(pair.names.values(), values, strict=True):
            if not value.finite:
                raise AdapterRefused(
                    AdapterReason.UNSUPPORTED,
                    f"{name} holds NaN or infinity: its training diverged, train it again",
                )
        effect = effect or not any(value.zero for value in values)
    if not effect:
        raise AdapterRefused(
            AdapterReason.WITHOUT_EFFECT,
            "lora_A or lora_B of every module is zero, so all answers would be the base's: "
            "save the adapter after it was trained",
        )


def _same_size(module: str, tensor: Tensor, base: BaseModules) -> bool:
    named = base.named(module)
    return named is not None and base.shapes.get(named) in (None, tensor.shape)


def _of_experts(module: str) -> bool:
    return ".experts" in module


def _known_experts(module: str, base: BaseModules) -> bool:
    """Whether the base has these experts: stored one by one, or stacked, which peft names in its own way."""
    block, found, _ = module.rpartition(".experts")
    return bool(found) and base.named(f"{block}.experts") is not None


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(name[:200] for name in ordered[:_SHOWN])
    return shown if len(ordered) <= _SHOWN else f"{shown} and {len(ordered) - _SHOWN} more"
