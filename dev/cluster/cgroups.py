"""The one cgroup below which all pods run, on cgroup v1 and v2."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from dev.cluster.report import ClusterError

NAME = "kubetune"
_MOUNT = Path("/sys/fs/cgroup")
_NEEDED = ("cpu", "cpuset", "memory", "pids")


def is_v2() -> bool:
    """Whether the machine has the unified hierarchy only."""
    return (_MOUNT / "cgroup.controllers").exists()


def hierarchies() -> list[Path]:
    """Where cgroups are mounted: one on v2; on v1 one for each controller, and maybe a bare v2 one."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    folders = [Path(target) for _, target, kind, *_ in mounts if kind in ("cgroup", "cgroup2")]
    return [folder for folder in folders if folder == _MOUNT or folder.parent == _MOUNT]


def missing_controllers() -> list[str]:
    """Controllers that kubelet needs and this machine lacks."""
    if is_v2():
        present = set((_MOUNT / "cgroup.controllers").read_text().split())
    else:
        present = {name for folder in hierarchies() for name in folder.name.split(",")}
    return [name for name in _NEEDED if name not in present]


def create() -> None:
    """Make the cgroup that kubelet is given as its root."""
    if is_v2():
        available = (_MOUNT / "cgroup.controllers").read_text().split()
        for controller in available:
            # Some cannot be delegated; kubelet names those that it misses.
            with suppress(OSError):
                (_MOUNT / "cgroup.subtree_control").write_text(f"+{controller}")
    for hierarchy in hierarchies():
        folder = hierarchy / NAME
        folder.mkdir(exist_ok=True)
        # On v1 a new cpuset is empty, and nothing can run in it.
        for file in ("cpuset.cpus", "cpuset.mems"):
            if not is_v2() and (folder / file).exists():
                (folder / file).write_text((hierarchy / file).read_text())
        # By default all pods together would get the time of one process beside them; kubelet means all cores.
        if (folder / "cpu.shares").exists():
            (folder / "cpu.shares").write_text(str(1024 * (os.cpu_count() or 1)))


def kill_all() -> int:
    """Kill every process of every pod; returns how many there were.

    Raises:
        ClusterError: some do not end.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + 10
    while pids := _processes():
        if time.monotonic() > deadline:
            raise ClusterError(f"processes {sorted(pids)} of pods cannot be killed; look at them with `ps`")
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= pids
        time.sleep(0.05)
    return len(killed)


def remove() -> None:
    """Remove the cgroup and all below it."""
    for hierarchy in hierarchies():
        for folder, _, _ in os.walk(hierarchy / NAME, topdown=False):
            for _ in range(20):  # busy for a moment after its last process has ended
                try:
                    Path(folder).rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)
                else:
                    break


def _processes() -> set[int]:
    pids = set()
    for hierarchy in hierarchies():
        for folder, _, _ in os.walk(hierarchy / NAME):
            with suppress(OSError):
                pids |= {int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split()}
    return pids - {0}  # one of another container's: to signal 0 is to signal everybody here
