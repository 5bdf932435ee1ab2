"""The full cluster after a crash: the next `up` works, and `down` leaves nothing behind."""

import os
import signal
from pathlib import Path

import pytest

from dev.cluster import cgroups, full, network, paths, processes, shell
from dev.cluster.api import Api, wait_for
from dev.cluster.oci import BUSYBOX_IMAGE
from tests.fixtures.cluster import start_or_skip

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_up_works_after_a_crash_and_down_leaves_nothing() -> None:
    if full.kubeconfig_if_running():
        pytest.skip("the full cluster is in use; stop it with `make cluster-down` to run this test")
    settings = _kernel_settings()
    start_or_skip("full", full.up)
    try:
        api = Api(paths.full() / "admin.kubeconfig")
        _run_a_pod(api)
        for daemon in processes.running(paths.full()):
            if daemon.name != "containerd-shim-runc-v2":
                os.kill(daemon.pid, signal.SIGKILL)
        assert full.kubeconfig_if_running() is None
        assert _remains()["pod processes"], "a pod must outlive the crash, or this test shows nothing"
        api = Api(full.up())
        assert api.get("/api/v1/namespaces/default/pods")["items"] == []
        _run_a_pod(api)
    finally:
        full.down()
    assert not any(_remains().values()), _remains()
    assert _kernel_settings() == settings


def _run_a_pod(api: Api) -> None:
    container = {"name": "main", "image": BUSYBOX_IMAGE, "command": ["sleep", "1000"]}
    metadata = {"name": "sleeper", "namespace": "default"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
    pods = "/api/v1/namespaces/default/pods"
    api.create(pods, pod)
    wait_for(
        "the pod running", lambda: (api.get(f"{pods}/sleeper") or {})["status"].get("phase") == "Running"
    )


def _remains() -> dict[str, object]:
    mounts = Path("/proc/self/mountinfo").read_text()
    return {
        "daemons": processes.running(paths.full()),
        "pod processes": [pid for pid in _pids_of_pods() if pid],
        "mounts": [line for line in mounts.splitlines() if f"{paths.cache()}/c" in line],
        "cgroups": [folder for folder in cgroups.hierarchies() if (folder / cgroups.NAME).exists()],
        "bridge": Path(f"/sys/class/net/{network.BRIDGE}").exists(),
        "rules": [line for line in shell.run("nft", "list", "tables").splitlines() if "kube" in line],
    }


def _pids_of_pods() -> list[str]:
    files = [
        file for folder in cgroups.hierarchies() for file in (folder / cgroups.NAME).rglob("cgroup.procs")
    ]
    return [pid for file in files for pid in file.read_text().split()]


def _kernel_settings() -> dict[str, str]:
    names = ("net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")
    return {name: Path("/proc/sys", name).read_text() for name in names}
