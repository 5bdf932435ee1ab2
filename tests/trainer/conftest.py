import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from kubetune.api.progress import TerminationMessage
from kubetune.api.runspec import RunSpec
from kubetune_trainer import main, termination
from kubetune_trainer.data.tokenizer_training import train
from tests.fixtures.runs import (
    encoder,
    labelled,
    pairs,
    preferences,
    pretrain_spec,
    prompts,
    sentences,
    source,
    write_jsonl,
)


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int
    message: TerminationMessage
    out: str


Run = Callable[[RunSpec], Ended]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""So small a model gains nothing by a second thread, and two runs at a time would wait for each other's."""


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ONE_THREAD.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Carry out a run in this process."""

    def carry_out(spec: RunSpec) -> Ended:
        (tmp_path / "run.json").write_text(spec.canonical())
        monkeypatch.setenv(termination.PATH_VARIABLE, str(tmp_path / "term.json"))
        handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            code = main.main(["--run-spec", str(tmp_path / "run.json")])
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        message = TerminationMessage.model_validate_json((tmp_path / "term.json").read_bytes())
        return Ended(code, message, "".join(capfd.readouterr()))

    return carry_out


def _child(spec: str, log: str, term: str, environment: dict[str, str]) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ |= ONE_THREAD | {termination.PATH_VARIABLE: term, "HF_HUB_OFFLINE": "1"} | environment
    sys.exit(main.main(["--run-spec", spec]))


class Process:
    """A run in a process of its own, forked from one that has imported everything: that saves seconds.

    It is on the CPU, also where there is a GPU: importing bitsandbytes begins to use the GPU, which a process
    that is forked after that cannot use.
    """

    _server = multiprocessing.get_context("forkserver")
    _server.set_forkserver_preload(["tests.fixtures.lean_run", "tests.trainer.conftest"])

    def __init__(self, spec: RunSpec, folder: Path, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log, self._term, path = folder / "log.txt", folder / "term.json", folder / "run.json"
        path.write_text(spec.canonical())
        self._log.write_text("")
        files = (str(path), str(self._log), str(self._term))
        self.process = self.in_child(_child, *files, environment)

    @classmethod
    def in_child(cls, function: Callable[..., None], *arguments: Any) -> BaseProcess:
        """Call a function in such a process."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
            forkserver.ensure_running()
        process = cls._server.Process(target=function, args=arguments)
        process.start()
        return process

    @property
    def out(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        """Wait for a line of the log that holds a text."""
        deadline = time.monotonic() + 120
        while text not in self.out:
            assert self.process.is_alive(), f"{text!r} never came:\n{self.out}"
            assert time.monotonic() < deadline, f"{text!r} is not coming:\n{self.out}"
            time.sleep(0.005)

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        self.process.join(120)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"it does not end:\n{self.out}")
        return self.process.exitcode or 0

    @property
    def message(self) -> TerminationMessage:
        return TerminationMessage.model_validate_json(self._term.read_bytes())


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources of text and one of pairs."""
    folder = tmp_path_factory.mktemp("corpus")
    write_jsonl(folder / "web.jsonl", list(sentences(150)))
    write_jsonl(folder / "books/one.jsonl", list(sentences(60, seed=1)))
    (folder / "books/two.txt").write_text("\n<|endoftext|>\n".join(sentences(20, seed=2)))
    write_jsonl(folder / "pairs.jsonl", pairs(90))
    write_jsonl(folder / "preferences.jsonl", preferences(60))
    write_jsonl(folder / "labelled.jsonl", labelled(200))
    write_jsonl(folder / "prompts.jsonl", prompts(40, "the"))
    (folder / "pairs.json").write_text(json.dumps(pairs(90)))
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare encoder."""
    return encoder(tmp_path_factory.mktemp("bert") / "base")


@pytest.fixture(scope="session")
def base(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a PretrainJob."""
    out = tmp_path_factory.mktemp("out") / "base"
    spec = pretrain_spec(
        out, source(corpus / "web.jsonl", name="web"), training={"max_steps": 30}, held_out=0.05
    )
    process = Process(spec, out.parent)
    assert process.end() == 0, process.out
    return out / "artifact"


@pytest.fixture(scope="session")
def calm(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that has learned by steps so small that all processors agree on it."""
    out = tmp_path_factory.mktemp("calm") / "base"
    training = {"max_steps": 60, "precision": "fp32", "learning_rate": 1e-3}
    process = Process(
        pretrain_spec(out, source(corpus / "web.jsonl", name="web"), training=training), out.parent
    )
    assert process.end() == 0, process.out
    return out / "artifact"


@pytest.fixture(scope="session")
def masked_tokenizer() -> PreTrainedTokenizerBase:
    return train(iter(sentences(200)), 320, masked=True)
