"""A PretrainJob that trains a model on, instead of one from scratch."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM, BertModel

from kubetune.api.pretrainjob import Mlm
from kubetune.artifacts.digest import folder_digest
from kubetune.artifacts.manifest import read_manifest
from tests.fixtures.runs import encoder, pretrain_spec, run_model, source
from tests.trainer.conftest import Run
from tests.trainer.test_runs import numbers


def test_a_causal_model_goes_on_where_it_was(run: Run, base: Path, corpus: Path, tmp_path: Path):
    digest = folder_digest(base)
    spec = pretrain_spec(
        tmp_path / "out", source(corpus / "web.jsonl", name="web"), base=base, model=run_model(base, digest),
        training={"max_steps": 20, "learning_rate": 3e-3},
    )  # fmt: skip
    ended = run(spec)
    assert ended.code == 0, ended.out
    before, after = numbers(ended.message.evaluation.baseline), numbers(ended.message.evaluation.tuned)
    reached = {v["name"]: float(v["value"]) for v in read_manifest(base).report["evaluation"]["tuned"]}
    assert before["loss"] == pytest.approx(reached["loss"], rel=1e-5), "on the same data, as it was measured"
    assert after["loss"] < before["loss"] - 0.02
    assert ended.message.plan.trainable_parameters == ended.message.plan.parameters

    artifact = tmp_path / "out/artifact"
    manifest = read_manifest(artifact)
    assert (manifest.format, manifest.base_model_digest) == ("full", None)
    old, new = (load_file(p / "model.safetensors") for p in (base, artifact))
    assert old.keys() == new.keys()
    assert not any(torch.equal(old[n], new[n]) for n in old), "every weight is trained"
    assert (artifact / "tokenizer.json").read_text() == (base / "tokenizer.json").read_text()
    AutoModelForCausalLM.from_pretrained(artifact)
    assert "trained on from another one" in (artifact / "README.md").read_text()
    report = (artifact / "report.html").read_text()
    assert digest in report
    assert ">before training</th>" in report
    assert folder_digest(base) == digest, "it is left as it is"


@pytest.mark.parametrize("whole_words", [True, False])
def test_an_encoder_from_elsewhere(run: Run, corpus: Path, tmp_path: Path, whole_words: bool):
    base = encoder(tmp_path / "base", BertForMaskedLM)
    whole = Tokenizer.from_file(str(base / "tokenizer.json"))
    whole.enable_truncation(6)  # as sentence-transformers ships its models
    whole.enable_padding(length=6)
    whole.save(str(base / "tokenizer.json"))
    spec = pretrain_spec(
        tmp_path / "out", source(corpus / "web.jsonl", name="web"), base=base, stage="mlm", packing=False,
        mlm=Mlm(whole_words=whole_words), training={"max_steps": 40, "learning_rate": 3e-3},
    )  # fmt: skip
    ended = run(spec)
    assert ended.code == 0, ended.out
    before, after = numbers(ended.message.evaluation.baseline), numbers(ended.message.evaluation.tuned)
    assert after["loss"] < before["loss"] - 0.5
    assert ended.message.data.tokens > 7 * ended.message.data.documents, "documents are not cut"

    artifact = tmp_path / "out/artifact"
    _, info = AutoModelForMaskedLM.from_pretrained(artifact, output_loading_info=True)
    assert not info["missing_keys"]
    theirs, ours = (AutoTokenizer.from_pretrained(p) for p in (base, artifact))
    assert ours("the cat sat") == theirs("the cat sat")
    assert not (artifact / "chat_template.jinja").exists(), "nobody chats with an encoder"


BAD = {
    "another version": ("clm", None, "sha256:" + "0" * 64, 15, "the base model has digest sha256:"),
    "no mask token": ("mlm", None, None, 10, "has no mask_token and no cls_token and no sep_token"),
    "no head": ("mlm", BertModel, None, 10, "hold no weights for cls.predictions"),
    "an encoder": ("clm", BertForMaskedLM, None, 10, "stage pretrain needs a causal language model"),
    "too long": ("mlm", BertForMaskedLM, None, 10, "exceeds the model's context of 64: lower data.sequence"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused(run: Run, base: Path, corpus: Path, tmp_path: Path, case: str):
    objective, kind, digest, code, message = BAD[case]
    folder = encoder(tmp_path / "base", kind) if kind else base
    more = {"stage": "mlm", "mlm": Mlm(), "packing": False} if objective == "mlm" else {}
    spec = pretrain_spec(
        tmp_path / "out", source(corpus / "web.jsonl"), base=folder, model=run_model(folder, digest),
        length=65 if case == "too long" else 32, **more,
    )  # fmt: skip
    ended = run(spec)
    assert ended.code == code, ended.out
    assert message in ended.message.message
    assert not (tmp_path / "out/artifact").exists()
