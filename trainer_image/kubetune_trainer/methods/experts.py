"""Experts of a mixture, held as stacked parameters, [experts, outputs, inputs] or transposed: their low-rank
updates, and weights in 4 bits.

transformers looks up by name the function that computes experts, so ours can take its place. peft holds,
reads and writes the updates (`target_parameters`), but it would add them to the weights before each forward
pass. In bf16 this rounds away an update that is small beside its weight, and it keeps a copy of all weights
for the backward pass. Here inputs go through weights and updates separately, as in every other layer.
"""

from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Params4bit
from peft.tuners.lora import LoraConfig
from peft.tuners.lora.layer import ParamWrapper
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, _grouped_linear

FUNCTION = "apart"
"""The name by which transformers finds `forward`."""
ALIGNED = 8
"""Grouped products on a GPU need rows of a multiple of 16 bytes: 8 numbers of 16 bits."""
_UPDATES = "_kubetune_updates"


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every stacked weight of experts, by name."""
    return {
        f"{name}.{inner}" if name else inner: parameter
        for name, module in model.named_modules()
        if "Expert" in type(module).__name__ and not isinstance(module, nn.Linear)
        for inner, parameter in module.named_parameters(recurse=False)
        if len(_shape(parameter)) > 1 and not inner.endswith("bias")
    }


def adaptable(module: nn.Module) -> bool:
    """Whether transformers computes these experts by a function that can be replaced."""
    return all(hasattr(module, name) for name in ("is_transposed", "has_gate", "has_bias", "config"))


def use(module: Any) -> None:
    """Have transformers compute these experts by `forward`."""
    module.config._experts_implementation = FUNCTION


class Update(ParamWrapper):
    """The low-rank update of one stacked weight, `B A alpha / r` for each expert. It is peft's, except that
    `forward` of this module computes with it."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, **settings: Any) -> None:
        super().__init__(base_layer, adapter_name, **settings)
        experts = self.get_base_layer()
        vars(experts).setdefault(_UPDATES, {})[self.parameter_name] = self
        use(experts)

    def get_param(self) -> torch.Tensor:
        """The weight. One in 4 bits is replaced by a tensor of its shape and dtype that takes no memory."""
        weight: torch.Tensor = super().get_param()
        state = getattr(weight, "quant_state", None)
        if state is None:
            return weight
        return torch.empty((), dtype=state.dtype, device=weight.device).expand(state.shape)

    def forward(self, *inputs: Any, **more: Any) -> Any:
        """The output of the experts, which look up their updates themselves."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        return self.base_layer(*inputs, **more)

    def factors(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A, [experts, rank, inputs], and B times its scale, [experts, outputs, rank]; None if they are
        merged into the weight or switched off. The rank is padded with zeros."""
        if self.disable_adapters or self.merged:
            return None
        (name,) = self.active_adapters
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        a = a.view(self.num_experts, -1, a.shape[1])
        b = b.view(b.shape[0], -1, self.num_experts).permute(2, 0, 1) * self.scaling[name]
        fill = -a.shape[1] % ALIGNED
        a, b = nn.functional.pad(a, (0, 0, 0, fill)), nn.functional.pad(b, (0, fill))
        return a.to(dtype).contiguous(), b.to(dtype).contiguous()


Update.__name__ = ParamWrapper.__name__  # by this name peft recognises its layer


def dispatch(target: nn.Module, adapter_name: str, **settings: Any) -> nn.Module | None:
    """The layer that peft puts over a parameter of a module; None leaves the choice to peft.

    `targets` names a linear layer by its weight if peft would misread its name. It gets the layer that it
    would get by its name.
    """
    from peft.tuners.lora import LoraModel

    module = target.get_base_layer() if isinstance(target, ParamWrapper) else target
    if settings.get("parameter_name") is None:
        return None
    if isinstance(module, nn.Linear) and settings["parameter_name"] == "weight":
        plain = {name: value for name, value in settings.items() if name != "parameter_name"}
        config = plain.pop("config")
        made: nn.Module = LoraModel._create_new_module(config, adapter_name, target, **plain)
        return made
    return Update(target, adapter_name, **settings) if adaptable(module) else None


