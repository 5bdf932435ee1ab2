"""A run that is disturbed ends with the very weights of one that is not."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from transformers import BertForMaskedLM

from kubetune.api.data import Evaluation
from kubetune.api.exitcodes import Reason
from kubetune.api.finetunejob import Classification, Lora, PromptTuning
from kubetune.api.pretrainjob import Mlm
from kubetune.api.reinforcement import Grpo, Ppo, RewardFunction, RolloutSettings
from kubetune.api.runspec import RunAdapter, RunReward, RunSpec
from kubetune.api.training import Checkpoint, FineTuneTraining
from kubetune_trainer import termination
from tests.fixtures.runs import TINY_BERT, encoder, finetune_spec, pretrain_spec, run_model, source
from tests.fixtures.sampled import sampled
from tests.trainer.conftest import Process, Run

Build = Callable[[Path, Path, Path], RunSpec]
"""(output folder, corpus, base) -> what to run"""
LONG = 60
"""Steps: enough that a signal sent at one step arrives long before the last."""
FEW = FineTuneTraining(max_steps=5, global_batch_size=4, learning_rate=1e-2)


def pretrain(out: Path, corpus: Path, base: Path) -> RunSpec:
    web, books = source(corpus / "web.jsonl", name="web"), source(corpus / "books", name="books", root=corpus)
    return pretrain_spec(out, web, books, training={"max_steps": LONG}, checkpoint=Checkpoint(every_steps=5))


def lora(out: Path, corpus: Path, base: Path) -> RunSpec:
    return finetune_spec(
        out, base, source(corpus / "pairs.jsonl", "alpaca"), lora=Lora(rank=4, alpha=8, dropout=0.2),
        training={"max_steps": LONG}, checkpoint=Checkpoint(every_steps=5),
        evaluation=Evaluation(sample_prompts=["What is cat1?"], max_new_tokens=8),
    )  # fmt: skip


def narrow(out: Path, corpus: Path, base: Path) -> RunSpec:
    """The optimizer's moments in 8 bits."""
    spec = pretrain(out, corpus, base)
    assert spec.pretrain
    settings = spec.pretrain.model_copy(update={"optimizer": "adamw-8bit"})
    return spec.model_copy(update={"pretrain": settings})


def qlora(out: Path, corpus: Path, base: Path) -> RunSpec:
    return finetune_spec(
        out, base, source(corpus / "pairs.jsonl", "alpaca"), method="qlora",
        lora=Lora(rank=4, alpha=8, dropout=0.2), training={"max_steps": LONG},
        checkpoint=Checkpoint(every_steps=5),
    )  # fmt: skip


def prompt_tuning(out: Path, corpus: Path, base: Path) -> RunSpec:
    return finetune_spec(
        out, base, source(corpus / "pairs.jsonl", "alpaca"), method="prompt-tuning",
        prompt_tuning=PromptTuning(virtual_tokens=5), training={"max_steps": LONG},
        checkpoint=Checkpoint(every_steps=5),
        evaluation=Evaluation(sample_prompts=["What is cat1?"], max_new_tokens=8),
    )  # fmt: skip


def adapter(out: Path, corpus: Path, base: Path) -> RunSpec:
    """From a former adapter; its dropout is part of what goes on."""
    former = base.parent / "former"
    if not former.exists():
        first = lora(former / "out", corpus, base)
        assert Process(first.model_copy(update={"finetune": FEW}), former).end() == 0
    start = RunAdapter(uri="pvc://out/former", path=str(former / "out/artifact"), root=str(former))
    spec = lora(out, corpus, base)
    return spec.model_copy(update={"lora": None, "adapter": start})


def dpo(out: Path, corpus: Path, base: Path) -> RunSpec:
    return finetune_spec(
        out, base, source(corpus / "preferences.jsonl", "preference"), stage="dpo",
        lora=Lora(rank=4, alpha=8, dropout=0.2), training={"max_steps": LONG, "learning_rate": 1e-3},
        checkpoint=Checkpoint(every_steps=5),
    )  # fmt: skip


def reward(out: Path, corpus: Path, base: Path) -> RunSpec:
    return dpo(out, corpus, base).model_copy(update={"stage": "reward"})


