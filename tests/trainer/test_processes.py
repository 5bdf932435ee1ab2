"""One run in two processes, as torchrun would start them."""

import json
import signal
import socket
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kubetune.api.exitcodes import Reason
from kubetune.api.runspec import RunSpec
from kubetune.artifacts.manifest import read_manifest
from tests.fixtures.runs import finetune_spec, source
from tests.trainer.conftest import Process


def together(spec: RunSpec, folder: Path) -> list[Process]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return [
        Process(spec, folder / str(rank), RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(2)
    ]


def spec_of(out: Path, base: Path, corpus: Path, **training) -> RunSpec:
    # Unequal rows and an odd batch: the processes' shares differ.
    return finetune_spec(
        out, base, source(corpus / "pairs.jsonl", "alpaca"), packing=False,
        training={"global_batch_size": 5, "micro_batch_size": 2, "precision": "fp32"} | training,
    )  # fmt: skip


def test_two_processes_learn_what_one_does(corpus: Path, base: Path, tmp_path: Path):
    alone = spec_of(tmp_path / "alone/out", base, corpus)
    assert Process(alone, tmp_path / "alone").end() == 0
    both = spec_of(tmp_path / "both/out", base, corpus)
    processes = together(both, tmp_path / "both")
    assert [p.end() for p in processes] == [0, 0], processes[0].out + processes[1].out
    one, two = (load_file(tmp_path / n / "out/artifact/adapter_model.safetensors") for n in ("alone", "both"))
    assert one.keys() == two.keys()
    for name in one:
        assert (one[name] - two[name]).abs().max() < 2e-3, name
    reports = [read_manifest(tmp_path / n / "out/artifact").report for n in ("alone", "both")]
    losses = [float(r["evaluation"]["tuned"][0]["value"]) for r in reports]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_one_asked_to_stop_is_all_asked_to_stop(corpus: Path, base: Path, tmp_path: Path):
    spec = spec_of(tmp_path / "out", base, corpus, max_steps=2000, learning_rate=1e-5)
    processes = together(spec, tmp_path)
    processes[0].wait_for("checkpoint step=4")
    processes[1].signal(signal.SIGTERM)
    assert [p.end() for p in processes] == [143, 143], processes[0].out + processes[1].out
    steps = [int(p.name.removeprefix("step-")) for p in (tmp_path / "out/checkpoints").glob("step-*")]
    state = json.loads((tmp_path / f"out/checkpoints/step-{max(steps)}/state.json").read_text())
    assert state["step"] == max(steps) < 2000


def test_when_one_dies_the_others_say_so_and_the_next_attempt_goes_on(
    corpus: Path, base: Path, tmp_path: Path
):
    spec = spec_of(tmp_path / "out", base, corpus, max_steps=60, learning_rate=1e-4)
    processes = together(spec, tmp_path)
    processes[0].wait_for("checkpoint step=8")
    processes[1].signal(signal.SIGKILL)
    assert processes[0].end() == 1, processes[0].out
    assert processes[0].message.reason is Reason.INTERNAL_ERROR
    assert "another process of the run is gone" in processes[0].message.message
    assert not (tmp_path / "out/artifact").exists()
    again = together(spec, tmp_path / "again")
    assert [p.end() for p in again] == [0, 0], again[0].out
    assert "resumed step=" in again[0].out
