"""AdamW with its moments in 8 bits."""

import pytest
import torch

from kubetune.api.training import PretrainTraining
from kubetune_trainer import optimizer as optimizers
from kubetune_trainer.optimizer import Named

SIZE = (64, 128)
"""Numbers enough for 8 bits."""


def made(kind: str) -> tuple[Named, torch.optim.Optimizer]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": SIZE, "bias": (8,)}
    parameters = [(n, torch.nn.Parameter(torch.randn(s, generator=generator))) for n, s in shapes.items()]
    settings = PretrainTraining(max_steps=1, learning_rate=1e-2, weight_decay=0.1, optimizer=kind)
    return parameters, optimizers.adamw(parameters, settings, (0.9, 0.95))


def stepped(parameters: Named, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for number in steps:
        generator = torch.Generator().manual_seed(number)
        for _, parameter in parameters:
            parameter.grad = parameter.detach() + 0.1 * torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def test_it_goes_nearly_the_way_of_fp32_with_a_quarter_of_the_bytes():
    ends, sizes = [], []
    for kind in ("adamw", "adamw-8bit"):
        parameters, optimizer = made(kind)
        began = parameters[0][1].detach().clone()
        stepped(parameters, optimizer, range(50))
        ends.append(parameters[0][1].detach() - began)
        kept = optimizers.state(optimizer, parameters)
        sizes.append(sum(t.nbytes for n, t in kept.items() if n.endswith(":weight")))
    assert (ends[1] - ends[0]).norm() < 0.05 * ends[0].norm()
    assert sizes[1] == pytest.approx(sizes[0] / 4, rel=0.05)


@pytest.mark.parametrize("kind", ["adamw", "adamw-8bit"])
def test_restored_it_goes_on_to_the_bit(kind: str):
    parameters, optimizer = made(kind)
    stepped(parameters, optimizer, range(3))
    kept = {n: t.clone() for n, t in optimizers.state(optimizer, parameters).items()}
    weights = [p.detach().clone() for _, p in parameters]
    stepped(parameters, optimizer, range(3, 6))
    again, other = made(kind)
    for (_, parameter), weight in zip(again, weights, strict=True):
        parameter.data.copy_(weight)
    optimizers.restore(other, again, kept)
    stepped(again, other, range(3, 6))
    for (_, one), (_, two) in zip(parameters, again, strict=True):
        assert torch.equal(one, two)