def register(config: LoraConfig) -> None:
    """Have peft use `dispatch` for adapted parameters. This is not saved with the config."""
    config._register_custom_module({nn.Module: dispatch})


def forward(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Computes as transformers' own function, with the updates kept separate.

    Args:
        self: the experts.
        hidden_states: [tokens, width].
        top_k_index: index of each token's experts, [tokens, k]; num_experts and above: none.
        top_k_weights: weights of these experts, [tokens, k].

    Returns:
        Sums over each token's experts, [tokens, width].
    """
    count = self.num_experts
    chosen, order = top_k_index.reshape(-1).sort()
    ends = torch.bincount(chosen, minlength=count)[:count].cumsum(0).to(torch.int32)
    nobody = (chosen >= count)[:, None]
    chosen = chosen.clamp(max=count - 1)
    states = hidden_states[order // top_k_index.shape[-1]]
    states = _linear(self, "gate_up_proj" if self.has_gate else "up_proj", states, chosen, ends)
    states = states.masked_fill(nobody, 0)  # rows of no expert are not computed, and may be NaN
    states = self._apply_gate(states) if self.has_gate else self.act_fn(states)
    states = _linear(self, "down_proj", states, chosen, ends).masked_fill(nobody, 0)
    states = states * top_k_weights.reshape(-1)[order, None]
    apart = states[order.argsort()].view(*top_k_index.shape, -1)
    return apart.sum(1).to(hidden_states.dtype)


ALL_EXPERTS_FUNCTIONS.register(FUNCTION, forward)


def _linear(
    experts: Any, name: str, x: torch.Tensor, chosen: torch.Tensor, ends: torch.Tensor
) -> torch.Tensor:
    """The rows of x times the weight of their expert, with its bias and its update.

    Args:
        experts: the module.
        name: of the weight.
        x: [rows, inputs], sorted by expert.
        chosen: expert of each row, [rows].
        ends: where each expert's rows end, [experts].
    """
    weight, transposed = getattr(experts, name), experts.is_transposed
    if isinstance(weight, Params4bit):
        y = _Widened.apply(x, weight, ends, transposed)
        dtype = weight.quant_state.dtype
    else:
        y, dtype = _grouped_linear(x, weight, ends, is_transposed=transposed), weight.dtype
    if experts.has_bias:
        y = y + getattr(experts, f"{name}_bias")[chosen]
    update = vars(experts).get(_UPDATES, {}).get(name)
    factors = update.factors(dtype) if update is not None else None
    if factors is None:
        return y
    a, b = factors
    return y + _grouped_linear(_grouped_linear(x.to(dtype), a, ends), b, ends)


class _Widened(torch.autograd.Function):
    """A grouped product with frozen weights in 4 bits. They are unpacked for it, and again for the backward
    pass, so that they need not be kept."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: Params4bit, ends: torch.Tensor, transposed: bool
    ) -> torch.Tensor:
        ctx.weight, ctx.transposed, ctx.dtype = weight, transposed, x.dtype
        ctx.save_for_backward(ends)
        return _grouped_linear(x, _widen(weight), ends, is_transposed=transposed)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (ends,) = ctx.saved_tensors
        weight = _widen(ctx.weight)
        back = _grouped_linear(gradient.to(weight.dtype), weight, ends, is_transposed=not ctx.transposed)
        return back.to(ctx.dtype), None, None, None


def _widen(weight: Params4bit) -> torch.Tensor:
    wide: torch.Tensor = dequantize_4bit(weight.data, weight.quant_state)
    return wide


def _shape(parameter: torch.Tensor) -> torch.Size:
    state = getattr(parameter, "quant_state", None)
    return parameter.shape if state is None else torch.Size(state.shape)
