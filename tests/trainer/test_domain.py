"""Stage domain: a base model learns documents of its domain, by the loss of pretraining and by any method."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from kubetune.api.data import Evaluation
from kubetune.artifacts.manifest import read_manifest
from kubetune_trainer.generate import answers
from kubetune_trainer.objectives import clm
from kubetune_trainer.signals import Stop
from tests.fixtures.runs import finetune_spec, pretrain_spec, sentences, source, write_jsonl
from tests.trainer.conftest import Run
from tests.trainer.test_runs import numbers

PROMPTS = Evaluation(
    metrics=["loss", "perplexity", "token-accuracy"], sample_prompts=["the big"], max_new_tokens=6
)


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_documents_of_a_domain(
    run: Run, base: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
):
    asked = []

    def listening(model, tokenizer, prompts, *rest):
        asked.append(prompts)
        return answers(model, tokenizer, prompts, *rest)

    monkeypatch.setattr("kubetune_trainer.generate.answers", listening)
    web = source(write_jsonl(tmp_path / "web.jsonl", sentences(40, seed=7)), name="web", weight=3)
    books = source(corpus / "books", name="books", root=corpus, weight=1)
    ended = run(
        finetune_spec(
            tmp_path / "out", base, web, books, method=method, stage="domain", evaluation=PROMPTS, length=32,
            training={"max_steps": 32, "learning_rate": 1e-2 if method != "full" else 3e-3},
        )
    )  # fmt: skip
    assert ended.code == 0, ended.out
    before, after = numbers(ended.message.evaluation.baseline), numbers(ended.message.evaluation.tuned)
    assert list(after) == PROMPTS.metrics
    assert after["loss"] < before["loss"] - 0.02
    assert after["perplexity"] == pytest.approx(math.exp(after["loss"]), rel=1e-3)
    assert numbers(ended.message.trainer_status.metrics)["tokensSeen"] == 32 * 4 * 32
    assert asked == [[("the big", True)]] * 2, "a text to go on with, not a message"
    manifest = read_manifest(tmp_path / "out/artifact")
    assert manifest.format == ("full" if method == "full" else "lora")
    assert {s["name"]: s["share"] for s in manifest.report["sources"]} == {"web": 0.75, "books": 0.25}
    assert "held-out sequences" in (tmp_path / "out/artifact/README.md").read_text()


def test_the_rows_are_those_of_pretraining(base: Path, corpus: Path, tmp_path: Path):
    data = (
        source(corpus / "web.jsonl", name="web", weight=2),
        source(corpus / "books", name="books", root=corpus),
    )
    tuned = finetune_spec(tmp_path / "a", base, *data, stage="domain", length=32, held_out=0.05)
    pretrained = pretrain_spec(tmp_path / "b", *data, base=base)
    ours, theirs = (clm.prepare(spec, tmp_path, Stop()) for spec in (tuned, pretrained))
    for mine, other in zip(ours.stream.next(20), theirs.stream.next(20), strict=True):
        assert [*map(list, (mine.tokens, mine.labels))] == [*map(list, (other.tokens, other.labels))]
    assert len(ours.evaluation.rows) == len(theirs.evaluation.rows) > 0
    batches = (p.collate(p.evaluation.rows, torch.device("cpu")) for p in (ours, theirs))
    assert all(torch.equal(*pair) for pair in zip(*batches, strict=True))


def test_long_documents_are_not_cut_and_an_epoch_is_as_many_tokens_as_there_are(base: Path, tmp_path: Path):
    documents = [" ".join(sentences(20, seed=i)) for i in range(5)]
    data = source(write_jsonl(tmp_path / "data.jsonl", documents))
    spec = finetune_spec(
        tmp_path / "out", base, data, stage="domain", held_out=0.0, length=16,
        training={"max_steps": None, "epochs": 1.5, "global_batch_size": 2},
    )  # fmt: skip
    prepared = clm.prepare(spec, tmp_path, Stop())
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokens = sum(len(tokenizer(d)["input_ids"]) + 1 for d in documents)
    assert prepared.data.tokens == tokens
    assert prepared.data.truncated == 0
    assert prepared.total_steps == math.ceil(1.5 * tokens / (2 * 16))


def test_with_data_of_its_own_the_evaluation_takes_only_what_is_in_both(run: Run, base: Path, tmp_path: Path):
    texts = sentences(30)
    data = source(write_jsonl(tmp_path / "data.jsonl", texts))
    own = source(write_jsonl(tmp_path / "own.jsonl", [texts[3], *sentences(4, seed=9)]), name="evaluation")
    ended = run(
        finetune_spec(
            tmp_path / "out", base, data, stage="domain", evaluation_source=own, length=64,
            training={"max_steps": 2},
        )
    )  # fmt: skip
    assert ended.code == 0, ended.out
    assert (ended.message.data.documents, ended.message.data.held_out) == (30, 1)
    assert "1 examples are in evaluation.data, too" in ended.out
    assert ">on 5 held-out sequences</th>" in (tmp_path / "out/artifact/report.html").read_text()


def test_what_is_all_in_the_evaluation_leaves_nothing(run: Run, base: Path, tmp_path: Path):
    data = source(write_jsonl(tmp_path / "data.jsonl", sentences(3)))
    ended = run(finetune_spec(tmp_path / "out", base, data, stage="domain", evaluation_source=data))
    assert ended.code == 11, ended.out
    assert (
        "every document is held out, none is left to train on: add data or name other"
        in ended.message.message
    )
