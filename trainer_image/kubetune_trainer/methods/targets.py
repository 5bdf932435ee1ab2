"""Which layers and experts of a model get an adapter.

peft matches names by their ends and ignores those that match nothing. With all-linear it also takes the
routers of a mixture of experts, and it mistakes some names for those of experts in older releases of
transformers. So names are resolved here, and peft gets full ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from kubetune.api.finetunejob import Lora
from kubetune.api.warnings import WarningReason
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.methods import experts, peft_names
from kubetune_trainer.methods.adapter_config import ALL_LINEAR
from kubetune_trainer.methods.names import ends_with, short
from kubetune_trainer.model.counting import size
from kubetune_trainer.model.heads import CLASSIFIER, Head
from kubetune_trainer.warned import warn

KINDS = (nn.Linear, nn.Embedding, Conv1D)
"""Layers that can be named."""
ROUTERS = {"gate", "router", "shared_expert_gate"}
"""Parts of the names of routers in transformers' mixtures of experts. No other layers have these names."""
HEADS = {"score", "classifier"}
"""What classifiers call their head, as in peft."""
FUSED = {
    "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "w1": "gate_up_proj", "w3": "gate_up_proj",
    "w2": "down_proj",
}  # fmt: skip
"""Former names of an expert's layers, and the stacked weight that holds each of them now."""
_SHOWN = 8


@dataclass(frozen=True)
class Targets:
    """What peft adapts."""

    modules: list[str]
    """Full names of layers."""
    parameters: list[str]
    """Full names of experts' stacked weights, and of weights of layers that peft mistakes for experts."""


def choose(model: PreTrainedModel, lora: Lora, head: Head, fresh: Sequence[str]) -> Targets:
    """Find what `lora.targetModules` and `lora.targetParameters` name; warn about experts that are left out.

    Args:
        model: the base with its head.
        lora: settings of the job.
        head: what head it is.
        fresh: modules that are trained as a whole.

    Raises:
        InvalidSpec: one of the names means nothing that can be adapted.
    """
    language = _language(model)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, KINDS) and n in language}
    stacked = experts.parameters(model)
    every = ALL_LINEAR in lora.target_modules
    modules: set[str] = set()
    parameters: set[str] = set()
    missing = []
    for wanted in lora.target_modules:
        if wanted == ALL_LINEAR:
            modules |= _all_linear(model, layers, head, fresh)
            continue
        named = {name for name in layers if ends_with(name, wanted)}
        held = _held(stacked, wanted, lora.target_modules)
        modules |= named
        parameters |= held
        if not named and not held:
            missing.append(wanted)
    if missing:
        raise InvalidSpec(
            f"lora.targetModules: the base model has no layer {' and no '.join(missing)}; "
            f"the base has {', '.join(sorted({_last(n) for n in layers}))}: name some of these"
        )
    modules -= _unfit(model, modules, every=every)
    parameters |= _parameters(stacked, lora.target_parameters)
    if every and lora.target_parameters is None:
        parameters |= {name for name in stacked if experts.adaptable(_owner(model, name))}
    return _settled(model, lora, modules, parameters, warned=set(stacked) if every else parameters)


def _settled(
    model: PreTrainedModel, lora: Lora, modules: set[str], parameters: set[str], warned: set[str]
) -> Targets:
    """Take out what cannot be adapted as the job wants it.

    Args:
        model: the base.
        lora: settings of the job.
        modules: names of layers.
        parameters: names of stacked weights.
        warned: those that a warning names if they are left out.

    Raises:
        InvalidSpec: `lora.targetParameters` names what would have to be left out.
    """
    taken = {last for last in {_last(name) for name in modules} if peft_names.taken_for_experts(model, last)}
    by_weight = {f"{name}.weight" for name in modules if _last(name) in taken}
    modules = {name for name in modules if _last(name) not in taken}
    obstacle = (
        f"lora.dropout {lora.dropout:g}" if lora.dropout else "variant dora" if lora.variant == "dora" else ""
    )
    if obstacle and lora.target_parameters:
        raise InvalidSpec(
            f"lora.targetParameters: peft has no {obstacle.removeprefix('lora.')} for experts: "
            "set lora.dropout to 0 and lora.variant to lora or rslora"
        )
    strange = {name for name in parameters if not experts.adaptable(_owner(model, name))}
    if strange and lora.target_parameters:
        raise InvalidSpec(
            f"lora.targetParameters: experts of a {model.config.model_type} model cannot be adapted "
            f"({', '.join(sorted(short(strange, experts.parameters(model))))}): remove the names"
        )
    parameters = set() if obstacle else parameters - strange
    kept = set() if obstacle else by_weight
    out = (warned - parameters if lora.target_parameters is None else set()) | (by_weight - kept)
    if out:
        _warn(model, out, obstacle)
    return Targets(sorted(modules), sorted(parameters | kept))


