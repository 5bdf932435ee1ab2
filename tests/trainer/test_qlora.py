"""LoRA on a base in 4 bits: exact where it can be, small, and with the gradients that it should have."""

from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from kubetune.api.finetunejob import Lora, Quantization
from kubetune.api.runspec import RunSpec
from kubetune.artifacts.digest import folder_digest
from kubetune.artifacts.manifest import read_manifest
from kubetune_trainer.methods import qlora
from kubetune_trainer.model.counting import size
from kubetune_trainer.model.heads import CAUSAL_LM
from kubetune_trainer.model.loading import load
from kubetune_trainer.model.probing import evaluating
from kubetune_trainer.runtime import Precision
from tests.fixtures.runs import finetune_spec, source
from tests.trainer.conftest import Run
from tests.trainer.test_resume import KINDS

TOKENS = torch.arange(3, 35).reshape(2, 16)


@pytest.fixture
def spec(base: Path, tmp_path: Path) -> RunSpec:
    return finetune_spec(
        tmp_path / "out", base, method="qlora", lora=Lora(rank=4, alpha=6), quantization=Quantization()
    )


def loaded(spec: RunSpec, precision: Precision) -> PeftModel:
    assert spec.model.path is not None
    options = qlora.base_options(spec, precision, torch.device("cpu"))
    tokenizer = AutoTokenizer.from_pretrained(spec.model.path)
    model, fresh = load(Path(spec.model.path), options, tokenizer, 32)
    return qlora.apply(model, spec, CAUSAL_LM, fresh)


def gradients(model: PeftModel) -> dict[str, torch.Tensor]:
    """Of every trained parameter, with B's set to something so that A has gradients, too."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.02)
    model.train().zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_gradients_are_the_same_after_an_evaluation(spec: RunSpec) -> None:
    """bitsandbytes repacks its weights at the first forward in eval mode on CPUs with AVX512-BF16."""
    model = loaded(spec, "bf16")
    before = gradients(model)
    with evaluating(model), torch.autocast("cpu", torch.bfloat16):
        model(input_ids=TOKENS)
    after = gradients(model)
    assert len(before) == len(after) == 2 * 7 * 2
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_layer_is_its_dequantised_weights_and_the_adapter(spec: RunSpec) -> None:
    model = loaded(spec, "fp32").eval()
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    weights = dequantize_4bit(layer.base_layer.weight.data, layer.base_layer.weight.quant_state)
    x = torch.randn(3, weights.shape[1])
    low = x @ layer.lora_A["default"].weight.T @ layer.lora_B["default"].weight.T
    torch.testing.assert_close(layer(x), x @ weights.T + low * 6 / 4, rtol=0, atol=1e-5)


def test_the_base_is_held_in_4_bits_and_counted_in_full(spec: RunSpec, base: Path) -> None:
    model = loaded(spec, "bf16")
    layers = [m for m in model.modules() if isinstance(m, Linear4bit)]
    assert len(layers) == 2 * 7, "every linear layer but the output head"
    assert {layer.weight.dtype for layer in layers} == {torch.uint8}
    held = sum(layer.weight.numel() for layer in layers)
    assert held * 2 == sum(layer.weight.quant_state.shape.numel() for layer in layers)
    whole = AutoModelForCausalLM.from_pretrained(base)
    assert size(model) == size(whole) + size(model, trainable=True)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_it_learns_and_its_adapter_is_one_for_the_base_as_it_is(
    run: Run, base: Path, corpus: Path, tmp_path: Path
) -> None:
    job = finetune_spec(
        tmp_path / "out", base, source(corpus / "pairs.jsonl", "alpaca"), method="qlora",
        training={"max_steps": 40},
    )  # fmt: skip
    ended = run(job)
    assert ended.code == 0, ended.out
    assert "kernels" not in ended.out
    evaluation = ended.message.evaluation
    assert evaluation is not None
    before, after = (
        {v.name: float(v.value) for v in values}["loss"] for values in (evaluation.baseline, evaluation.tuned)
    )
    assert after < 0.5 * before
    artifact = tmp_path / "out/artifact"
    manifest = read_manifest(artifact)
    assert (manifest.format, manifest.rank, manifest.base_model_digest) == ("lora", 4, folder_digest(base))
    assert ended.message.plan is not None
    assert ended.message.plan.method == "qlora"
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), artifact)
    assert not any(isinstance(module, Linear4bit) for module in model.modules())


def test_a_reward_model_is_loaded_on_the_base_as_it_is(
    run: Run, base: Path, corpus: Path, tmp_path: Path
) -> None:
    job = KINDS["reward"][0](tmp_path / "out", corpus, base).model_copy(update={"method": "qlora"})
    ended = run(job)
    assert ended.code == 0, ended.out
    artifact = tmp_path / "out/artifact"
    config = AutoConfig.from_pretrained(artifact)
    whole = AutoModelForSequenceClassification.from_pretrained(base, config=config)
    model = PeftModel.from_pretrained(whole, artifact)
    assert not any(isinstance(module, Linear4bit) for module in model.modules())
