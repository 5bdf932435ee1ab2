"""Remove from the machine all that a full cluster leaves on it, whether it ended well or crashed.

Each thing is found by a mark that only ours bear: the instance's folder in a command line, a mount below it,
our cgroup, our bridge, our addresses.
"""

import json
import shutil
from contextlib import suppress
from pathlib import Path

from dev.cluster import cgroups, network, paths, processes, shell, sysctls
from dev.cluster.report import ClusterError, say

# Written outside the instance's folder, by programs in which the place is fixed.
_CONTAINER_LOG_LINKS = Path("/var/log/containers")
_CNI_RESULTS = Path("/var/lib/cni/results")


def remembered_sysctls() -> Path:
    """Survives the instance's folder, so that a crashed cluster's changes can still be undone."""
    return paths.instances() / "full-sysctls.json"


def clean(folder: Path) -> None:
    """Stop all that runs and remove all but logs; nothing to do is fine too.

    Raises:
        ClusterError: something cannot be removed.
    """
    first = [name for name in processes.DAEMONS if not name.startswith("containerd")]
    stopped = processes.stop(folder, first, grace=0)
    stopped += processes.stop(folder, ["containerd"])
    pods = cgroups.kill_all()
    processes.stop(folder, ["containerd-shim-runc-v2"], grace=0)
    if stopped:
        say(f"stopped {', '.join(sorted(stopped))} and {pods} processes of pods")
    _shim_sockets(folder)
    _unmount(folder)
    _unmount(paths.image_store())
    network.remove()
    cgroups.remove()
    _dangling_logs(folder)
    for result in _CNI_RESULTS.glob(f"{network.CNI_NAME}-*"):
        result.unlink()
    sysctls.restore(remembered_sysctls())
    for entry in folder.iterdir() if folder.exists() else ():
        if entry.name != "log":
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _unmount(folder: Path) -> None:
    """Unmount all below a folder, the innermost first."""
    for target in reversed(_mounts_below(folder)):
        if shell.attempt("umount", target).returncode:
            shell.attempt("umount", "--lazy", target)
    if left := _mounts_below(folder):
        raise ClusterError(f"{left[0]} cannot be unmounted; see who uses it with `fuser -vm {left[0]}`.")


def _mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    targets = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    return [target for target in targets if target.startswith(f"{folder}/")]


def _shim_sockets(folder: Path) -> None:
    """Unlink the sockets of shims, which lie outside the folder; each task says where its own is."""
    for bootstrap in folder.glob("containerd/io.containerd.runtime.v2.task/*/*/bootstrap.json"):
        with suppress(ValueError):  # half written when its shim was killed
            address = json.loads(bootstrap.read_text()).get("address", "")
            Path(address.removeprefix("unix://")).unlink(missing_ok=True)


def _dangling_logs(folder: Path) -> None:
    for link in _CONTAINER_LOG_LINKS.glob("*.log"):
        if link.is_symlink() and str(link.readlink()).startswith(f"{folder}/"):
            link.unlink()
