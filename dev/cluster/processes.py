"""Start and stop the daemons of an instance.

There are no pid files that could go stale. A process is ours if and only if its executable is one of our
built binaries and its command line names the instance's folder: both are read from /proc each time.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dev.cluster import paths
from dev.cluster.report import ClusterError

# Programs that we leave running; kubectl and ctr with the same folder on their command line are not.
DAEMONS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "containerd",
    "containerd-shim-runc-v2",
    "kubelet",
    "kube-proxy",
    "coredns",
)
# Those that this very process started: only their parent can reap them.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Daemon:
    """A running daemon of ours."""

    pid: int
    name: str


def start(
    binary: Path,
    arguments: Sequence[str],
    log: Path,
    *,
    with_parent: bool = False,
    search_path: Sequence[Path] = (),
) -> subprocess.Popen[bytes]:
    """Start a daemon in a session of its own; it outlives us unless `with_parent`.

    Args:
        binary: the program.
        arguments: its arguments; one of them must name the instance's folder.
        log: takes its output.
        with_parent: kill it when the thread that started it ends, however that ends.
        search_path: folders to put first on its PATH.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [str(binary), *arguments]
    if with_parent:
        command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
    folders = os.pathsep.join(
        [*map(str, search_path), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
    )
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env={**os.environ, "PATH": folders},
            start_new_session=True,
        )
    _children[process.pid] = process
    return process


def running(folder: Path) -> list[Daemon]:
    """The daemons of the instance in `folder`."""
    found = []
    built = f"{paths.binaries()}/"
    mine = f"{folder}/".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            executable = os.readlink(entry / "exe").removesuffix(" (deleted)")
            arguments = (entry / "cmdline").read_bytes()
        except OSError:  # gone meanwhile, a kernel thread, or another user's
            continue
        name = Path(executable).name
        if executable.startswith(built) and name in DAEMONS and mine in arguments:
            found.append(Daemon(int(entry.name), name))
    return found


def stop(folder: Path, names: Sequence[str], *, grace: float = 10.0) -> list[str]:
    """Stop the instance's daemons of these names; kill those that have not ended after `grace` seconds.

    Returns:
        The names of those that were running.

    Raises:
        ClusterError: one of them cannot be killed.
    """
    targets = [daemon for daemon in running(folder) if daemon.name in names]
    pids = [daemon.pid for daemon in targets]
    if grace:
        _signal(pids, signal.SIGTERM)
    if not grace or not wait_gone(pids, grace):
        mine = {daemon.pid for daemon in running(folder)}  # a pid that was freed meanwhile may be another's
        _signal([pid for pid in pids if pid in mine], signal.SIGKILL)
        if not wait_gone(pids, 10):
            raise ClusterError(f"processes {pids} of {folder} do not end; look at them with `ps`")
    _reap()
    return [daemon.name for daemon in targets]


def wait_gone(pids: Sequence[int], seconds: float) -> bool:
    """Whether all processes have ended within the time."""
    deadline = time.monotonic() + seconds
    while any(_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def check_alive(process: subprocess.Popen[bytes], name: str, log: Path) -> None:
    """Raise if a daemon has ended, with the last thing that it said."""
    if process.poll() is not None:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise ClusterError(
            f"{name} ended with {process.returncode}; the end of {log}:\n" + "\n".join(lines[-5:])
        )


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _reap() -> None:
    """Forget children that somebody else has killed."""
    for pid in [pid for pid, child in _children.items() if child.poll() is not None]:
        del _children[pid]


def _alive(pid: int) -> bool:
    if child := _children.get(pid):
        if child.poll() is None:
            return True
        del _children[pid]
        return False
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
