"""AdamW (Loshchilov and Hutter 2019), and its state by parameter name.

Its moments may be held in 8 bits (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization"), by
bitsandbytes. Those of parameters with fewer than 4,096 numbers stay in fp32 there.
"""

from typing import Any

import torch
from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit
from bitsandbytes.optim.optimizer import Optimizer8bit
from torch import nn

from kubetune.api.training import Optimisation

Named = list[tuple[str, nn.Parameter]]
_CODES = {"qmap1", "qmap2"}
"""Tables of the numbers that 8-bit codes stand for: the same for all parameters and runs."""


def trainable(model: nn.Module) -> Named:
    """Parameters that are trained, with their names."""
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]


def adamw(parameters: Named, settings: Optimisation, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """AdamW that never decays biases and norms (parameters of one dimension)."""
    groups: list[dict[str, Any]] = [
        {"params": [p for _, p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for _, p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=True)
    on_gpu = any(p.is_cuda for _, p in parameters)
    made: torch.optim.Optimizer = (PagedAdamW8bit if on_gpu else AdamW8bit)(
        groups, lr=settings.learning_rate, betas=betas
    )
    return made


def state(optimizer: torch.optim.Optimizer, parameters: Named) -> dict[str, torch.Tensor]:
    """Tensors of the optimizer, named `<field>:<parameter>`."""
    return {
        f"{field}:{name}": torch.as_tensor(value)
        for name, parameter in parameters
        for field, value in optimizer.state[parameter].items()
        if field not in _CODES
    }


def restore(optimizer: torch.optim.Optimizer, parameters: Named, tensors: dict[str, torch.Tensor]) -> None:
    """Load the tensors of `state` into an optimizer."""
    by_name = dict(parameters)
    if isinstance(optimizer, Optimizer8bit):
        for i, group in enumerate(optimizer.param_groups):
            for k, parameter in enumerate(group["params"]):
                optimizer.init_state(group, parameter, i, k)
    for key, value in tensors.items():
        field, _, name = key.partition(":")
        parameter = by_name[name]
        there = optimizer.state[parameter]
        if isinstance(there.get(field), torch.Tensor):
            there[field].copy_(value)  # paged memory stays paged
        elif field in there:
            there[field] = value.item()  # bitsandbytes counts steps by a plain number
        else:
            there[field] = value.to(parameter.device)
