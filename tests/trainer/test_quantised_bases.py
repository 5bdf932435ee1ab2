"""Bases whose files are quantised: trained on with the gradients of what the files stand for, or refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes.nn.modules as bnb
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GptOssConfig,
    GptOssForCausalLM,
    PreTrainedModel,
)
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from kubetune.api.finetunejob import Lora, PromptTuning, Quantization
from kubetune.api.runspec import RunAdapter, RunReward, RunSpec
from kubetune_trainer import warned
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.methods import lora, prompt_tuning, qlora
from kubetune_trainer.model import loading, quantised
from kubetune_trainer.model.heads import CAUSAL_LM, CLASSIFIER
from kubetune_trainer.model.probing import evaluating
from kubetune_trainer.runtime import Precision
from tests.fixtures.runs import finetune_spec, source
from tests.trainer.conftest import Run
from tests.trainer.test_resume import KINDS

TOKENS = torch.arange(3, 35).reshape(2, 16)
METHODS: dict[str, Any] = {"lora": lora, "qlora": qlora, "prompt-tuning": prompt_tuning}
LEVELS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
"""Of MXFP4 (OCP Microscaling Formats 1.0, table 5)."""
OTHERS = sorted(
    {*AUTO_QUANTIZATION_CONFIG_MAPPING} - {"bitsandbytes_4bit", "bitsandbytes_8bit", "fp8", "mxfp4"}
)


def settings_of(folder: Path, **quantization: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": quantization}))


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A base as bitsandbytes saves it."""

    def make(**settings: Any) -> Path:
        folder = tmp_path_factory.mktemp("made") / "base"
        shutil.copytree(base, folder, ignore=shutil.ignore_patterns("manifest.json", "model*.safetensors"))
        quantization = BitsAndBytesConfig(**settings)
        AutoModelForCausalLM.from_pretrained(base, quantization_config=quantization).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def nf4(made: Callable[..., Path]) -> Path:
    """With another compute dtype than any run has."""
    return made(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float16)


@pytest.fixture(scope="module")
def int8(made: Callable[..., Path]) -> Path:
    return made(load_in_8bit=True)


