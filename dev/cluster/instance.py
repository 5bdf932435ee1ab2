"""Instances of the sizes `api` and `control-plane`: loopback only, any number at once, no root needed."""

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from dev.cluster import build, control_plane, paths, processes, requirements
from dev.cluster.api import Api, wait_for
from dev.cluster.certs import Authority
from dev.cluster.components import BY_SIZE
from dev.cluster.report import ClusterError, say

_DAEMONS = ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd")


@dataclass(frozen=True)
class Running:
    """A running instance."""

    folder: Path
    kubeconfig: Path
    api: Api


def start(
    size: str, folder: Path | None = None, *, audit: bool = False, with_parent: bool = False
) -> Running:
    """Start a fresh instance; what an earlier one left in the folder is stopped and removed.

    Args:
        size: `api` or `control-plane`.
        folder: holds its state; by default a new one.
        audit: write an audit log.
        with_parent: end it when the calling thread ends.

    Raises:
        ClusterError: it cannot be started.
    """
    requirements.for_size(size)
    binaries = build.ensure(BY_SIZE[size])
    paths.instances().mkdir(parents=True, exist_ok=True)
    prune(older_than=600)
    folder = folder or Path(tempfile.mkdtemp(prefix=f"{size}-", dir=paths.instances()))
    for attempt in (1, 2, 3):
        stop(folder)
        folder.mkdir(parents=True)
        try:
            return _start(size, folder, binaries, audit, with_parent)
        except ClusterError as error:
            # Between choosing a port and using it somebody else may take it.
            if attempt == 3 or "address already in use" not in str(error):
                stop(folder, keep_files=True)
                raise
    raise AssertionError("unreachable")


def _start(size: str, folder: Path, binaries: dict[str, Path], audit: bool, with_parent: bool) -> Running:
    plane = control_plane.plan(folder, size, audit=audit)
    identity = control_plane.issue(plane, Authority(folder / "pki"))
    api = control_plane.start(plane, identity, binaries, with_parent=with_parent)
    if size == "control-plane":
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        wait_for("the controller manager's first service account", lambda: api.get(account))
    return Running(folder, plane.kubeconfig, api)


def kubeconfig_if_running(folder: Path) -> Path | None:
    """The kubeconfig of the instance in a folder, or None if its API server does not answer."""
    kubeconfig = folder / "admin.kubeconfig"
    return kubeconfig if kubeconfig.exists() and Api(kubeconfig).ready() else None


def stop(folder: Path, *, keep_files: bool = False) -> None:
    """Stop an instance and remove its folder. Nothing in it is worth an orderly end."""
    processes.stop(folder, _DAEMONS, grace=0)
    if not keep_files:
        shutil.rmtree(folder, ignore_errors=True)


def prune(*, older_than: float = 0) -> None:
    """Remove the folders of instances that do not run, such as a killed test run leaves.

    Args:
        older_than: seconds since their creation; a folder that has just been made may be about to be used.
    """
    for folder in paths.instances().glob("*/"):
        if (
            folder != paths.full()
            and not processes.running(folder)
            and time.time() - folder.stat().st_mtime >= older_than
        ):
            shutil.rmtree(folder)
            say(f"removed {folder}")
