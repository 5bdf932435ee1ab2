"""Runs on a mixture of experts: what is adapted is saved, read back, merged and gone on with."""

import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from kubetune.api.runspec import RunAdapter
from kubetune.artifacts.manifest import read_manifest
from tests.fixtures.families import tiny
from tests.fixtures.runs import finetune_spec, source
from tests.trainer.conftest import Run

TOKENS = torch.arange(3, 35).reshape(2, 16)


@pytest.fixture(scope="module")
def moe(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moe") / "base"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("manifest.json", "config.json", "model*"))
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(base)), hidden_size=32, intermediate_size=48,
        moe_intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, num_experts=4, num_experts_per_tok=2, max_position_embeddings=128,
        initializer_range=0.1, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    return folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS).logits


def test_an_adapter_of_experts_read_back_by_peft_is_the_merged_model(
    run: Run, moe: Path, corpus: Path, tmp_path: Path
) -> None:
    pairs = source(corpus / "pairs.jsonl", "alpaca")
    ended = run(finetune_spec(tmp_path / "apart", moe, pairs))
    assert ended.code == 0, ended.out
    assert "Experts" not in ended.out, "nothing is left out"
    artifact = tmp_path / "apart/artifact"
    weights = load_file(artifact / "adapter_model.safetensors")
    assert ended.message.plan is not None
    assert ended.message.plan.trainable_parameters == sum(w.numel() for w in weights.values())
    names = {"q_proj", "k_proj", "v_proj", "o_proj", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
    assert {*(read_manifest(artifact).target_modules or ())} == names
    assert all(w.any() for name, w in weights.items() if "experts" in name)
    base = AutoModelForCausalLM.from_pretrained(moe)
    before = logits(base)
    adapted = logits(PeftModel.from_pretrained(base, artifact))
    assert (adapted - before).norm() > 0.1 * before.norm()

    ended = run(finetune_spec(tmp_path / "merged", moe, pairs, merge=True))
    assert ended.code == 0, ended.out
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged/artifact"))
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)


def test_it_is_gone_on_with_and_merged_into_every_weight(
    run: Run, moe: Path, corpus: Path, tmp_path: Path
) -> None:
    pairs = source(corpus / "pairs.jsonl", "alpaca")
    ended = run(finetune_spec(tmp_path / "first", moe, pairs, training={"max_steps": 40}))
    assert ended.code == 0, ended.out
    artifact = tmp_path / "first/artifact"
    adapter = RunAdapter(uri="pvc://out/first", path=str(artifact), root=str(tmp_path))
    assert ended.message.evaluation is not None
    tuned = {v.name: v.value for v in ended.message.evaluation.tuned}
    for method in ("lora", "qlora", "full"):
        spec = finetune_spec(tmp_path / method, moe, pairs, method=method, lora=None, adapter=adapter)
        ended = run(spec)
        assert ended.code == 0, ended.out
        assert ended.message.evaluation is not None
        began = {v.name: v.value for v in ended.message.evaluation.baseline}
        near = 0.05 if method == "qlora" else 1e-3
        assert abs(float(began["loss"]) - float(tuned["loss"])) < near * float(tuned["loss"])


def test_experts_in_4_bits_learn(run: Run, moe: Path, corpus: Path, tmp_path: Path) -> None:
    pairs = source(corpus / "pairs.jsonl", "alpaca")
    for method in ("lora", "qlora"):
        spec = finetune_spec(
            tmp_path / method,
            moe,
            pairs,
            method=method,
            training={"max_steps": 30},
        )
        ended = run(spec)
        assert ended.code == 0, ended.out
        assert "Experts" not in ended.out
        evaluation = ended.message.evaluation
        assert evaluation is not None
        before, after = (
            {v.name: float(v.value) for v in values}["loss"]
            for values in (evaluation.baseline, evaluation.tuned)
        )
        assert after < 0.7 * before


def test_what_no_gradient_reaches_is_told(run: Run, base: Path, corpus: Path, tmp_path: Path) -> None:
    """What chooses the tokens that are attended to learns nothing from what is written."""
    folder = tmp_path / "base"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("manifest.json", "config.json", "model*"))
    torch.manual_seed(0)
    config = AutoConfig.for_model(**tiny("deepseek_v32"))
    config.vocab_size, config.eos_token_id = len(AutoTokenizer.from_pretrained(base)), 0
    config.pad_token_id, config.bos_token_id = 1, None
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    pairs = source(corpus / "pairs.jsonl", "alpaca")
    for method in ("lora", "full"):
        ended = run(finetune_spec(tmp_path / method, folder, pairs, method=method, packing=False))
        assert ended.code == 0, ended.out
        warned = [line for line in ended.out.splitlines() if "reason=NotTrained" in line]
        assert len(warned) == 1, ended.out
        assert "self_attn.indexer" in warned[0]
