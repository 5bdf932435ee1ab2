"""One writer at a time, with real processes: alive, dead, frozen, on this node and on another one."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import pytest

from kubetune_trainer import files, warned, writer
from kubetune_trainer.errors import StorageError, Superseded, Terminated
from kubetune_trainer.signals import Stop

BEAT = 0.2
"""Seconds: a holder is taken for dead after 1.8 s."""
HOLDER = """
import sys, time
from pathlib import Path
from kubetune_trainer.files import replace_file
from kubetune_trainer.signals import Stop
from kubetune_trainer.writer import only_writer
folder, name, times, pause = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
with only_writer(folder, "pvc://m/x", Stop()):
    print("holds", time.time(), flush=True)
    for number in range(times):
        time.sleep(pause)
        replace_file(folder / name, str(number).encode())
    print("ends", time.time(), flush=True)
"""


class Holder:
    """A process that holds a folder, writes to it so many times, and ends."""

    def __init__(self, folder: Path, name: str, times: int = 1000, pause: float = 0.05) -> None:
        command = [sys.executable, "-c", HOLDER, str(folder), name, str(times), str(pause)]
        environment = os.environ | {writer.BEAT_VARIABLE: str(BEAT)}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def line(self, word: str) -> float:
        """Wait for a line; returns when it was written."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith(word):
                return float(line.split()[1])
        raise AssertionError(f"{word} never came: {self.end()}")

    def end(self) -> tuple[int, str]:
        """Wait for its end; exit code and what it said."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out + err


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(writer.BEAT_VARIABLE, str(BEAT))
    warned.restart()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if this process ran on another node."""
    other = tmp_path / "boot_id"
    other.write_text("another kernel\n")
    monkeypatch.setattr(writer, "_BOOT", other)


@contextmanager
def held(folder: Path) -> Iterator[Holder]:
    holder = Holder(folder, "theirs")
    try:
        holder.line("holds")
        yield holder
    finally:
        holder.process.kill()
        holder.end()


def seconds_until_ours(folder: Path) -> float:
    began = time.monotonic()
    with writer.only_writer(folder, "pvc://m/x", Stop()):
        took = time.monotonic() - began
        files.replace_file(folder / "ours", b"x")
    return took


