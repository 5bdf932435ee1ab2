"""A merged adapter is full weights that answer as base and adapter do, in the base's own dtype."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from kubetune.api.finetunejob import Lora
from kubetune.api.runspec import RunSpec
from kubetune.artifacts.digest import folder_digest
from kubetune.artifacts.manifest import read_manifest
from kubetune_trainer.methods import merge
from tests.fixtures.runs import finetune_spec, source
from tests.trainer.conftest import Run
from tests.trainer.test_runs import numbers

TOKENS = torch.arange(3, 43).reshape(2, 20)


def spec_of(out: Path, base: Path, corpus: Path, **changes) -> RunSpec:
    more = {"lora": Lora(rank=4, alpha=8), "training": {"max_steps": 12}, "merge": True} | changes
    return finetune_spec(out, base, source(corpus / "pairs.jsonl", "alpaca"), **more)


def narrow(base: Path, folder: Path, dtype: torch.dtype) -> Path:
    """The base as it would be published: in 16 bits."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.to(dtype).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS).logits


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_it_answers_as_base_and_adapter(
    run: Run, base: Path, corpus: Path, tmp_path: Path, method: str, variant: str
):
    """Against peft's own two: the same run without merging has the same adapter."""
    wanted = {"method": method, "lora": Lora(rank=4, alpha=8, variant=variant)}
    ended = run(spec_of(tmp_path / "out", base, corpus, **wanted))
    assert ended.code == 0, ended.out
    apart = run(spec_of(tmp_path / "apart", base, corpus, merge=None, **wanted))
    assert apart.code == 0, apart.out
    assert numbers(ended.message.evaluation.tuned) == numbers(apart.message.evaluation.tuned)

    artifact = tmp_path / "out/artifact"
    manifest = read_manifest(artifact)
    assert (manifest.format, manifest.rank, manifest.base_model_digest) == ("full", None, None)
    assert manifest.digest == folder_digest(artifact) == ended.message.artifact.digest
    assert ended.message.artifact.format == "full"
    assert {p.name for p in artifact.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert not (artifact / "adapter_config.json").exists()
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    both = PeftModel.from_pretrained(whole, tmp_path / "apart/artifact")
    merged = AutoModelForCausalLM.from_pretrained(artifact)
    assert merged.dtype == torch.float32
    torch.testing.assert_close(logits(merged), logits(both), atol=1e-4, rtol=1e-4)
    assert logits(merged).sub(logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 0.1
    card = (artifact / "README.md").read_text()
    parameters = f"{sum(p.numel() for p in merged.parameters()):,} parameters"
    assert f"{parameters}, trained by kubetune: a LoRA adapter merged into its base" in card
    assert "PeftModel" not in card


@pytest.mark.parametrize(("method", "dtype"), [("lora", torch.bfloat16), ("qlora", torch.float16)])
def test_the_dtype_is_that_of_the_base(
    run: Run, base: Path, corpus: Path, tmp_path: Path, method: str, dtype: torch.dtype
):
    published = narrow(base, tmp_path / "base", dtype)
    ended = run(spec_of(tmp_path / "out", published, corpus, method=method))
    assert ended.code == 0, ended.out
    assert f"merge dtype={str(dtype).removeprefix('torch.')}" in ended.out
    artifact = tmp_path / "out/artifact"
    assert {t.dtype for t in load_file(artifact / "model.safetensors").values()} == {dtype}
    assert json.loads((artifact / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    layers = load_file(published / "model.safetensors")
    changed = {
        n for n, t in load_file(artifact / "model.safetensors").items() if not torch.equal(t, layers[n])
    }
    assert changed
    assert all("_proj" in name for name in changed), "what has no adapter stays as it is, to the bit"


def test_each_tensor_stays_in_its_own_dtype(run: Run, base: Path, corpus: Path, tmp_path: Path):
    """As of bases whose norms are in fp32, with numbers that 16 bits do not hold; their files in a folder."""
    published = narrow(base, tmp_path / "base", torch.bfloat16)
    there = load_file(published / "model.safetensors")
    for name in [n for n in there if "norm" in n]:
        there[name] = there[name].float() + 1e-6
    (published / "model.safetensors").unlink()
    (published / "parts").mkdir()
    save_file(there, published / "parts/one.safetensors", metadata={"format": "pt"})
    shards = {"metadata": {}, "weight_map": dict.fromkeys(there, "parts/one.safetensors")}
    (published / "model.safetensors.index.json").write_text(json.dumps(shards))
    ended = run(spec_of(tmp_path / "out", published, corpus))
    assert ended.code == 0, ended.out
    artifact = tmp_path / "out/artifact"
    merged = load_file(artifact / "model.safetensors")
    assert {n: t.dtype for n, t in merged.items()} == {n: t.dtype for n, t in there.items()}
    assert {n for n in there if "_proj" in n} == {n for n in there if not torch.equal(there[n], merged[n])}
    assert json.loads((artifact / "config.json").read_text())["dtype"] == "bfloat16"


def test_another_job_starts_from_it(run: Run, base: Path, corpus: Path, tmp_path: Path):
    first = run(spec_of(tmp_path / "first", base, corpus))
    assert first.code == 0, first.out
    second = run(spec_of(tmp_path / "second", tmp_path / "first/artifact", corpus, merge=None))
    assert second.code == 0, second.out
    reached = numbers(first.message.evaluation.tuned)["loss"]
    assert numbers(second.message.evaluation.baseline)["loss"] == pytest.approx(reached, rel=0.02)


@pytest.mark.parametrize("stage", ["classification", "reward"])
def test_the_head_is_merged_too(run: Run, base: Path, corpus: Path, tmp_path: Path, stage: str):
    form, name = {"classification": ("classification", "labelled"), "reward": ("preference", "preferences")}[
        stage
    ]
    data = source(corpus / f"{name}.jsonl", form)
    more = {"stage": stage, "packing": False, "training": {"max_steps": 6, "learning_rate": 1e-3}}
    for out, merged in (("out", True), ("apart", None)):
        ended = run(finetune_spec(tmp_path / out, base, data, merge=merged, **more))
        assert ended.code == 0, ended.out
    artifact, apart = tmp_path / "out/artifact", tmp_path / "apart/artifact"
    model, info = AutoModelForSequenceClassification.from_pretrained(artifact, output_loading_info=True)
    assert not info["missing_keys"]
    whole = AutoModelForSequenceClassification.from_pretrained(
        base, config=type(model.config).from_pretrained(apart), dtype=torch.float32
    )
    both = PeftModel.from_pretrained(whole, apart)
    torch.testing.assert_close(logits(model), logits(both), atol=1e-4, rtol=1e-4)
    assert model.config.id2label == both.config.id2label


def changed_base(base: Path, folder: Path, **config) -> Path:
    shutil.copytree(base, folder)
    (folder / "manifest.json").unlink()
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # peft's, of just this
def test_what_cannot_be_merged_is_refused_before_training(run: Run, base: Path, corpus: Path, tmp_path: Path):
    tied = changed_base(base, tmp_path / "tied", tie_word_embeddings=True)
    weights = load_file(tied / "model.safetensors")
    weights.pop("lm_head.weight", None)
    save_file(weights, tied / "model.safetensors", metadata={"format": "pt"})
    embeddings = Lora(rank=4, alpha=8, target_modules=["embed_tokens", "q_proj"])
    ended = run(spec_of(tmp_path / "out", tied, corpus, lora=embeddings))
    assert ended.code == 10, ended.out
    assert "names model.embed_tokens, which is both embeddings and output head" in ended.message.message
    assert "train step" not in ended.out

    doubles = {n: t.double() for n, t in load_file(base / "model.safetensors").items()}
    wide = changed_base(base, tmp_path / "wide")
    save_file(doubles, wide / "model.safetensors", metadata={"format": "pt"})
    ended = run(spec_of(tmp_path / "out", wide, corpus))
    assert ended.code == 10, ended.out
    assert "weights are F64, not F32, BF16, F16" in ended.message.message


def test_a_merger_that_answers_otherwise_fails_the_run(
    run: Run, base: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As if the volume had given back other weights than were written."""
    export = merge.full.export

    def damaged(model, tokenizer, folder: Path):
        facts = export(model, tokenizer, folder)
        weights = load_file(folder / "model.safetensors")
        weights["model.layers.1.mlp.down_proj.weight"] *= 1.1
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return facts

    monkeypatch.setattr(merge.full, "export", damaged)
    ended = run(spec_of(tmp_path / "out", base, corpus))
    assert ended.code == 10, ended.out
    assert "the merged weights do not answer as base and adapter do" in ended.message.message
    assert not (tmp_path / "out/artifact").exists()


def test_tolerances_and_differences():
    sizes = [merge.tolerance(t) for t in (torch.float32, torch.float16, torch.bfloat16)]
    assert sizes == [1e-4, 2**-7, 2**-4]
    logits = torch.tensor([[100.0, 101.0], [100.0, 99.0]])
    assert merge.difference(logits + 5, logits) == 0, "the same answers"
    assert merge.difference(logits.flip(-1), logits) == pytest.approx(2)
    assert merge.difference(torch.tensor([[2.2]]), torch.tensor([[2.0]])) == pytest.approx(0.1)
