"""A run that starts from a former adapter goes on with it, and only with one of its base."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kubetune.api.data import Evaluation
from kubetune.api.finetunejob import Lora
from kubetune.api.runspec import RunAdapter, RunSpec
from kubetune.artifacts.digest import folder_digest
from kubetune.artifacts.manifest import read_manifest
from tests.fixtures.runs import finetune_spec, pretrain_spec, source
from tests.trainer.conftest import Process, Run
from tests.trainer.test_runs import numbers

PROMPT = Evaluation(sample_prompts=["What is cat1?"], max_new_tokens=8)
OTHER = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def former(corpus: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a FineTuneJob with method lora."""
    out = tmp_path_factory.mktemp("former") / "first"
    spec = finetune_spec(
        out, base, source(corpus / "pairs.jsonl", "alpaca"), lora=Lora(rank=3, alpha=5, dropout=0.1),
        training={"max_steps": 30}, evaluation=PROMPT,
    )  # fmt: skip
    process = Process(spec, out.parent)
    assert process.end() == 0, process.out
    return out / "artifact"


def spec_of(tmp: Path, base: Path, corpus: Path, adapter: Path, **changes) -> RunSpec:
    digest = changes.pop("digest", None)
    start = RunAdapter(uri="pvc://out/first", path=str(adapter), root=str(adapter.parent), digest=digest)
    return finetune_spec(
        tmp / "out", base, source(corpus / "pairs.jsonl", "alpaca"), lora=None, adapter=start,
        evaluation=PROMPT, **changes,
    )  # fmt: skip


def test_training_goes_on(run: Run, base: Path, corpus: Path, former: Path, tmp_path: Path):
    digest = folder_digest(former)
    ended = run(spec_of(tmp_path, base, corpus, former, digest=digest))
    assert ended.code == 0, ended.out
    before = read_manifest(former).report["evaluation"]
    shown = ended.message.evaluation
    assert numbers(shown.baseline)["loss"] == pytest.approx(
        {v["name"]: float(v["value"]) for v in before["tuned"]}["loss"], rel=1e-5
    ), "it starts where the other one ended"
    assert shown.samples[0].before == before["samples"][0]["after"]

    artifact = tmp_path / "out/artifact"
    manifest = read_manifest(artifact)
    assert (manifest.format, manifest.rank) == ("lora", 3)
    assert manifest.target_modules == read_manifest(former).target_modules
    assert manifest.base_model_digest == folder_digest(base), "the root base's, not the adapter's"
    config = json.loads((artifact / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (3, 5, 0.1)
    assert not config["modules_to_save"]
    old, new = (load_file(p / "adapter_model.safetensors") for p in (former, artifact))
    assert old.keys() == new.keys()
    assert not any(torch.equal(old[n], new[n]) for n in old)
    assert folder_digest(former) == digest, "the former one is left as it is"
    assert digest in (artifact / "report.html").read_text()


def test_every_weight_is_trained_from_base_and_adapter(
    run: Run, base: Path, corpus: Path, former: Path, tmp_path: Path
):
    ended = run(spec_of(tmp_path, base, corpus, former, method="full", training={"learning_rate": 1e-3}))
    assert ended.code == 0, ended.out
    before = read_manifest(former).report["evaluation"]
    shown = ended.message.evaluation
    assert numbers(shown.baseline)["loss"] == pytest.approx(
        {v["name"]: float(v["value"]) for v in before["tuned"]}["loss"], rel=0.01
    ), "it starts where the adapter ended, but for the base's rounding to bf16 under it"
    assert numbers(shown.tuned)["loss"] < numbers(shown.baseline)["loss"]
    artifact = tmp_path / "out/artifact"
    assert read_manifest(artifact).format == "full"
    old, new = (load_file(p / "model.safetensors") for p in (base, artifact))
    assert old.keys() == new.keys()
    assert not any(torch.equal(old[n], new[n]) for n in old)
    assert ended.message.plan.trainable_parameters == ended.message.plan.parameters


def changed(tmp: Path, former: Path, **fields) -> Path:
    """A copy of an adapter with other settings and no manifest."""
    copy = tmp / "copy"
    shutil.copytree(former, copy)
    (copy / "manifest.json").unlink()
    path = copy / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return copy


def without(tmp: Path, former: Path, layer: str) -> Path:
    copy = changed(tmp, former)
    path = copy / "adapter_model.safetensors"
    save_file({n: t for n, t in load_file(path).items() if layer not in n}, path)
    return copy


BAD = {
    "another version": (lambda t, f: f, {"digest": OTHER}, 15, f"adapter has digest sha256:.*, not {OTHER}"),
    "no folder": (lambda t, f: f / "none", {}, 11, "the adapter's folder none does not exist"),
    "no adapter": (lambda t, f: f.parent.parent, {}, 11, "adapter_config.json is missing: name a folder"),
    "another rank": (lambda t, f: changed(t, f, r=4), {}, 15, "does not fit the base: .*size mismatch"),
    "other layers": (lambda t, f: changed(t, f, target_modules=["c_attn"]), {}, 15, "does not fit the base"),
    "a layer is missing": (lambda t, f: without(t, f, "layers.1.mlp"), {}, 15, "other layers than the base"),
    "another kind": (lambda t, f: changed(t, f, peft_type="IA3"), {}, 10, "is of type IA3: name a LoRA"),
    "with whole layers": (
        lambda t, f: changed(t, f, modules_to_save=["score"]), {}, 10, "also holds whole layers \\(score\\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused(
    run: Run, base: Path, corpus: Path, former: Path, tmp_path: Path, case: str
):
    make, changes, code, message = BAD[case]
    ended = run(spec_of(tmp_path, base, corpus, make(tmp_path, former), **changes))
    assert ended.code == code, ended.out
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(ended.message.message)
    assert not (tmp_path / "out/artifact").exists()


def test_an_adapter_of_another_base_is_refused(run: Run, corpus: Path, former: Path, tmp_path: Path):
    other = pretrain_spec(tmp_path / "other", source(corpus / "web.jsonl"), training={"max_steps": 1})
    assert run(other).code == 0
    base = tmp_path / "other/artifact"
    ended = run(spec_of(tmp_path, base, corpus, former))
    assert ended.code == 15, ended.out
    theirs = read_manifest(former).base_model_digest
    assert f"was trained on base {theirs}, not on {folder_digest(base)}" in ended.message.message
