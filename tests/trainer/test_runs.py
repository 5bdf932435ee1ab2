"""Whole runs of tiny models, as the operator starts them."""

import gzip
import json
import math
from pathlib import Path

import pyarrow
import pytest
import torch
from peft import PeftModel
from pyarrow import parquet
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from kubetune.api.data import Evaluation
from kubetune.api.exitcodes import Reason
from kubetune.api.progress import TerminationMessage
from kubetune.api.runspec import RunModel
from kubetune.artifacts.digest import folder_digest
from kubetune.artifacts.manifest import read_manifest
from tests.fixtures.runs import finetune_spec, pairs, pretrain_spec, sentences, source, write_jsonl
from tests.trainer.conftest import Run

EVERYTHING = Evaluation(
    metrics=["loss", "perplexity", "token-accuracy", "exact-match", "rouge-l"],
    sample_prompts=["What is cat1?", "What is dog9?"],
    max_new_tokens=8,
)


def numbers(values) -> dict[str, float]:
    return {v.name: float(v.value) for v in values}


def test_pretraining(run: Run, corpus: Path, tmp_path: Path):
    web = source(corpus / "web.jsonl", name="web", weight=3)
    books = source(corpus / "books", name="books", root=corpus, weight=1)
    length = {"max_steps": None, "max_tokens": 16 * 4 * 32 - 5}
    spec = pretrain_spec(tmp_path / "out", web, books, training=length)
    ended = run(spec)
    message = ended.message
    assert (ended.code, message.reason) == (0, Reason.SUCCEEDED), ended.out
    assert message.trainer_status is not None
    assert message.trainer_status.progress_percentage == 100
    metrics = numbers(message.trainer_status.metrics)
    assert metrics["step"] == metrics["totalSteps"] == 16, "maxTokens is rounded up to whole steps"
    assert metrics["tokensSeen"] == 16 * 4 * 32
    assert message.data is not None
    assert message.data.documents == 230
    assert 0 < message.data.held_out < 40
    before, after = numbers(message.evaluation.baseline), numbers(message.evaluation.tuned)
    assert after["loss"] < before["loss"] - 0.5
    assert after["perplexity"] == pytest.approx(math.exp(after["loss"]), rel=1e-3)

    artifact = tmp_path / "out/artifact"
    manifest = read_manifest(artifact)
    assert manifest.digest == folder_digest(artifact) == message.artifact.digest
    assert manifest.run_spec_digest == spec.digest()
    assert manifest.job == spec.job
    shares = {s["name"]: s["share"] for s in manifest.report["sources"]}
    assert shares == {"web": 0.75, "books": 0.25}
    assert not (tmp_path / "out/checkpoints").exists()
    assert {p.name for p in artifact.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja", "report.html", "README.md", "manifest.json",
    }  # fmt: skip
    assert all(p.stat().st_mode & 0o777 == 0o644 for p in artifact.iterdir())

    model = AutoModelForCausalLM.from_pretrained(artifact)
    tokenizer = AutoTokenizer.from_pretrained(artifact)
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer) == 320
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 0
    assert tokenizer.chat_template


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("packing", [True, False])
def test_fine_tuning(run: Run, base: Path, corpus: Path, tmp_path: Path, method: str, packing: bool):
    spec = finetune_spec(
        tmp_path / "out", base, source(corpus / "pairs.jsonl", "alpaca"), method=method, packing=packing,
        evaluation=EVERYTHING, training={"max_steps": 40, "learning_rate": 1e-2},
        model=RunModel(path=str(base), root=str(base.parent), digest=folder_digest(base)),
    )  # fmt: skip
    ended = run(spec)
    assert ended.code == 0, ended.out
    message = ended.message
    before, after = numbers(message.evaluation.baseline), numbers(message.evaluation.tuned)
    assert after["loss"] < 0.5 * before["loss"]
    assert after["token-accuracy"] > before["token-accuracy"] + 0.2
    assert set(after) == {*EVERYTHING.metrics}
    if method == "full":  # LoRA learns no word in so few steps
        assert after["rouge-l"] > before["rouge-l"] + 0.3
    assert [s.prompt for s in message.evaluation.samples] == EVERYTHING.sample_prompts
    assert all(s.before != s.after and s.after.startswith("A") for s in message.evaluation.samples)

    artifact = tmp_path / "out/artifact"
    manifest = read_manifest(artifact)
    assert manifest.digest == folder_digest(artifact)
    if method == "lora":
        assert {p.name for p in artifact.iterdir()} == {
            "adapter_config.json", "adapter_model.safetensors", "report.html", "README.md", "manifest.json",
        }  # fmt: skip
        assert (manifest.format, manifest.rank) == ("lora", 4)
        assert manifest.base_model_digest == folder_digest(base)
        assert manifest.target_modules == [
            "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
        ]  # fmt: skip
        tensors = load_file(artifact / "adapter_model.safetensors")
        assert all(t.dtype == torch.float32 for t in tensors.values())
        assert any(t.any() for n, t in tensors.items() if "lora_B" in n)
        assert str(base) not in (artifact / "adapter_config.json").read_text()
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), artifact)
        tokenizer = AutoTokenizer.from_pretrained(base)
    else:
        assert (manifest.format, manifest.base_model_digest) == ("full", None)
        model = AutoModelForCausalLM.from_pretrained(artifact)
        tokenizer = AutoTokenizer.from_pretrained(artifact)
    # Whoever loads the result gets the answers that the job reported.
    assert answer_of(model, tokenizer, message) == message.evaluation.samples[0].after


