"""What a run says, and with which code it ends, when it cannot be carried out."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from kubetune.api.data import Evaluation
from kubetune.api.exitcodes import Reason
from kubetune.api.finetunejob import Lora
from kubetune.api.runspec import RunModel, RunOutput, RunSpec
from kubetune_trainer import main, termination
from kubetune_trainer import run as runs
from tests.fixtures.runs import TINY_LLAMA, finetune_spec, pretrain_spec, source, write_jsonl
from tests.trainer.conftest import Run


def pretrain(tmp: Path, base: Path, *content: object, **changes) -> RunSpec:
    return pretrain_spec(tmp / "out", source(write_jsonl(tmp / "x.jsonl", list(content))), **changes)


def finetune(tmp: Path, base: Path, *content: object, form: str = "alpaca", **changes) -> RunSpec:
    return finetune_spec(
        tmp / "out", base, source(write_jsonl(tmp / "x.jsonl", list(content)), form), **changes
    )


def leading_out(tmp: Path, spec: RunSpec) -> RunSpec:
    (tmp / "volume").mkdir()
    (tmp / "volume/link").symlink_to(tmp / "elsewhere")
    output = RunOutput(uri="pvc://out/link/x", path=str(tmp / "volume/link/x"))
    return spec.model_copy(update={"output": output})


def refusing(tmp: Path, base: Path) -> Path:
    """A base whose chat template refuses one conversation."""
    shutil.copytree(base, tmp / "strict")
    when = "{% if messages | map(attribute='content') | list == ['q'] %}"
    template = when + "{{ raise_exception('no system') }}{% endif %}"
    (tmp / "strict/chat_template.jinja").write_text(template + (base / "chat_template.jinja").read_text())
    return tmp / "strict"


GOOD = [{"instruction": f"q{i}", "output": f"a{i}"} for i in range(20)]
TEXTS = [f"text number {i} is fine" for i in range(20)]
MAMBA = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 1}
OTHER = "sha256:" + "0" * 64
CASES = {
    "malformed record": (
        lambda t, b: finetune(t, b, *GOOD[:3], {"instruction": "q"}),
        (11, "x.jsonl, line 4: field 'output' is missing; format alpaca needs it to be a string"),
    ),
    "wrong format": (
        lambda t, b: finetune(t, b, *GOOD, form="messages"),
        (11, "x.jsonl, line 1: format messages needs"),
    ),
    "half a surrogate": (
        lambda t, b: pretrain(t, b, "fine", "\ud800"),
        (11, "x.jsonl, line 2: holds half of a surrogate"),
    ),
    "missing path": (
        lambda t, b: pretrain_spec(t / "out", source(t / "none.jsonl")),
        (11, "source data: nothing is at pvc://data/none"),
    ),
    "empty data": (
        lambda t, b: pretrain(t, b),
        (11, "source data: pvc://data/x.jsonl holds no text: add data"),
    ),
    "only empty texts": (lambda t, b: pretrain(t, b, "", " "), (11, "holds no text")),
    "everything held out": (
        lambda t, b: pretrain(t, b, *TEXTS, held_out=0.999999),
        (11, "every document is held out"),
    ),
    "all examples held out": (
        lambda t, b: finetune(t, b, *GOOD, held_out=0.999999),
        (11, "of 20 examples none is left to train on: all are held out"),
    ),
    "all examples measured": (
        lambda t, b: finetune(
            t, b, *GOOD, evaluation_source=source(write_jsonl(t / "y.jsonl", list(GOOD)), "alpaca")
        ),
        (11, "none is left to train on: all are held out or in evaluation.data, too"),
    ),
    "no answer fits": (
        lambda t, b: finetune(t, b, *GOOD, length=8),
        (11, "none is left to train on: data.sequenceLength leaves no room for their answers: raise it"),
    ),
    "no answer to measure fits": (
        lambda t, b: finetune(
            t,
            b,
            *GOOD,
            evaluation_source=source(
                write_jsonl(t / "y.jsonl", [{"instruction": "q " * 60, "output": "a"}]), "alpaca"
            ),
        ),
        (11, "evaluation.data: data.sequenceLength 48 leaves no room for any answer: raise it"),
    ),
    "a sample prompt that the template refuses": (
        lambda t, b: finetune(
            t, refusing(t, b), *GOOD, evaluation=Evaluation(sample_prompts=["q"], max_new_tokens=4)
        ),
        (10, "evaluation.samplePrompts: the base model's chat template refuses the conversation: no system"),
    ),
    "unknown model type": (
        lambda t, b: pretrain(t, b, *TEXTS, config={"model_type": "lama"}),
        (10, "'lama' is not a causal language model"),
    ),
    "context too short": (
        lambda t, b: pretrain(t, b, *TEXTS, length=65),
        (10, "exceeds the model's context of 64"),
    ),
    "base context too short": (
        lambda t, b: finetune(t, b, *GOOD, length=65),
        (10, "lower data.sequenceLength"),
    ),
    "cannot be isolated": (
        lambda t, b: pretrain(t, b, *TEXTS, config=MAMBA, packing=True),
        (10, "would see each other in a mamba model"),
    ),
    "no such layer": (
        lambda t, b: finetune(t, b, *GOOD, lora=Lora(target_modules=["query"])),
        (10, "the base has down_proj, embed_tokens"),
    ),
    "base missing": (
        lambda t, b: finetune(t, b, *GOOD, model=RunModel(path=str(t / "none"), root=str(t))),
        (11, "put the model there"),
    ),
    "base differs": (
        lambda t, b: finetune(t, b, *GOOD, model=RunModel(path=str(b), root=str(b), digest=OTHER)),
        (15, "name the right folder or digest"),
    ),
    "output is a file": (
        lambda t, b: ((t / "out").write_text(""), pretrain(t, b, *TEXTS))[1],
        (16, "check free space and permissions"),
    ),
    "output leads out of its volume": (
        lambda t, b: leading_out(t, pretrain(t, b, *TEXTS)),
        (10, "pvc://out/link/x leads out of its volume by a symbolic link: choose another folder"),
    ),
    "diverges": (
        lambda t, b: pretrain(t, b, *TEXTS, config=TINY_LLAMA | {"rms_norm_eps": -1.0}),
        (12, "is not finite at step 1 of 12: lower training.learningRate"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_exit_code_reason_and_remedy(run: Run, base: Path, tmp_path: Path, case: str):
    make, (code, text) = CASES[case]
    ended = run(make(tmp_path, base))
    assert ended.code == code, ended.out
    assert text in ended.message.message
    assert text in ended.out, "also at the end of the log"
    assert not (tmp_path / "out/artifact").exists()


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (MemoryError(), 13, Reason.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 13, Reason.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), 14, Reason.CUDA_OUT_OF_MEMORY),
        (ZeroDivisionError("a defect"), 1, Reason.INTERNAL_ERROR),
    ],
)
def test_errors_of_the_machine_and_defects(
    run: Run, base: Path, tmp_path, monkeypatch, error, code: int, reason
):
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(runs.TrainingLoop, "run", fail)
    ended = run(pretrain(tmp_path, base, *TEXTS))
    assert (ended.code, ended.message.reason) == (code, reason)
    assert ended.message.plan is not None, "what was known by then is told"
    assert ended.message.message
    assert ("Traceback" in ended.out) == (code == 1)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "cannot be read"),
        ("{", "Invalid JSON"),
        ("{}", "job: Field required"),
        (json.dumps({"job": {"kind": "Pod"}}), "job.kind"),
    ],
)
def test_bad_run_specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, text: str):
    monkeypatch.setenv(termination.PATH_VARIABLE, str(tmp_path / "term.json"))
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert main.main(["--run-spec", str(tmp_path / "run.json")]) == 10
    message = json.loads((tmp_path / "term.json").read_text())
    assert message["reason"] == "InvalidSpec"
    assert text in message["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_full_disk(run: Run, base: Path, tmp_path: Path):
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], check=False
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        data = source(write_jsonl(tmp_path / "x.jsonl", TEXTS))
        ended = run(pretrain_spec(disk / "out", data))
        assert (ended.code, ended.message.reason) == (16, Reason.STORAGE_ERROR), ended.out
        assert "check free space" in ended.message.message
    finally:
        subprocess.run(["umount", str(disk)], check=True)
