"""Against a real HTTP server."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from transformers.integrations import KubeflowCallback

from kubetune.api.progress import CheckpointStatus, ProgressUpdate
from kubetune.api.warnings import WarningReason
from kubetune_trainer import progress, warned
from kubetune_trainer.progress import Progress, named


class Receiver(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, dict]] = []
        self.answer = 200


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append((self.headers["Authorization"], body))
        self.send_response(self.server.answer)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    (tmp_path / "token").write_text("first\n")
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", f"http://127.0.0.1:{server.server_port}/jobs/x")
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_TOKEN", str(tmp_path / "token"))
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def wait(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_updates_are_sent_and_the_token_is_read_each_time(receiver: Receiver, tmp_path: Path):
    reporter = Progress()
    reporter.update(percentage=0, step=0, totalSteps=10)
    wait(lambda: receiver.got)
    (tmp_path / "token").write_text("rotated")
    checkpoint = CheckpointStatus(step=5, time="2026-01-01T00:00:00Z", uri="pvc://x", digest="sha256:0")
    reporter.update(
        percentage=50, remaining=2.4, checkpoint=checkpoint, step=5, loss=1.25, gradNorm=float("nan")
    )
    reporter.close()
    assert [token for token, _ in receiver.got] == ["Bearer first", "Bearer rotated"]
    update = ProgressUpdate.model_validate(receiver.got[-1][1])
    assert update.trainer_status.progress_percentage == 50
    assert update.trainer_status.estimated_remaining_seconds == 2
    assert {m.name: m.value for m in update.trainer_status.metrics} == {
        "step": "5",
        "totalSteps": "10",
        "loss": "1.25",
    }
    assert update.last_checkpoint == checkpoint


def test_it_speaks_the_protocol_of_transformers_callback(receiver: Receiver):
    assert KubeflowCallback()._update_status(50, 7, {"loss": 1.5}, force=True)
    reporter = Progress()
    reporter.update(percentage=50, remaining=7, loss=1.5)
    reporter.close()
    theirs, ours = (body for _, body in receiver.got)
    for body in (theirs, ours):
        body["trainerStatus"].pop("lastUpdatedTime")
    assert theirs == ours
    assert receiver.got[0][0] == receiver.got[1][0]


def test_a_warning_is_told_at_once_and_once(receiver: Receiver):
    reporter = Progress()
    warned.restart(reporter.update)
    try:
        for _ in range(2):
            warned.warn(WarningReason.FEW_STEPS, "few\nsteps")
        wait(lambda: receiver.got)
        assert receiver.got[0][1]["trainerStatus"]["warnings"] == [
            {"reason": "FewSteps", "message": "few steps"}
        ]
        assert len(warned.given()) == 1
    finally:
        reporter.close()
        warned.restart()


def test_many_updates_are_few_requests(receiver: Receiver, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.5)
    reporter = Progress()
    for step in range(1000):
        reporter.update(step=step)
    reporter.close()
    assert len(receiver.got) <= 2
    assert receiver.got[-1][1]["trainerStatus"]["metrics"] == [{"name": "step", "value": "999"}]


@pytest.mark.parametrize("fault", ["refused", "denied", "no token"])
def test_failures_are_said_once_and_disturb_nothing(
    receiver: Receiver, tmp_path: Path, monkeypatch, capsys, fault
):
    if fault == "refused":
        monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", "http://127.0.0.1:9")
    elif fault == "denied":
        receiver.answer = 403
    else:
        (tmp_path / "token").unlink()
    reporter = Progress()
    for step in range(3):
        reporter.update(step=step)
        time.sleep(0.1)
    reporter.close()
    out = capsys.readouterr().out
    assert out.count("progress was not reported") == 1
    assert "training goes on" in out


def test_an_answer_that_is_no_http_does_not_end_the_reports(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", f"http://127.0.0.1:{stranger.getsockname()[1]}")
        reporter = Progress()
        for step, garbage in enumerate((b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 many\r\n\r\n", b"")):
            reporter.update(step=step)
            connection, _ = stranger.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(garbage)
        reporter.close()
    out = capsys.readouterr().out
    assert out.count("progress was not reported") == 1
    assert "does not answer in HTTP (BadStatusLine: SSH-2.0-OpenSSH_9.2)" in out


def test_without_a_receiver_there_is_no_thread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KUBEFLOW_TRAINER_SERVER_URL", raising=False)
    before = threading.active_count()
    reporter = Progress()
    reporter.update(percentage=3, loss=2.0)
    assert threading.active_count() == before
    assert reporter.status().progress_percentage == 3
    reporter.close()


def test_numbers_as_text():
    values = named({"a": 1.0, "b": 3, "c": 1e-7, "d": float("inf"), "e": 123456.789})
    assert {v.name: v.value for v in values} == {"a": "1", "b": "3", "c": "1e-07", "e": "123457"}
