"""When something goes wrong, the demo says so in a sentence; and it says what took how long."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import dev.demo.__main__ as demo
from dev import stack
from dev.cluster.report import ClusterError
from dev.demo import chat, facts
from dev.demo.screen import Screen
from dev.kubectl import Kubectl

pytestmark = pytest.mark.unit


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that the demo takes for kubectl: it notes its words, and fails where `fails` names one."""
    script = tmp_path / "kubectl"
    script.write_text(
        '#!/bin/sh\nshift 2; cd "$(dirname "$0")"; echo "$*" >>words\n'
        'while read -r word; do case "$*" in *$word*) echo "no $word today" >&2; exit 1; esac; done <fails\n'
    )
    script.chmod(0o755)
    (tmp_path / "fails").touch()

    @contextmanager
    def running() -> Iterator[stack.Stack]:
        yield stack.Stack(Kubectl(script, tmp_path / "kubeconfig"))

    monkeypatch.setattr(stack, "running", running)
    return tmp_path


@pytest.mark.parametrize(
    "error",
    [
        facts.ClaimFailed("finetunejob/kind failed: OutOfMemory: raise the limit"),
        TimeoutError("the new version of `kind` going live did not happen within 60 s"),
        chat.NotServed("404: no such model"),
        ClusterError("the container runtime does not answer."),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("clean_up_fails", [False, True], ids=["cleaned up", "not cleaned up"])
def test_what_went_wrong_is_said_after_the_diagnosis_and_whatever_the_clean_up_does(
    kubectl: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    clean_up_fails: bool,
) -> None:
    def tell(*_: object) -> None:
        if clean_up_fails:
            (kubectl / "fails").write_text("delete\n")
        raise error

    monkeypatch.setattr(demo, "tell", tell)
    assert demo.main() == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.index("$ kubectl get events") < said.index(f"The demo failed: {error}")
    assert ("no delete today" in said) == clean_up_fails
    assert (kubectl / "words").read_text().splitlines()[-1].startswith("delete namespace quickstart")


def test_a_cluster_that_does_not_start_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def running() -> Iterator[stack.Stack]:
        raise ClusterError("The kernel has no overlay file system.")
        yield

    monkeypatch.setattr(stack, "running", running)
    assert demo.main() == 1
    assert capsys.readouterr().err == "\nThe kernel has no overlay file system.\n"


def test_a_defect_of_the_demo_keeps_its_traceback(kubectl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "tell", lambda *_: {}["evaluation"])
    with pytest.raises(KeyError):
        demo.main()


def test_the_steps_add_up_to_the_time_that_was_taken(
    kubectl: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cheap = stack.running

    @contextmanager
    def running() -> Iterator[stack.Stack]:
        with cheap() as there:
            time.sleep(0.6)
            yield there
            time.sleep(0.6)

    def tell(screen: Screen, _: Kubectl) -> None:
        with screen.step("Story"):
            time.sleep(0.6)

    screen = Screen()
    monkeypatch.setattr(stack, "running", running)
    monkeypatch.setattr(demo, "tell", tell)
    monkeypatch.setattr(demo, "Screen", lambda: screen)
    assert demo.main() == 0
    together = time.monotonic() - screen.started
    assert together - sum(seconds for _, seconds in screen.steps) < 0.5
    *steps, last = capsys.readouterr().out.split("STEP")[1].splitlines()[1:]
    assert [line.split()[0] for line in steps] == ["Set-up:", "Story", "Clean-up:"]
    assert last.split()[0] == "together"
