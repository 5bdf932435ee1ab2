"""What only a GPU shows: skipped without one. `python3 -m benchmarks.gpu` runs it where there is one."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from kubetune.api.finetunejob import Lora, Quantization
from kubetune.api.training import PretrainTraining
from kubetune_trainer import loss as losses
from kubetune_trainer import optimizer
from kubetune_trainer.data import tokenizer as tokenizers
from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.loss import LinearCrossEntropy, LossModel
from kubetune_trainer.methods import qlora
from kubetune_trainer.model import attention
from kubetune_trainer.model.heads import CAUSAL_LM
from kubetune_trainer.model.loading import load
from kubetune_trainer.model.probing import evaluating
from tests.fixtures.runs import finetune_spec
from tests.trainer.conftest import Run
from tests.trainer.test_golden_losses import FILE, losses_of, short
from tests.trainer.test_resume import KINDS

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    # torch says so once of each operation whose sums have no fixed order on a GPU.
    pytest.mark.filterwarnings("ignore:.*determinis:UserWarning"),
]
PAGED = (400, 300)
"""From 100,000 numbers on bitsandbytes pages them."""
GPU = torch.device("cuda")


def trained(weights: torch.Tensor, kind: str) -> tuple[optimizer.Named, torch.optim.Optimizer]:
    named = [("weight", torch.nn.Parameter(weights.clone()))]
    settings = PretrainTraining(max_steps=1, learning_rate=1e-2, optimizer=kind)
    return named, optimizer.adamw(named, settings, (0.9, 0.95))


def stepped(named: optimizer.Named, adamw: torch.optim.Optimizer, steps: range) -> None:
    for number in steps:
        generator = torch.Generator("cuda").manual_seed(number)
        for _, parameter in named:
            noise = torch.randn(parameter.shape, generator=generator, device="cuda")
            parameter.grad = parameter.detach() + 0.1 * noise
        adamw.step()


@pytest.mark.parametrize(
    ("kind", "first", "paged"), [("adamw", "exp_avg", False), ("adamw-8bit", "state1", True)]
)
def test_moments_are_restored_to_the_bit_and_those_in_8_bits_are_paged(
    kind: str, first: str, paged: bool
) -> None:
    named, adamw = trained(torch.randn(PAGED, device="cuda"), kind)
    stepped(named, adamw, range(3))
    moments = adamw.state[named[0][1]]
    assert getattr(moments[first], "is_paged", False) == paged
    assert moments[first].dtype == (torch.uint8 if paged else torch.float32)
    kept = {name: tensor.to("cpu", copy=True) for name, tensor in optimizer.state(adamw, named).items()}
    again, other = trained(named[0][1].detach(), kind)
    stepped(named, adamw, range(3, 6))
    optimizer.restore(other, again, kept)
    assert getattr(other.state[again[0][1]][first], "is_paged", False) == paged
    stepped(again, other, range(3, 6))
    assert torch.equal(named[0][1], again[0][1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_cross_entropy_is_torchs(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(losses, "CHUNK_ELSEWHERE", 100 * 1000)
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(s, device="cuda") for s in ((250, 64), (1000, 64), (1000,)))
    targets = torch.randint(1000, (250,), device="cuda")
    found, expected = [], []
    for of, results in ((LinearCrossEntropy.apply, found), (_plain, expected)):
        inputs = [hidden.to(dtype, copy=True), weight.clone(), bias.clone()]
        value = of(*(x.requires_grad_() for x in inputs), targets) / 250
        value.backward()
        results += [value, *(x.grad for x in inputs)]
    close = {"atol": 1e-6, "rtol": 1e-4} if dtype is torch.float32 else {"atol": 1e-3, "rtol": 2e-2}
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.float(), other.float(), **close)


def _plain(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    logits = (hidden @ weight.to(hidden.dtype).T).float() + bias
    return functional.cross_entropy(logits, targets, reduction="sum")


@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-5), ("bf16", 1e-2)])
def test_documents_packed_into_a_row_are_as_each_alone(base: Path, precision: str, near: float) -> None:
    ours = LossModel(AutoModelForCausalLM.from_pretrained(base).cuda(), precision)
    tokens = torch.randint(3, 300, (1, 32), generator=torch.Generator().manual_seed(0)).cuda()
    labels = tokens.roll(-1, 1)
    labels[:, [9, 31]] = IGNORED
    places = torch.cat([torch.arange(10), torch.arange(22)])[None].cuda()
    together = ours(tokens, places, labels)
    alone = sum(
        ours(tokens[:, part], places[:, part], labels[:, part]) for part in (slice(10), slice(10, 32))
    )
    assert together.item() == pytest.approx(alone.item(), rel=near)


def test_gradients_through_4_bits_are_the_same_after_an_evaluation(base: Path, tmp_path: Path) -> None:
    spec = finetune_spec(
        tmp_path / "out", base, method="qlora", lora=Lora(rank=4, alpha=8), quantization=Quantization()
    )
    options = qlora.base_options(spec, "bf16", GPU)
    frozen, fresh = load(base, options, tokenizers.load(base), 32)
    model = qlora.apply(frozen, spec, CAUSAL_LM, fresh)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.02)
    tokens = torch.arange(3, 35, device="cuda").reshape(2, 16)
    found = []
    for _ in range(2):
        model.train().zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            model(input_ids=tokens, labels=tokens).loss.backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        with evaluating(model), torch.autocast("cuda", torch.bfloat16):
            model(input_ids=tokens)
    assert len(found[0]) == 2 * 7 * 2
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-6)


def test_attention_is_torchs_own(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base).cuda()
    attention.choose(model, 32)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", ["pretrain", "continued", "adamw-8bit"])
def test_losses_are_those_of_a_cpu(run: Run, calm: Path, corpus: Path, tmp_path: Path, kind: str) -> None:
    """Of runs without random numbers on the device."""
    ended = run(short(KINDS[kind][0](tmp_path / "out", corpus, calm)))
    assert ended.code == 0, ended.out
    assert losses_of(ended) == pytest.approx(json.loads(FILE.read_text())[kind], rel=5e-3)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("pretrain", "continued", "adamw-8bit")])
def test_it_runs(run: Run, base: Path, corpus: Path, tmp_path: Path, kind: str) -> None:
    ended = run(short(KINDS[kind][0](tmp_path / "out", corpus, base)))
    assert ended.code == 0, ended.out
