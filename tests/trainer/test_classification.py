"""Stage classification: whole runs, on an encoder and on a causal language model, and its loss against
transformers'."""

import json
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from kubetune.api.data import Evaluation
from kubetune.api.finetunejob import Classification
from kubetune.api.training import Checkpoint
from kubetune.artifacts.digest import folder_digest
from kubetune.artifacts.manifest import read_manifest
from kubetune_trainer.classify import ClassLossModel
from kubetune_trainer.data.classes import ClassRow, balanced, collate, tokenise
from kubetune_trainer.data.formats import Labelled
from kubetune_trainer.data.tokenizer import load as load_tokenizer
from kubetune_trainer.model.heads import CLASSIFIER
from kubetune_trainer.model.loading import load
from tests.fixtures.runs import finetune_spec, labelled, source, write_jsonl
from tests.trainer.conftest import Run
from tests.trainer.test_runs import numbers

PROMPTS = ["the red cat", "on a house", "its big night"]


def spec_of(out: Path, base: Path, data: Path, **changes):
    return finetune_spec(
        out, base, source(data, "classification"), stage="classification", packing=False,
        **{"training": {"max_steps": 60, "global_batch_size": 8, "learning_rate": 1e-2}} | changes,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("which", ["base", "bert"])
def test_a_classifier_learns_and_is_loaded_as_it_was_measured(
    run: Run, request, corpus: Path, tmp_path: Path, which: str, method: str
):
    base: Path = request.getfixturevalue(which)
    learning_rate = 1e-2 if method == "lora" else 3e-3
    ended = run(
        spec_of(
            tmp_path / "out", base, corpus / "labelled.jsonl", method=method,
            evaluation=Evaluation(sample_prompts=PROMPTS), classification=Classification(), held_out=0.3,
            training={"max_steps": 50, "global_batch_size": 16, "learning_rate": learning_rate},
            checkpoint=Checkpoint(),
        )
    )  # fmt: skip
    assert ended.code == 0, ended.out
    message = ended.message
    before, after = numbers(message.evaluation.baseline), numbers(message.evaluation.tuned)
    assert list(after) == ["accuracy", "f1", "loss"]
    assert before["accuracy"] < 0.7, "an untrained head guesses"
    assert after["accuracy"] > 0.9
    assert after["f1"] > 0.9
    assert after["loss"] < before["loss"] / 2
    said = [s.after for s in message.evaluation.samples]
    assert [s.split()[0] for s in said] == ["animal", "place", "time"]

    artifact = tmp_path / "out/artifact"
    manifest = read_manifest(artifact)
    assert manifest.digest == folder_digest(artifact) == message.artifact.digest
    assert manifest.format == method
    config = AutoConfig.from_pretrained(artifact)
    assert config.id2label == {0: "animal", 1: "place", 2: "time"}
    tokenizer = AutoTokenizer.from_pretrained(base if method == "lora" else artifact)
    if method == "lora":
        kept = json.loads((artifact / "adapter_config.json").read_text())
        assert kept["task_type"] == "SEQ_CLS"
        tensors = load_file(artifact / "adapter_model.safetensors")
        assert all(t.dtype == torch.float32 for t in tensors.values())
        torch.manual_seed(99)  # what is new to the base comes from the adapter
        model = AutoModelForSequenceClassification.from_pretrained(base, config=config)
        model = PeftModel.from_pretrained(model, artifact)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(artifact)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=message.plan.precision == "bf16"):
        logits = model(**tokenizer(PROMPTS, return_tensors="pt", padding=True)).logits
    likely, index = logits.float().softmax(-1).max(-1)
    labels = [config.id2label[int(i)] for i in index]
    assert [s.split()[0] for s in said] == labels
    reported = [float(s.split("(")[1].rstrip(")")) for s in said]
    assert reported == pytest.approx(likely.tolist(), abs=0.02)


@pytest.mark.parametrize("which", ["base", "bert"])
def test_the_same_loss_as_transformers(request, which: str):
    base: Path = request.getfixturevalue(which)
    tokenizer = load_tokenizer(base, speaks=False)
    settings = {"num_labels": 3, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    model, fresh = load(base, {"dtype": torch.float32}, tokenizer, 48, CLASSIFIER, settings)
    assert fresh == (["score"] if which == "base" else ["classifier"])
    model.eval()
    pairs = [("the cat sat", "on a mat"), ("one dog", "run to its big red house by night"), ("saw", "a")]
    examples = [Labelled(a, b, "") for a, b in pairs]
    tokens, _ = tokenise(examples, tokenizer, 48)
    assert any(types.any() for _, types in tokens) == (which == "bert"), "it tells the two texts apart"
    batch = collate([ClassRow(*t, i) for i, t in enumerate(tokens)], "cpu", pad=tokenizer.pad_token_id)
    theirs = tokenizer([a for a, _ in pairs], [b for _, b in pairs], return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = model(**theirs, labels=torch.arange(3)).loss
        ours = ClassLossModel(model, "fp32")(*batch) / 3
        weights = balanced(batch[3].numpy(), 3)
        assert weights == [1, 1, 1]
        weighted = ClassLossModel(model, "fp32", [1.0, 2.0, 0.5])(*batch)
        losses = torch.nn.functional.cross_entropy(model(**theirs).logits, torch.arange(3), reduction="none")
    assert float(ours) == pytest.approx(float(expected), abs=1e-5)
    assert float(weighted) == pytest.approx(float(losses @ torch.tensor([1.0, 2.0, 0.5])), abs=1e-5)


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"text": "x", "label": "plant"}, r"label 'plant' is none of the classes \(animal, place, time\)"),
        ({"text": "x", "label": True}, "field 'label' is True"),
        ({"text": "x"}, "field 'label' is missing"),
    ],
)
def test_what_has_no_class_is_named(run: Run, bert: Path, tmp_path: Path, record: dict, problem: str):
    data = write_jsonl(tmp_path / "x.jsonl", [*labelled(20), record])
    ended = run(spec_of(tmp_path / "out", bert, data, labels=["animal", "place", "time"]))
    assert ended.code == 11, ended.out
    message = ended.message.message
    assert message.startswith("x.jsonl, line 21: ")
    assert re.search(problem, message)


def test_one_class_is_none(run: Run, bert: Path, tmp_path: Path):
    ended = run(spec_of(tmp_path / "out", bert, write_jsonl(tmp_path / "x.jsonl", labelled(9, ["time"]))))
    assert (ended.code, ended.message.message[:40]) == (11, "all examples have the label 'time': ther")


def test_evaluation_data_of_a_class_that_training_has_not(run: Run, bert: Path, tmp_path: Path):
    data = write_jsonl(tmp_path / "x.jsonl", labelled(20, ["animal", "time"]))
    own = source(write_jsonl(tmp_path / "own.jsonl", labelled(3, ["place"])), "classification")
    ended = run(spec_of(tmp_path / "out", bert, data, evaluation_source=own))
    assert ended.code == 11
    assert ended.message.message.startswith("own.jsonl, line 1: label 'place' is none of the classes (animal")


def test_an_encoder_is_no_language_model(run: Run, bert: Path, corpus: Path, tmp_path: Path):
    ended = run(finetune_spec(tmp_path / "out", bert, source(corpus / "pairs.jsonl", "alpaca")))
    assert ended.code == 10
    assert "is an encoder (BertModel), and stage sft needs a causal" in ended.message.message