def grpo(out: Path, corpus: Path, base: Path) -> RunSpec:
    """Two steps on each batch of answers: some checkpoints are made between them."""
    return finetune_spec(
        out, base, source(corpus / "prompts.jsonl", "prompts"), stage="grpo", packing=False,
        lora=Lora(rank=4, alpha=8, dropout=0.2), training={"max_steps": LONG, "global_batch_size": 8},
        rollout=RolloutSettings(max_new_tokens=6), grpo=Grpo(group_size=4, epochs=2),
        reward=RunReward(functions=[RewardFunction(name="contains")]), checkpoint=Checkpoint(every_steps=5),
    )  # fmt: skip


def ppo(out: Path, corpus: Path, base: Path) -> RunSpec:
    settings = {"grpo": None, "stage": "ppo", "ppo": Ppo(epochs=3, kl_target=1.0)}
    return grpo(out, corpus, base).model_copy(update=settings)


def classification(out: Path, corpus: Path, base: Path) -> RunSpec:
    return finetune_spec(
        out, base, source(corpus / "labelled.jsonl", "classification"), stage="classification", packing=False,
        lora=Lora(rank=4, alpha=8, dropout=0.2), training={"max_steps": LONG},
        classification=Classification(class_weights="balanced"), checkpoint=Checkpoint(every_steps=5),
    )  # fmt: skip


def mlm(out: Path, corpus: Path, base: Path) -> RunSpec:
    web, books = source(corpus / "web.jsonl", name="web"), source(corpus / "books", name="books", root=corpus)
    return pretrain_spec(
        out, web, books, stage="mlm", mlm=Mlm(whole_words=True), packing=False, config=TINY_BERT,
        training={"max_steps": LONG}, checkpoint=Checkpoint(every_steps=5),
    )  # fmt: skip


def continued(out: Path, corpus: Path, base: Path) -> RunSpec:
    web, books = source(corpus / "web.jsonl", name="web"), source(corpus / "books", name="books", root=corpus)
    return pretrain_spec(
        out, web, books, base=base, training={"max_steps": LONG, "learning_rate": 1e-3},
        checkpoint=Checkpoint(every_steps=5),
    )  # fmt: skip


def mlm_continued(out: Path, corpus: Path, base: Path) -> RunSpec:
    """An encoder from elsewhere, with dropout."""
    folder = corpus / "masked"
    if not folder.exists():
        encoder(folder, BertForMaskedLM)
    spec = mlm(out, corpus, base)
    return spec.model_copy(update={"model": run_model(folder), "tokenizer": None})


def domain(out: Path, corpus: Path, base: Path) -> RunSpec:
    web, books = source(corpus / "web.jsonl", name="web"), source(corpus / "books", name="books", root=corpus)
    return finetune_spec(
        out, base, web, books, stage="domain", lora=Lora(rank=4, alpha=8, dropout=0.2), length=32,
        training={"max_steps": LONG}, checkpoint=Checkpoint(every_steps=5),
    )  # fmt: skip


def merged(out: Path, corpus: Path, base: Path) -> RunSpec:
    return qlora(out, corpus, base).model_copy(update={"merge": True})


KINDS: dict[str, tuple[Build, str]] = {
    "merged": (merged, "model.safetensors"),
    "domain": (domain, "adapter_model.safetensors"),
    "continued": (continued, "model.safetensors"),
    "mlm continued": (mlm_continued, "model.safetensors"),
    "mlm": (mlm, "model.safetensors"),
    "classification": (classification, "adapter_model.safetensors"),
    "reward": (reward, "adapter_model.safetensors"),
    "grpo": (grpo, "adapter_model.safetensors"),
    "ppo": (ppo, "adapter_model.safetensors"),
    "dpo": (dpo, "adapter_model.safetensors"),
    "pretrain": (pretrain, "model.safetensors"),
    "adamw-8bit": (narrow, "model.safetensors"),
    "lora": (lora, "adapter_model.safetensors"),
    "qlora": (qlora, "adapter_model.safetensors"),
    "prompt-tuning": (prompt_tuning, "adapter_model.safetensors"),
    "adapter": (adapter, "adapter_model.safetensors"),
}


