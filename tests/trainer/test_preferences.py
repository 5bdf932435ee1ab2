"""Runs that learn from pairs of answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from kubetune.api.data import Evaluation
from kubetune.api.finetunejob import Dpo
from kubetune.api.runspec import RunAdapter, RunSpec
from kubetune.artifacts.digest import folder_digest
from kubetune.artifacts.manifest import read_manifest
from kubetune_trainer.data.formats import content_hash, to_example
from kubetune_trainer.data.holdout import held_out
from kubetune_trainer.data.read import Record
from tests.fixtures.runs import finetune_spec, preferences, source, write_jsonl
from tests.trainer.conftest import Run
from tests.trainer.test_runs import numbers


def dpo_spec(tmp: Path, base: Path, corpus: Path, **changes) -> RunSpec:
    training = {"max_steps": 30, "learning_rate": 3e-3} | changes.pop("training", {})
    return finetune_spec(
        tmp / "out", base, source(corpus / "preferences.jsonl", "preference"), stage="dpo",
        training=training, dpo=Dpo(beta=0.5), **changes,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["lora", "full"])
def test_dpo(run: Run, base: Path, corpus: Path, tmp_path: Path, method: str):
    asks = Evaluation(sample_prompts=["What is cat1?"], max_new_tokens=8)
    ended = run(dpo_spec(tmp_path, base, corpus, method=method, evaluation=asks, held_out=0.2))
    assert ended.code == 0, ended.out
    before, after = (numbers(v) for v in (ended.message.evaluation.baseline, ended.message.evaluation.tuned))
    assert list(after) == ["accuracy", "reward-margin", "loss"]
    # To itself a model prefers nothing: every margin is exactly 0, and the loss log 2.
    assert (before["accuracy"], before["reward-margin"]) == (0, 0)
    assert before["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert after["accuracy"] > 0.75
    assert after["reward-margin"] > 0.5
    assert after["loss"] < 0.6
    assert ended.message.data.documents == 60
    assert numbers(ended.message.trainer_status.metrics)["totalSteps"] == 30
    assert len(ended.message.evaluation.samples) == 1

    artifact = tmp_path / "out/artifact"
    manifest = read_manifest(artifact)
    assert manifest.format == method
    report = (artifact / "report.html").read_text()
    assert "reward-margin" in report
    if method == "lora":
        assert manifest.base_model_digest == folder_digest(base)
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), artifact)
    else:
        AutoModelForCausalLM.from_pretrained(artifact)


def test_dpo_from_an_adapter_refers_to_that_adapter(run: Run, base: Path, corpus: Path, tmp_path: Path):
    first = finetune_spec(tmp_path / "sft/out", base, source(corpus / "pairs.jsonl", "alpaca"))
    assert run(first).code == 0
    former = tmp_path / "sft/out/artifact"
    start = RunAdapter(uri="pvc://out/sft", path=str(former), root=str(former.parent))
    ended = run(dpo_spec(tmp_path, base, corpus, lora=None, adapter=start))
    assert ended.code == 0, ended.out
    before, after = (numbers(v) for v in (ended.message.evaluation.baseline, ended.message.evaluation.tuned))
    assert before["reward-margin"] == 0, "not the base: the adapter is what training starts from"
    assert after["loss"] < before["loss"]
    assert read_manifest(tmp_path / "out/artifact").base_model_digest == folder_digest(base)


def test_messages_epochs_and_data_of_its_own(run: Run, base: Path, tmp_path: Path):
    def talk(answer: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": answer}]

    asked = [{"role": "user", "content": "it?"}]
    chats = [{"prompt": asked, "chosen": talk(f"not {i}."), "rejected": talk(f"and {i}.")} for i in range(9)]
    own = source(write_jsonl(tmp_path / "own.jsonl", [chats[0]]), "preference", name="evaluation")
    texts = source(write_jsonl(tmp_path / "t.jsonl", preferences(4)), "preference", name="texts", weight=0.5)
    ended = run(
        finetune_spec(
            tmp_path / "out", base, source(write_jsonl(tmp_path / "c.jsonl", chats), "preference"), texts,
            stage="dpo", method="full", evaluation_source=own, length=64,
            training={"max_steps": None, "epochs": 1.5, "global_batch_size": 4},
        )
    )  # fmt: skip
    assert ended.code == 0, ended.out
    assert (ended.message.data.documents, ended.message.data.held_out) == (13, 1)
    # 8 chats and 2 of 4 texts an epoch: 15 pairs in 1.5 of them, in steps of 4.
    assert numbers(ended.message.trainer_status.metrics)["totalSteps"] == 4
    assert "1 examples are in evaluation.data, too" in ended.out


def test_only_what_is_seen_is_looked_at_by_the_reference(run: Run, base: Path, corpus: Path, tmp_path: Path):
    ended = run(dpo_spec(tmp_path, base, corpus, training={"max_steps": 2}, held_out=0.2))
    assert ended.code == 0, ended.out
    held = ended.message.data.held_out
    assert f"reference pairs={8 + held}" in ended.out


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_reward_model(run: Run, base: Path, corpus: Path, tmp_path: Path, method: str):
    records = [r for r in preferences(60) if r["rejected"].startswith("no")]
    spec = finetune_spec(
        tmp_path / "out", base, source(write_jsonl(tmp_path / "x.jsonl", records), "preference"),
        stage="reward", method=method, training={"max_steps": 20, "learning_rate": 5e-3}, held_out=0.2,
    )  # fmt: skip
    ended = run(spec)
    assert ended.code == 0, ended.out
    after = numbers(ended.message.evaluation.tuned)
    assert list(after) == ["accuracy", "reward-margin", "loss"]
    assert after["accuracy"] > 0.75
    assert after["reward-margin"] > 0.5
    assert after["loss"] < numbers(ended.message.evaluation.baseline)["loss"]

    artifact = tmp_path / "out/artifact"
    manifest = read_manifest(artifact)
    assert manifest.format == method
    tokenizer = AutoTokenizer.from_pretrained(base)
    settings = {"num_labels": 1, "pad_token_id": tokenizer.pad_token_id}
    if method == "lora":
        assert manifest.base_model_digest == folder_digest(base)
        assert "score" in json.loads((artifact / "adapter_config.json").read_text())["modules_to_save"]
        plain = AutoModelForSequenceClassification.from_pretrained(base, **settings)
        model = PeftModel.from_pretrained(plain, artifact)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(artifact)
        assert (model.config.num_labels, model.config.pad_token_id) == (1, tokenizer.pad_token_id)
    # Whoever loads it gets the rewards that the job measured.
    held = [r for r in records if is_held_out(r, 0.2, records)]
    assert len(held) == ended.message.data.held_out
    # A token never lies across the edge of prompt and answer: in serving, the prompt comes first.
    parts = [
        tokenizer([r["prompt"], r[side] + tokenizer.eos_token])["input_ids"]
        for side in ("chosen", "rejected")
        for r in held
    ]
    batch = tokenizer.pad({"input_ids": [asked + said for asked, said in parts]}, return_tensors="pt")
    bf16 = ended.message.plan.precision == "bf16"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(**batch).logits
    chosen, rejected = logits.float().squeeze(-1).chunk(2)
    assert float((chosen - rejected).mean()) == pytest.approx(after["reward-margin"], rel=0.02)


def is_held_out(record: dict[str, str], fraction: float, records: list[dict[str, str]]) -> bool:
    hashes = [content_hash(to_example(Record(r, "x", 1), "preference")) for r in records]
    return bool(held_out(np.array(hashes, dtype=np.uint64), fraction)[records.index(record)])


PAIR = {"prompt": "a ", "chosen": "good one", "rejected": "bad one"}
FAR = {"prompt": "the cat " * 40, "chosen": "good", "rejected": "bad"}
SAME = {"prompt": "a ", "chosen": "cat " * 60 + "good", "rejected": "cat " * 60 + "bad"}
ASKED = [{"role": "user", "content": "q"}]
SAID = [{"role": "assistant", "content": "x"}]
BAD = {
    "missing": ({"prompt": "a", "chosen": "b"}, 'format preference needs "prompt", "chosen" and "rejected"'),
    "mixed": (PAIR | {"chosen": SAID}, "all of them strings or all of them lists of messages"),
    "a number": (PAIR | {"chosen": 3}, "all of them strings"),
    "equal": (PAIR | {"rejected": "good one"}, "'chosen' and 'rejected' are equal: nothing is preferred"),
    "not the assistant": (
        {"prompt": ASKED, "chosen": SAID, "rejected": ASKED},
        "'rejected' must be one message of the assistant",
    ),
    "no role": (
        {"prompt": [{"content": "q"}], "chosen": SAID, "rejected": SAID},
        "message of 'prompt' 1 has role None: use system, user, assistant",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_pairs_are_named(run: Run, base: Path, tmp_path: Path, case: str):
    record, message = BAD[case]
    data = write_jsonl(tmp_path / "x.jsonl", [PAIR, record])
    ended = run(finetune_spec(tmp_path / "out", base, source(data, "preference"), stage="dpo"))
    assert ended.code == 11, ended.out
    assert ended.message.message.startswith("x.jsonl, line 2: ")
    assert message in ended.message.message


def test_pairs_without_room_are_left_out_and_counted(run: Run, base: Path, corpus: Path, tmp_path: Path):
    """One has no room for its answers, the other none for where they differ."""
    pairs = [PAIR | {"prompt": f"a {i} "} for i in range(8)]
    data = write_jsonl(tmp_path / "x.jsonl", [*pairs, FAR, SAME])
    ended = run(finetune_spec(tmp_path / "out", base, source(data, "preference"), stage="dpo", held_out=0.0))
    assert ended.code == 0, ended.out
    assert ended.message.data
    assert (ended.message.data.documents, ended.message.data.dropped) == (10, 2)
    assert "2 of 10 examples are left out: data.sequenceLength 48 leaves no room" in ended.out
    assert "nothing is held out, so nothing is measured" in ended.out
    none = source(write_jsonl(tmp_path / "y.jsonl", [FAR, SAME]), "preference")
    ended = run(finetune_spec(tmp_path / "none", base, none, stage="dpo"))
    assert ended.code == 11, ended.out
    assert (
        "of 2 examples none is left to train on: data.sequenceLength leaves no room" in ended.message.message
    )


def test_an_adapter_of_a_reward_model_is_no_start(run: Run, base: Path, corpus: Path, tmp_path: Path):
    data = source(corpus / "preferences.jsonl", "preference")
    assert run(finetune_spec(tmp_path / "rm/out", base, data, stage="reward")).code == 0
    former = tmp_path / "rm/out/artifact"
    start = RunAdapter(uri="pvc://out/rm", path=str(former), root=str(former.parent))
    ended = run(dpo_spec(tmp_path, base, corpus, lora=None, adapter=start))
    assert ended.code == 10, ended.out
    assert "also holds whole layers" in ended.message.message
