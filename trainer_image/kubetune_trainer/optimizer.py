"""AdamW, and its state by parameter name."""

import torch
from torch import nn

Named = list[tuple[str, nn.Parameter]]


def trainable(model: nn.Module) -> Named:
    """Parameters that are trained, with their names."""
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]


def adamw(parameters: Named, rate: float, decay: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW that never decays biases and norms (parameters of one dimension)."""
    groups = [
        {"params": [p for _, p in parameters if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for _, p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=betas, fused=True)


def state(optimizer: torch.optim.Optimizer, parameters: Named) -> dict[str, torch.Tensor]:
    """Tensors of the optimizer, named `<field>:<parameter>`."""
    return {
        f"{field}:{name}": value
        for name, parameter in parameters
        for field, value in optimizer.state[parameter].items()
    }


def restore(optimizer: torch.optim.Optimizer, parameters: Named, tensors: dict[str, torch.Tensor]) -> None:
    """Undo `state`."""
    by_name = dict(parameters)
    for key, value in tensors.items():
        field, _, name = key.partition(":")
        parameter = by_name[name]
        optimizer.state[parameter][field] = value.to(parameter.device)