def by(method: str, build: Build) -> tuple[Build, str]:
    """A kind of run by another method than LoRA."""

    def built(out: Path, corpus: Path, base: Path) -> RunSpec:
        spec = build(out, corpus, base)
        own = {"lora": spec.lora if method == "qlora" else None}
        virtual = {"prompt_tuning": PromptTuning(virtual_tokens=5)} if method == "prompt-tuning" else {}
        return spec.model_copy(update={"method": method} | own | virtual)

    return built, "model.safetensors" if method == "full" else "adapter_model.safetensors"


OF_LANGUAGE_MODELS: dict[str, Build] = {"sft": lora, "domain": domain, "dpo": dpo, "ppo": ppo, "grpo": grpo}
WITH_HEADS: dict[str, Build] = {"reward": reward, "classification": classification}
OTHER_METHODS = {
    f"{stage} by {method}": by(method, build)
    for stage, build in (OF_LANGUAGE_MODELS | WITH_HEADS).items()
    for method in (("full",) if stage in WITH_HEADS else ("full", "qlora", "prompt-tuning"))
    if f"{stage} by {method}" not in ("sft by qlora", "sft by prompt-tuning")
}
"""What is left of every objective by every method."""
RUNS: dict[str, tuple[Build, str]] = KINDS | OTHER_METHODS


@dataclass(frozen=True)
class Undisturbed:
    """A run's end."""

    weights: str
    """SHA-256 of the final weights."""
    seconds: float
    """How long it took on this machine."""


@pytest.fixture(scope="module")
def undisturbed(
    corpus: Path, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Undisturbed]:
    """What comes of a kind of run that nothing happens to."""

    @cache
    def carry_out(kind: str) -> Undisturbed:
        # The name of the output folder is part of the run spec, so every run of a test has this one.
        spec = RUNS[kind][0](tmp_path_factory.mktemp(kind) / "out", corpus, base)
        began = time.monotonic()
        process = Process(spec, Path(spec.output.path).parent)
        assert process.end() == 0, process.out
        return Undisturbed(weights(spec, kind), time.monotonic() - began)

    return carry_out


def weights(spec: RunSpec, kind: str) -> str:
    path = Path(spec.output.path) / "artifact" / RUNS[kind][1]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def started(spec: RunSpec, folder: Path, text: str) -> Process:
    """A run that has just said something."""
    process = Process(spec, folder)
    process.wait_for(text)
    return process


def newest(spec: RunSpec) -> Path:
    folders = (Path(spec.output.path) / "checkpoints").glob("step-*")
    return max(folders, key=lambda p: int(p.name.removeprefix("step-")))


SHORT = {"pretrain", "lora", "grpo", "adapter"}
"""Kinds without --chaos=long, in which tests/chaos/test_trainer_kills.py kills all of them more often."""


@pytest.mark.parametrize("kind", sampled(KINDS, SHORT))
def test_killed_then_damaged_then_terminated(
    undisturbed, corpus: Path, base: Path, tmp_path: Path, kind: str
):
    spec = KINDS[kind][0](tmp_path / "out", corpus, base)

    process = started(spec, tmp_path, "checkpoint step=10")
    process.signal(signal.SIGKILL)
    assert process.end() == -signal.SIGKILL

    # As if the machine had gone down while the newest one was being written back to the disk.
    damaged = newest(spec)
    path = damaged / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    before = int(damaged.name.removeprefix("step-")) - 5

    process = started(spec, tmp_path, f"checkpoint step={before + 15}")
    assert f"skipped={damaged.name}" in process.out
    assert f"resumed step={before}" in process.out
    process.signal(signal.SIGTERM)
    assert process.end() == 143, process.out
    message = process.message
    assert message.reason is Reason.TERMINATED
    assert message.last_checkpoint is not None
    stopped = message.last_checkpoint.step
    assert before + 15 <= stopped < LONG
    assert newest(spec).name == f"step-{stopped}"
    assert message.last_checkpoint.uri == f"pvc://out/out/checkpoints/step-{stopped}"

    process = Process(spec, tmp_path)
    assert process.end() == 0, process.out
    assert f"resumed step={stopped}" in process.out
    assert weights(spec, kind) == undisturbed(kind).weights
    assert process.message.evaluation is not None
    report = (tmp_path / "out/artifact/report.html").read_text()
    assert f"from step {before}, {stopped}" in report


