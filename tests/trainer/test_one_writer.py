"""Two trainers on one folder: one writes, and what comes of it is as if the other had not been there."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kubetune.api.exitcodes import Reason
from kubetune.api.runspec import RunSpec
from kubetune.artifacts.digest import digest_of, files_of
from kubetune.artifacts.manifest import read_manifest
from kubetune_trainer import writer
from tests.trainer.conftest import Process
from tests.trainer.test_resume import Undisturbed, lora, undisturbed, weights  # noqa: F401 - a fixture

BEAT = 0.7
"""Seconds: a trainer is taken for dead after 6.3 s. Less would be too little where processors are shared."""
DEAD = writer.LOOKS * BEAT


def trainer(spec: RunSpec, folder: Path) -> Process:
    return Process(spec, folder, **{writer.BEAT_VARIABLE: str(BEAT)})


def whole(spec: RunSpec) -> bool:
    """Whether the artifact is there and intact, and nothing else."""
    folder = Path(spec.output.path)
    assert [path.name for path in folder.iterdir()] == ["artifact"]
    return digest_of(files_of(folder / "artifact")) == read_manifest(folder / "artifact").digest


def test_the_second_one_waits_and_finds_the_work_done(
    undisturbed: Callable[[str], Undisturbed],  # noqa: F811
    corpus: Path, base: Path, tmp_path: Path,
) -> None:  # fmt: skip
    spec = lora(tmp_path / "out", corpus, base)
    first = trainer(spec, tmp_path / "first")
    first.wait_for("data documents")
    second = trainer(spec, tmp_path / "second")
    assert first.end() == 0, first.out
    assert second.end() == 0, second.out
    assert "FolderInUse" in second.out
    assert "an earlier attempt finished this run" in second.out
    assert "train step" not in second.out
    assert first.message.artifact == second.message.artifact
    assert weights(spec, "lora") == undisturbed("lora").weights
    assert whole(spec)


@pytest.mark.parametrize("wakes", ["while its successor trains", "when its successor has ended"])
def test_a_frozen_one_is_replaced_and_writes_nothing_when_it_wakes(
    undisturbed: Callable[[str], Undisturbed],  # noqa: F811
    corpus: Path, base: Path, tmp_path: Path, wakes: str,
) -> None:  # fmt: skip
    spec = lora(tmp_path / "out", corpus, base)
    first = trainer(spec, tmp_path / "first")
    first.wait_for("checkpoint step=10")
    first.signal(signal.SIGSTOP)
    second = trainer(spec, tmp_path / "second")
    second.wait_for("resumed step=")
    if wakes == "when its successor has ended":
        assert second.end() == 0, second.out
    first.signal(signal.SIGCONT)
    assert first.end() == 17, first.out
    assert first.message.reason is Reason.SUPERSEDED
    assert "another trainer writes to out now" in first.message.message
    assert second.end() == 0, second.out
    assert "writer tookOverFrom=" in second.out
    assert weights(spec, "lora") == undisturbed("lora").weights
    assert whole(spec)


def test_one_that_was_killed_is_followed_at_once(corpus: Path, base: Path, tmp_path: Path) -> None:
    spec = lora(tmp_path / "out", corpus, base)
    first = trainer(spec, tmp_path / "first")
    first.wait_for("checkpoint step=10")
    first.signal(signal.SIGKILL)
    first.end()
    second = trainer(spec, tmp_path / "second")
    began = time.monotonic()
    second.wait_for("writer tookOverFrom=")
    assert time.monotonic() - began < DEAD / 2
    second.signal(signal.SIGKILL)
    second.end()
