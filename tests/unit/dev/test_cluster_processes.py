"""Only what is ours is found, and so only that can be stopped."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dev.cluster import processes


@contextmanager
def sleeping(program: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A copy of Python that sleeps, with a folder on its command line."""
    program.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(Path(sys.executable).resolve(), program)
    code = "import time; print('up', flush=True); time.sleep(60)"
    environment = {"PYTHONHOME": sys.base_prefix}
    command = [str(program), "-c", code, f"--data-dir={folder}/data"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KUBETUNE_CACHE", str(tmp_path))
    return tmp_path


def test_a_built_daemon_with_our_folder_is_found_and_stopped(cache: Path) -> None:
    folder = cache / "cluster" / "one"
    with sleeping(cache / "bin" / "etcd-0" / "etcd", folder) as process:
        assert processes.running(folder) == [processes.Daemon(process.pid, "etcd")]
        assert processes.running(cache / "cluster" / "on") == []
        process_names = processes.stop(folder, ["kubelet"])
        assert process_names == []
        assert process.poll() is None
        assert processes.stop(folder, ["etcd"], grace=0) == ["etcd"]
        assert process.wait(5) < 0


def test_others_are_left_alone(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = cache / "cluster" / "one"
    elsewhere = tmp_path_factory.mktemp("usr")
    with (
        sleeping(elsewhere / "etcd", folder) as same_name,
        sleeping(cache / "bin" / "kubectl-0" / "kubectl", folder) as same_folder,
    ):
        assert processes.running(folder) == []
        assert processes.stop(folder, processes.DAEMONS, grace=0) == []
        assert same_name.poll() is None
        assert same_folder.poll() is None


def test_a_daemon_that_ended_is_reported_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = processes.start(Path("/bin/sh"), ["-c", "echo port taken; exit 3"], log)
    assert processes.wait_gone([process.pid], 5)
    with pytest.raises(processes.ClusterError, match=r"(?s)it ended with 3.*port taken"):
        processes.check_alive(process, "it", log)