def take_unwaited(folder: Path) -> None:
    """Hold the lease of a folder for a moment; whoever would have to wait for it fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer.time, "sleep", lambda seconds: pytest.fail(f"waited for {seconds} s"))
        seconds_until_ours(folder)


def leases(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".writer-*"))


def test_a_free_folder_is_taken_at_once_and_left_as_it_was(tmp_path: Path):
    folder = tmp_path / "not/there"
    take_unwaited(folder)
    assert [path.name for path in folder.iterdir()] == ["ours"]


def test_who_holds_it_is_waited_for_and_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    holder = Holder(tmp_path, "theirs", times=60)
    holder.line("holds")
    with writer.only_writer(tmp_path, "pvc://m/x", Stop()):
        mine = time.time()
        assert holder.line("ends") <= mine
    assert holder.end()[0] == 0
    [warning] = warned.given()
    assert warning.reason == "FolderInUse"
    assert f"of host name {os.uname().nodename}, writes to pvc://m/x" in warning.message
    assert capfd.readouterr().out.count("FolderInUse") == 1


def test_a_holder_that_was_killed_on_this_node_is_not_waited_for(tmp_path: Path):
    with held(tmp_path) as holder:
        holder.process.send_signal(signal.SIGKILL)
        holder.end()
        take_unwaited(tmp_path)
    assert leases(tmp_path) == []


@pytest.mark.usefixtures("elsewhere")
def test_a_holder_that_was_killed_on_another_node_is_waited_for_until_that_is_sure(tmp_path: Path):
    with held(tmp_path) as holder:
        holder.process.send_signal(signal.SIGKILL)
        holder.end()
        assert seconds_until_ours(tmp_path) >= writer.LOOKS * BEAT
    assert leases(tmp_path) == []


def test_without_locks_a_holder_that_was_killed_is_waited_for(tmp_path: Path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    # One that this process leaves behind, as if it had been killed.
    lease = writer.Lease(tmp_path, 7, BEAT)
    os.close(lease._file)
    assert seconds_until_ours(tmp_path) >= writer.LOOKS * BEAT


def test_a_frozen_holder_is_replaced_and_writes_nothing_when_it_wakes(tmp_path: Path):
    with held(tmp_path) as holder:
        holder.process.send_signal(signal.SIGSTOP)
        with writer.only_writer(tmp_path, "pvc://m/x", Stop()):
            theirs = (tmp_path / "theirs").read_bytes() if (tmp_path / "theirs").exists() else None
            holder.process.send_signal(signal.SIGCONT)
            code, said = holder.end()
            assert code == 1
            assert "Superseded: another trainer writes to" in said
            now = (tmp_path / "theirs").read_bytes() if (tmp_path / "theirs").exists() else None
            assert now == theirs
            files.replace_file(tmp_path / "ours", b"x")
    assert leases(tmp_path) == []


def test_a_frozen_holder_is_out_although_its_successor_has_ended_long_ago(tmp_path: Path):
    with held(tmp_path) as holder:
        holder.process.send_signal(signal.SIGSTOP)
        seconds_until_ours(tmp_path)
        assert leases(tmp_path) == []
        holder.process.send_signal(signal.SIGCONT)
        assert "Superseded" in holder.end()[1]
    assert leases(tmp_path) == []


def test_a_holder_that_nobody_replaced_goes_on_after_a_freeze(tmp_path: Path):
    with held(tmp_path) as holder:
        before = leases(tmp_path)
        holder.process.send_signal(signal.SIGSTOP)
        time.sleep(4 * writer.SURE_BEATS * BEAT)
        holder.process.send_signal(signal.SIGCONT)
        time.sleep(2 * BEAT)
        theirs = (tmp_path / "theirs").read_bytes()
        time.sleep(2 * BEAT)
        assert (tmp_path / "theirs").read_bytes() != theirs
        assert len(leases(tmp_path)) == 1
        assert leases(tmp_path) != before, "it had to win a number, as anybody else"


def test_a_fault_of_the_storage_after_a_freeze_does_not_cost_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lease = writer.Lease(tmp_path, 1, BEAT)  # its thread does not run: what it would do is done here
    lease._beaten -= 100
    with monkeypatch.context() as patch:
        patch.setattr(writer.os, "open", Mock(side_effect=OSError(errno.EIO, "input/output error")))
        with pytest.raises(StorageError):
            lease.check()
    lease.check()
    assert leases(tmp_path) == [".writer-2"]


def test_a_lease_that_somebody_removed_is_lost(tmp_path: Path):
    with writer.only_writer(tmp_path, "pvc://m/x", Stop()):
        (tmp_path / leases(tmp_path)[0]).unlink()
        time.sleep(3 * BEAT)
        with pytest.raises(Superseded):
            files.remove(tmp_path / "anything")


def test_of_many_that_wait_one_at_a_time_gets_it(tmp_path: Path):
    with held(tmp_path) as first:
        waiters = [Holder(tmp_path, f"{number}", times=3) for number in range(5)]
        time.sleep(1)
        first.process.send_signal(signal.SIGKILL)
        spans = sorted((w.line("holds"), w.line("ends"), w.end()[0]) for w in waiters)
    assert [code for *_, code in spans] == [0] * 5
    for (_, ends, _), (begins, _, _) in pairwise(spans):
        assert ends <= begins
    assert leases(tmp_path) == []


def test_of_many_that_take_one_for_dead_one_wins(tmp_path: Path):
    dead = writer.Lease(tmp_path, 3, BEAT)
    won: list[writer.Lease] = []

    def claim() -> None:
        lease = writer.Lease.claim(tmp_path, 3, BEAT)
        if lease:
            won.append(lease)

    threads = [threading.Thread(target=claim) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert leases(tmp_path) == [".writer-4"]
    won[0].release()
    # Who still believes in the dead one is too late.
    assert writer.Lease.claim(tmp_path, 3, BEAT) is None
    assert leases(tmp_path) == []
    os.close(dead._file)


def test_asked_to_stop_it_does_not_wait_any_more(tmp_path: Path):
    stop = Stop()
    with held(tmp_path):
        threading.Timer(2 * BEAT, lambda: setattr(stop, "requested", True)).start()
        with pytest.raises(Terminated), writer.only_writer(tmp_path, "pvc://m/x", stop):
            pass


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError), writer.only_writer(tmp_path / "file/x", "pvc://m/x", Stop()):
        pass


def test_the_first_process_of_a_run_holds_it_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with held(tmp_path):
        monkeypatch.setenv("RANK", "1")
        take_unwaited(tmp_path)