def test_the_baseline_is_neither_repeated_nor_lost(corpus: Path, base: Path, tmp_path: Path):
    spec = lora(tmp_path / "out", corpus, base)
    process = started(spec, tmp_path, "checkpoint step=5")
    first = (tmp_path / "out/checkpoints/baseline.json").read_bytes()
    process.signal(signal.SIGKILL)
    process.end()
    process = started(spec, tmp_path, "resumed step=")
    assert (tmp_path / "out/checkpoints/baseline.json").read_bytes() == first
    assert process.end() == 0
    message = process.message
    assert message.evaluation is not None
    assert message.evaluation.baseline
    assert all(s.before is not None for s in message.evaluation.samples)


@pytest.mark.parametrize(
    "phase", ["start job", "data documents", "plan method", "baseline loss", "train step=1/"]
)
def test_asked_to_stop_early(corpus: Path, base: Path, tmp_path: Path, phase: str):
    spec = pretrain(tmp_path / "out", corpus, base)
    process = started(spec, tmp_path, phase)
    process.signal(signal.SIGTERM)
    asked = time.monotonic()
    assert process.end() == 143, process.out
    assert time.monotonic() - asked < 60
    assert process.message.reason is Reason.TERMINATED
    # Whatever had been learned is on disk.
    if "train step=1/" in process.out:
        assert process.message.last_checkpoint is not None
        assert newest(spec).name == f"step-{process.message.last_checkpoint.step}"


def test_asked_to_stop_during_the_last_evaluation(undisturbed, corpus: Path, base: Path, tmp_path: Path):
    long_answers = Evaluation(sample_prompts=["the", "a", "its"], max_new_tokens=60)
    spec = pretrain(tmp_path / "out", corpus, base).model_copy(update={"evaluation": long_answers})
    process = started(spec, tmp_path, f"checkpoint step={LONG}")
    process.signal(signal.SIGTERM)
    assert process.end() == 143, process.out
    again = Process(spec, tmp_path)
    assert again.end() == 0, again.out
    assert f"resumed step={LONG}" in again.out
    assert "train step" not in again.out
    assert weights(spec, "pretrain") == undisturbed("pretrain").weights


def test_as_the_container_starts_it(corpus: Path, base: Path, tmp_path: Path):
    """The real command: SIGTERM counts even before torch is imported, and threads do not spin."""
    spec = pretrain(tmp_path / "out", corpus, base)
    (tmp_path / "run.json").write_text(spec.canonical())
    command = [sys.executable, "-m", "kubetune_trainer", "--run-spec", str(tmp_path / "run.json")]
    environment = os.environ | {termination.PATH_VARIABLE: str(tmp_path / "term.json")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "start job=PretrainJob/test/out" in process.stdout.readline()
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert "libtorch" not in maps, "the handler stands before the heavy imports"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert '"reason":"Terminated"' in (tmp_path / "term.json").read_text()


def test_checkpoints_of_another_job_or_spec_are_not_used(run: Run, corpus: Path, base: Path, tmp_path: Path):
    first = pretrain(tmp_path / "first", corpus, base)
    process = started(first, tmp_path, "checkpoint step=5")
    process.signal(signal.SIGKILL)
    process.end()
    other = pretrain(tmp_path / "other", corpus, base)
    shutil.copytree(tmp_path / "first/checkpoints", tmp_path / "other/checkpoints")
    ended = run(other)
    assert ended.code == 0
    assert "it belongs to another job" in ended.out
    assert "resumed" not in ended.out


def test_changed_data_is_said_and_the_tokenizer_stays(run: Run, corpus: Path, base: Path, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(corpus, data)
    spec = pretrain(tmp_path / "out", data, base)
    process = started(spec, tmp_path, "checkpoint step=5")
    process.signal(signal.SIGKILL)
    process.end()
    tokenizer = (tmp_path / "out/checkpoints/tokenizer.json").read_text()
    with (data / "web.jsonl").open("a") as file:
        file.write('{"text": "zebras and quaggas were not there before"}\n' * 50)
    ended = run(spec)
    assert ended.code == 0
    assert "the data changed since the checkpoint" in ended.out
    vocabulary = (tmp_path / "out/artifact/tokenizer.json").read_text()
    assert vocabulary.count("Ġ") == tokenizer.count("Ġ")
