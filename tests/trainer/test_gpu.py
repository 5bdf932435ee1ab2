"""What only a GPU shows: skipped without one, run there by `pytest tests/trainer/test_gpu.py`."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from kubetune.api.training import PretrainTraining
from kubetune_trainer import optimizer
from kubetune_trainer.model import attention
from tests.trainer.conftest import Run
from tests.trainer.test_golden_losses import FILE, losses_of, short
from tests.trainer.test_resume import KINDS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
PAGED = (400, 300)
"""From 100,000 numbers on bitsandbytes pages them."""


def trained(weights: torch.Tensor) -> tuple[optimizer.Named, torch.optim.Optimizer]:
    named = [("weight", torch.nn.Parameter(weights.clone()))]
    settings = PretrainTraining(max_steps=1, learning_rate=1e-2, optimizer="adamw-8bit")
    return named, optimizer.adamw(named, settings, (0.9, 0.95))


def stepped(named: optimizer.Named, adamw: torch.optim.Optimizer, steps: range) -> None:
    for number in steps:
        generator = torch.Generator("cuda").manual_seed(number)
        for _, parameter in named:
            noise = torch.randn(parameter.shape, generator=generator, device="cuda")
            parameter.grad = parameter.detach() + 0.1 * noise
        adamw.step()


def test_moments_in_8_bits_are_paged_and_restored_to_the_bit() -> None:
    named, adamw = trained(torch.randn(PAGED, device="cuda"))
    stepped(named, adamw, range(3))
    moments = adamw.state[named[0][1]]
    assert moments["state1"].is_paged
    assert moments["state1"].dtype == torch.uint8
    kept = {name: tensor.clone() for name, tensor in optimizer.state(adamw, named).items()}
    again, other = trained(named[0][1].detach())
    stepped(named, adamw, range(3, 6))
    optimizer.restore(other, again, kept)
    assert other.state[again[0][1]]["state1"].is_paged
    stepped(again, other, range(3, 6))
    assert torch.equal(named[0][1], again[0][1])


def test_attention_is_torchs_own(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base).cuda()
    attention.use_where_faster(model, 32)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", ["pretrain", "continued", "adamw-8bit"])
def test_losses_are_those_of_a_cpu(run: Run, base: Path, corpus: Path, tmp_path: Path, kind: str) -> None:
    """Of runs without random numbers on the device."""
    ended = run(short(KINDS[kind][0](tmp_path / "out", corpus, base)))
    assert ended.code == 0, ended.out
    assert losses_of(ended) == pytest.approx(json.loads(FILE.read_text())[kind], rel=5e-3)


@pytest.mark.parametrize("kind", ["lora", "qlora", "ppo", "grpo", "dpo", "reward", "classification", "mlm"])
def test_it_runs(run: Run, base: Path, corpus: Path, tmp_path: Path, kind: str) -> None:
    ended = run(short(KINDS[kind][0](tmp_path / "out", corpus, base)))
    assert ended.code == 0, ended.out