def answer_of(model, tokenizer, message: TerminationMessage) -> str:
    """What a loaded result answers to `What is cat1?`, in 8 tokens, computed as in the job."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is cat1?"}], add_generation_prompt=True, return_tensors="pt"
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=message.plan.precision == "bf16"):
        output = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    answer: str = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    return answer.strip()


def test_packed_files_make_the_very_model_that_plain_ones_make(run: Run, corpus: Path, tmp_path: Path):
    web, books = (corpus / name for name in ("web.jsonl", "books/one.jsonl"))
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "1.jsonl.gz").write_bytes(gzip.compress(web.read_bytes()))
    rows = [json.loads(line) for line in books.read_text().splitlines()]
    parquet.write_table(pyarrow.Table.from_pylist(rows), packed / "2.parquet")
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "all.jsonl").write_bytes(web.read_bytes() + books.read_bytes())
    weights = []
    for folder in (plain, packed):
        out = tmp_path / f"{folder.name}-out"
        ended = run(pretrain_spec(out, source(folder, root=tmp_path), training={"max_steps": 3}))
        assert ended.code == 0, ended.out
        assert ended.message.data.documents == 210
        weights.append((out / "artifact/model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_all_formats_together_by_epochs(run: Run, base: Path, tmp_path: Path):
    talk = [{"role": r, "content": c} for r, c in [("user", "who?"), ("assistant", "me."), ("user", "you?")]]
    chats = [{"messages": [*talk, {"role": "assistant", "content": f"not {i}."}]} for i in range(20)]
    asks = [{"prompt": f"The sum of {i} and {i} is ", "completion": f"{2 * i}."} for i in range(30)]
    sources = [
        source(write_jsonl(tmp_path / "chats.jsonl", chats), "messages", name="chats"),
        source(write_jsonl(tmp_path / "asks.jsonl", asks), "prompt-completion", name="asks", weight=0.5),
        source(write_jsonl(tmp_path / "texts.jsonl", list(sentences(10))), "text", name="texts", weight=0.0),
    ]
    own = source(
        write_jsonl(tmp_path / "own.jsonl", [{"prompt": "1 and ", "completion": "2"}]), "prompt-completion"
    )
    spec = finetune_spec(
        tmp_path / "out", base, *sources, packing=False, held_out=0.0,
        evaluation=EVERYTHING, evaluation_source=own,
        training={"max_steps": None, "epochs": 1.5, "global_batch_size": 4},
    )  # fmt: skip
    ended = run(spec)
    assert ended.code == 0, ended.out
    # 1.5 epochs of 20 chats and every second of 30 asks are 53 rows, so 13 steps of 4 and one of 1.
    assert numbers(ended.message.trainer_status.metrics)["totalSteps"] == 14
    assert ended.message.data.held_out == 0
    assert ended.message.data.documents == 50
    assert set(numbers(ended.message.evaluation.tuned)) == {*EVERYTHING.metrics}


def test_with_data_of_its_own_the_evaluation_takes_nothing_from_training_but_what_is_in_both(
    run: Run, base: Path, tmp_path: Path
):
    records = pairs(40)
    data = source(write_jsonl(tmp_path / "pairs.jsonl", [*records, records[0]]), "alpaca")
    elsewhere = {"instruction": "What is a zebra?", "output": "An animal."}
    own = source(write_jsonl(tmp_path / "own.jsonl", [*records[:3], elsewhere]), "alpaca", name="evaluation")
    every_tenth = {"held_out": 0.1, "evaluation_source": own}
    ended = run(
        finetune_spec(
            tmp_path / "out", base, data, **every_tenth, evaluation=Evaluation(max_examples=1), packing=False,
            training={"max_steps": None, "epochs": 1, "global_batch_size": 1},
        )
    )  # fmt: skip
    assert ended.code == 0, ended.out
    # All of the evaluation's examples are kept out, measured or not, and each as often as it is there.
    assert (ended.message.data.documents, ended.message.data.held_out) == (41, 4)
    assert numbers(ended.message.trainer_status.metrics)["totalSteps"] == 37
    assert "4 examples are in evaluation.data, too: they are not trained on" in ended.out
    assert (tmp_path / "out/artifact/report.html").read_text().count("on 1 held-out example</th>") == 1


def test_nothing_held_out_means_nothing_measured(run: Run, base: Path, corpus: Path, tmp_path: Path):
    data = source(corpus / "pairs.json", "alpaca")
    ended = run(finetune_spec(tmp_path / "out", base, data, held_out=0.0, evaluation=EVERYTHING))
    assert ended.code == 0, ended.out
    assert ended.message.evaluation.tuned == []
    assert len(ended.message.evaluation.samples) == 2


def test_long_examples_are_cut_and_counted(run: Run, base: Path, tmp_path: Path):
    records = [{"instruction": "Say it.", "output": "word " * n} for n in (1, 2, 3, 100, 200)]
    data = source(write_jsonl(tmp_path / "x.jsonl", records), "alpaca")
    ended = run(finetune_spec(tmp_path / "out", base, data, held_out=0.0, length=64))
    assert ended.code == 0, ended.out
    assert ended.message.data.truncated == 2


def test_a_finished_run_is_reported_again_not_repeated(run: Run, base: Path, corpus: Path, tmp_path: Path):
    spec = finetune_spec(
        tmp_path / "out", base, source(corpus / "pairs.jsonl", "alpaca"), evaluation=EVERYTHING,
    )  # fmt: skip
    first = run(spec)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/artifact").iterdir()}
    (tmp_path / "out/checkpoints/step-4").mkdir(parents=True)  # killed before they were removed
    again = run(spec)
    assert again.code == 0
    assert "an earlier attempt finished this run" in again.out
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out/artifact").iterdir()} == files
    assert not (tmp_path / "out/checkpoints").exists()
    updated = {"trainer_status": first.message.trainer_status.model_copy(update={"last_updated_time": None})}
    same = {"trainer_status": again.message.trainer_status.model_copy(update={"last_updated_time": None})}
    assert again.message.model_copy(update=same) == first.message.model_copy(update=updated)


def test_a_damaged_artifact_is_made_again(run: Run, corpus: Path, tmp_path: Path):
    spec = pretrain_spec(tmp_path / "out", source(corpus / "web.jsonl"))
    first = run(spec).message.artifact
    weights = tmp_path / "out/artifact/model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    assert run(spec).code == 0
    assert weights.read_bytes() == content
    assert first is not None


def test_the_artifact_of_another_run_is_never_overwritten(run: Run, corpus: Path, tmp_path: Path):
    data = source(corpus / "web.jsonl")
    run(pretrain_spec(tmp_path / "out", data))
    before = folder_digest(tmp_path / "out/artifact")
    ended = run(pretrain_spec(tmp_path / "out", data, training={"seed": 1}))
    assert (ended.code, ended.message.reason) == (10, Reason.INVALID_SPEC)
    assert "holds the artifact of another run" in ended.message.message
    assert folder_digest(tmp_path / "out/artifact") == before


def test_seeds(run: Run, corpus: Path, tmp_path: Path):
    def weights(name: str, seed: int) -> bytes:
        spec = pretrain_spec(
            tmp_path / name, source(corpus / "web.jsonl"), training={"seed": seed, "max_steps": 3}
        )
        assert run(spec).code == 0
        return (tmp_path / name / "artifact/model.safetensors").read_bytes()

    assert weights("a", 0) == weights("b", 0) != weights("c", 1)


def test_the_manifest_is_for_people_too(base: Path):
    manifest = json.loads((base / "manifest.json").read_text())
    assert set(manifest["report"]) == {"plan", "data", "evaluation", "trainerStatus", "sources"}