def _warn(model: PreTrainedModel, out: set[str], obstacle: str) -> None:
    weights = dict(model.named_parameters())
    count = sum(size_of(weights[name]) for name in out)
    names = sorted({*short(out, weights)})
    listed = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    why = (
        f"experts, and layers called like their parts, are adapted without {obstacle} only: set lora.dropout "
        "to 0 and lora.variant to lora or rslora"
        if obstacle
        else f"experts of a {model.config.model_type} model cannot be adapted: choose method full or another "
        "base"
    )
    warn(
        WarningReason.EXPERTS_NOT_ADAPTED,
        f"{count:,} parameters, {count / size(model):.0%} of the base, get no adapter and stay as they are "
        f"({listed}); {why}",
    )


def _all_linear(
    model: PreTrainedModel, layers: dict[str, nn.Module], head: Head, fresh: Sequence[str]
) -> set[str]:
    """Every linear layer but the output head, new modules and routers."""
    output = model.get_output_embeddings()
    whole = {*fresh} | (HEADS if head is CLASSIFIER else set())
    return {
        name
        for name, layer in layers.items()
        if not isinstance(layer, nn.Embedding)
        and layer is not output
        and not any(name == module or name.startswith(f"{module}.") for module in whole)
        and not ROUTERS & {*name.split(".")}
    }


def _unfit(model: PreTrainedModel, modules: set[str], *, every: bool) -> set[str]:
    """Layers whose adapters would be ignored, or not be read as they were written. Warns about them.

    Raises:
        InvalidSpec: they are named, not only included in all-linear.
    """
    unfit = peft_names.bypassed(model, modules) | peft_names.read_otherwise(model, modules)
    if not unfit:
        return unfit
    weights = dict(model.named_parameters())
    count = sum(size_of(weights[f"{name}.weight"]) for name in unfit)
    told = ", ".join(short(unfit, [name for name, _ in model.named_modules()]))
    kind = model.config.model_type
    if not every:
        raise InvalidSpec(
            f"lora.targetModules: peft has no adapters of {told} in a {kind} model, since the model computes "
            "past these layers or peft reads them under other names: name other layers"
        )
    warn(
        WarningReason.LAYERS_NOT_ADAPTED,
        f"{count:,} parameters, {count / size(model):.0%} of the base, get no adapter and stay as they are "
        f"({told}): a {kind} model computes past these layers, or peft reads their adapters under other "
        "names; choose method full to train them",
    )
    return unfit


def _language(model: PreTrainedModel) -> set[str]:
    """Names of the modules that text goes through: in a multimodal model, its decoder and its head. The
    others would get no gradient."""
    names = {name for name, _ in model.named_modules()}
    if model.config.get_text_config(decoder=True) is model.config:
        return names
    decoder, output = model.get_decoder(), model.get_output_embeddings()
    if decoder is None or decoder is model:
        return names
    inside = next(name for name, module in model.named_modules() if module is decoder)
    return {
        name
        for name, module in model.named_modules()
        if name == inside or name.startswith(f"{inside}.") or module is output
    }


def _held(stacked: Iterable[str], wanted: str, names: Sequence[str]) -> set[str]:
    """Stacked weights that hold an expert's layer of this name.

    Raises:
        InvalidSpec: they also hold another layer, which is not named.
    """
    start, _, last = wanted.rpartition(".")
    found = {n for n in stacked if ends_with(n, wanted)}
    if found or last not in FUSED:
        return found
    whole = f"{start}.{FUSED[last]}" if start else FUSED[last]
    found = {n for n in stacked if ends_with(n, whole)}
    there = {_last(n) for n in names}
    for pair in ({"gate_proj", "up_proj"}, {"w1", "w3"}):
        if found and last in pair and pair - there:
            raise InvalidSpec(
                f"lora.targetModules: experts hold {' and '.join(sorted(pair))} as one weight: name both, or "
                "neither"
            )
    return found


def _parameters(stacked: Iterable[str], wanted: Sequence[str] | None) -> set[str]:
    """The stacked weights that `lora.targetParameters` names.

    Raises:
        InvalidSpec: one of the names means none.
    """
    stacked = list(stacked)
    found = {name: {n for n in stacked if ends_with(n, name)} for name in wanted or ()}
    missing = [name for name, names in found.items() if not names]
    if missing:
        there = ", ".join(short(stacked, stacked)) or "none"
        raise InvalidSpec(
            f"lora.targetParameters: the base model has no experts' weight {' and no '.join(missing)}; "
            f"the base has {there}: name some of these, or remove the field"
        )
    return {n for names in found.values() for n in names}


def size_of(parameter: nn.Parameter) -> int:
    """How many weights a parameter holds, also if it is packed."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def _owner(model: PreTrainedModel, parameter: str) -> nn.Module:
    return model.get_submodule(parameter.rpartition(".")[0])


def _last(name: str) -> str:
    return name.rpartition(".")[2]