@pytest.fixture(scope="module")
def fp8(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scaled by blocks of 32 x 32."""
    folder = tmp_path_factory.mktemp("fp8") / "base"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("manifest.json"))
    saved = {}
    for name, tensor in load_file(base / "model.safetensors").items():
        saved[name] = tensor
        if tensor.ndim == 2 and ".layers." in name:
            blocks = tensor.float().reshape(tensor.shape[0] // 32, 32, tensor.shape[1] // 32, 32)
            scales = blocks.abs().amax((1, 3)) / 448
            saved[name] = (blocks / scales[:, None, :, None]).reshape(tensor.shape).to(torch.float8_e4m3fn)
            saved[f"{name}_scale_inv"] = scales
    save_file(saved, folder / "model.safetensors", metadata={"format": "pt"})
    settings_of(folder, quant_method="fp8", weight_block_size=[32, 32], activation_scheme="dynamic")
    return folder


@pytest.fixture(scope="module")
def mxfp4(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gpt-oss, whose experts are held so."""
    folder = tmp_path_factory.mktemp("mxfp4") / "base"
    keep = shutil.ignore_patterns("manifest.json", "config.json", "model*.safetensors")
    shutil.copytree(base, folder, ignore=keep)
    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(base)), hidden_size=64, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_local_experts=4,
        num_experts_per_tok=2, layer_types=["sliding_attention", "full_attention"],
        eos_token_id=0, pad_token_id=1, max_position_embeddings=256,
    )  # fmt: skip
    GptOssForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    saved = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = tensor.shape
            shape = (experts, outputs, inputs // 32)
            saved[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8)
            saved[f"{name}_scales"] = torch.randint(118, 122, shape, dtype=torch.uint8)
        else:
            saved[name] = tensor
    save_file(saved, folder / "model.safetensors", metadata={"format": "pt"})
    settings_of(folder, quant_method="mxfp4", modules_to_not_convert=["lm_head", "model.embed_tokens"])
    return folder


def job(out: Path, base: Path, method: str, *sources: Any, **more: Any) -> RunSpec:
    tuned = {"prompt_tuning": PromptTuning(virtual_tokens=4)} if method == "prompt-tuning" else {}
    quantization = {"quantization": Quantization(double_quant=False)} if method == "qlora" else {}
    return finetune_spec(out, base, *sources, method=method, **tuned, **quantization, **more)


def load(spec: RunSpec, precision: Precision = "fp32") -> PreTrainedModel:
    assert spec.model.path is not None
    options = METHODS[spec.method].base_options(spec, precision, torch.device("cpu"))
    tokenizer = AutoTokenizer.from_pretrained(spec.model.path)
    model, _ = loading.load(Path(spec.model.path), options, tokenizer, 32)
    return model


def widened(model: PreTrainedModel, base: Path) -> PreTrainedModel:
    """What a model held by bitsandbytes stands for."""
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for name, layer in model.named_modules():
        if isinstance(layer, bnb.Linear4bit):
            weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        elif isinstance(layer, bnb.Linear8bitLt):
            weight = layer.weight.data.float() * layer.weight.SCB[:, None].float() / 127
        elif isinstance(layer, nn.Linear | nn.Embedding):
            weight = layer.weight.data
        else:
            continue
        whole.get_submodule(name).weight.data = weight.float().clone()
    return whole


def gradients(model: PreTrainedModel, spec: RunSpec) -> dict[str, torch.Tensor]:
    """Of what is trained, after a forward in eval mode, as every run begins with."""
    torch.manual_seed(0)
    trained = METHODS[spec.method].apply(model, spec, CAUSAL_LM, [])
    torch.manual_seed(1)
    for name, parameter in sorted(trained.named_parameters()):
        if "lora_" in name:
            torch.nn.init.normal_(parameter.data, std=0.05)
    with evaluating(trained):
        trained(input_ids=TOKENS)
    trained.train()
    trained(input_ids=TOKENS, labels=TOKENS).loss.backward()
    return {n: p.grad for n, p in trained.named_parameters() if p.requires_grad and p.grad is not None}


@pytest.mark.parametrize("method", METHODS)
def test_gradients_on_a_base_saved_in_4_bits_are_those_of_what_it_stands_for(
    method: str, nf4: Path, base: Path, tmp_path: Path
) -> None:
    """bitsandbytes repacks its weights at the first forward in eval mode on CPUs with AVX512-BF16."""
    spec = job(tmp_path, nf4, method)
    model = load(spec)
    layers = [m for m in model.modules() if isinstance(m, bnb.Linear4bit)]
    assert len(layers) == 2 * 7
    oracle = gradients(widened(model, base), spec)
    found = gradients(model, spec)
    assert found.keys() == oracle.keys()
    for name in oracle:
        torch.testing.assert_close(found[name], oracle[name], rtol=1e-3, atol=1e-6, msg=name)


def test_gradients_on_a_base_saved_in_8_bits(int8: Path, base: Path, tmp_path: Path) -> None:
    """Its kernels round what goes in to 8 bits, too."""
    spec = job(tmp_path, int8, "lora")
    model = load(spec)
    oracle = gradients(widened(model, base), spec)
    found = gradients(model, spec)
    assert found.keys() == oracle.keys()
    off = {n: float((found[n] - oracle[n]).norm() / oracle[n].norm()) for n in oracle}
    assert max(off.values()) < 0.05, off


def test_fp8_and_mxfp4_are_widened_to_the_very_numbers(fp8: Path, mxfp4: Path, tmp_path: Path) -> None:
    saved = load_file(fp8 / "model.safetensors")
    model = load(job(tmp_path, fp8, "lora"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    name = "model.layers.1.mlp.up_proj.weight"
    scales = saved[f"{name}_scale_inv"].repeat_interleave(32, 0).repeat_interleave(32, 1)
    assert torch.equal(model.get_parameter(name), saved[name].float() * scales)

    saved = load_file(mxfp4 / "model.safetensors")
    model = load(job(tmp_path, mxfp4, "lora"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    name = "model.layers.1.mlp.experts.gate_up_proj"
    blocks, scales = saved[f"{name}_blocks"].int(), saved[f"{name}_scales"].float()
    halves = torch.stack([LEVELS[blocks & 15], LEVELS[blocks >> 4]], -1).flatten(-2)
    expected = (halves * 2 ** (scales[..., None] - 127)).flatten(-2).transpose(1, 2)
    assert torch.equal(model.get_parameter(name), expected)


@pytest.fixture
def repacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU with AVX512-BF16, wherever this runs: no forward finds a layer that would be repacked."""
    forward = bnb.Linear4bit.forward

    def checked(self: Any, x: torch.Tensor) -> torch.Tensor:
        assert not self.support_avx512bf16_for_cpu, "this layer would be repacked"
        return forward(self, x)

    monkeypatch.setattr(bnb, "has_avx512bf16", lambda: True)
    monkeypatch.setattr(bnb.Linear4bit, "forward", checked)


@pytest.mark.usefixtures("repacking")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_on_a_base_saved_in_4_bits(
    method: str, run: Run, nf4: Path, corpus: Path, tmp_path: Path
) -> None:
    spec = job(
        tmp_path / "out", nf4, method, source(corpus / "pairs.jsonl", "alpaca"), training={"max_steps": 3}
    )
    ended = run(spec)
    assert ended.code == 0, ended.out


@pytest.mark.usefixtures("repacking")
def test_every_stage_runs_on_a_base_saved_in_4_bits(
    run: Run, nf4: Path, corpus: Path, tmp_path: Path
) -> None:
    """Preferences, whose reference is the base; a classifier; a reward model, and PPO that it judges."""
    for stage in ("dpo", "reward", "classification"):
        spec = KINDS[stage][0](tmp_path / stage, corpus, nf4)
        ended = run(spec.model_copy(update={"method": "lora", "lora": Lora(rank=4)}))
        assert ended.code == 0, ended.out
    ppo = KINDS["ppo"][0](tmp_path / "ppo", corpus, nf4)
    judge = RunAdapter(
        uri="pvc://judge", path=str(tmp_path / "reward/artifact"), root=str(tmp_path / "reward")
    )
    ppo = ppo.model_copy(update={"reward": RunReward(model=judge)})
    ended = run(ppo.model_copy(update={"method": "lora", "lora": Lora(rank=4)}))
    assert ended.code == 0, ended.out


def test_the_layers_of_a_head_are_settled_too(nf4: Path, tmp_path: Path, repacking: None) -> None:
    options = lora.base_options(job(tmp_path, nf4, "lora"), "bf16", torch.device("cpu"))
    tokenizer = AutoTokenizer.from_pretrained(nf4)
    model, _ = loading.load(nf4, options, tokenizer, 32, CLASSIFIER, {"num_labels": 1})
    layers = [m for m in model.modules() if isinstance(m, bnb.Linear4bit)]
    assert layers
    assert {(m.support_avx512bf16_for_cpu, m.compute_dtype) for m in layers} == {(False, torch.bfloat16)}


@pytest.mark.parametrize("form", ["int8", "fp8", "mxfp4"])
def test_lora_runs_on_it(
    form: str, run: Run, corpus: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(form)
    pairs = source(corpus / "pairs.jsonl", "alpaca")
    ended = run(job(tmp_path / "out", folder, "lora", pairs, training={"max_steps": 3}, packing=False))
    assert ended.code == 0, ended.out


@pytest.mark.parametrize("form", ["nf4", "int8", "fp8", "mxfp4"])
def test_every_weight_of_it_cannot_be_trained(
    form: str, run: Run, corpus: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """transformers saves weights of fp8 and MXFP4 bases with scales that do not belong to them."""
    folder = request.getfixturevalue(form)
    nothing = source(corpus / "missing.jsonl")
    ended = run(job(tmp_path / "out", folder, "full", nothing))
    assert (ended.code, ended.message.reason) == (10, "InvalidSpec"), ended.out
    assert "choose method lora, or name the base as it was before" in ended.message.message
    assert "Traceback" not in ended.out


@pytest.mark.parametrize("method", ["full", *METHODS])
@pytest.mark.parametrize("form", [*OTHERS, "tomorrow", None])
def test_every_other_format_is_refused_by_name(
    form: str | None, method: str, base: Path, tmp_path: Path
) -> None:
    shutil.copy(base / "config.json", tmp_path)
    settings_of(tmp_path, **({"quant_method": form} if form else {"bits": 4}))
    with pytest.raises(InvalidSpec, match=form or "an unnamed format"):
        quantised.check(tmp_path, method, None)


def test_what_qlora_would_hold_otherwise(nf4: Path, int8: Path, made: Callable[..., Path]) -> None:
    warned.restart()
    quantised.check(nf4, "qlora", Quantization(double_quant=False))
    assert not warned.given()
    quantised.check(nf4, "qlora", Quantization(double_quant=True))
    assert [w.reason for w in warned.given()] == ["QuantizedAlready"]
    with pytest.raises(InvalidSpec, match=r"int8.*cannot hold it in nf4: choose method lora"):
        quantised.check(int8, "qlora", None)
    with pytest.raises(InvalidSpec, match="fp4"):
        quantised.check(made(load_in_4bit=True, bnb_4bit_quant_type="fp4"), "qlora", None)
