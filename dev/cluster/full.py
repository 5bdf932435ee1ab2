"""The full cluster: a control plane and a node on which pods run. One per machine."""

import shutil
from pathlib import Path

from dev.cluster import (
    build,
    cgroups,
    cleanup,
    control_plane,
    images,
    locks,
    network,
    node,
    paths,
    processes,
    requirements,
    storage,
    sysctls,
)
from dev.cluster.api import Api, wait_for
from dev.cluster.certs import Authority
from dev.cluster.components import FULL
from dev.cluster.report import ClusterError, say, step

_EXPECTED = set(processes.DAEMONS) - {"containerd-shim-runc-v2"}


def up(*, audit: bool = False) -> Path:
    """Start the cluster; if one is up and well, only offer its abandoned volumes again.

    Returns:
        The kubeconfig.

    Raises:
        ClusterError: this machine cannot run it, or a part does not start.
    """
    with locks.hold("full cluster"):
        requirements.for_size("full")
        binaries = build.ensure(FULL)
        folder = paths.full()
        if kubeconfig := kubeconfig_if_running():
            say("already up")
            if audit and not (folder / "log" / "audit.log").exists():
                raise ClusterError("The cluster is up without an audit log: `down` first, then `up --audit`.")
            if count := storage.recycle(Api(kubeconfig), folder):
                say(f"{count} volumes offered again")
            return kubeconfig
        with step("clean up what an earlier cluster left"):
            cleanup.clean(folder)
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return _start(folder, binaries, audit)


def down() -> None:
    """Stop the cluster and remove all that it left on the machine, but its logs and images.

    Raises:
        ClusterError: something cannot be removed.
    """
    with locks.hold("full cluster"):
        requirements.for_size("full")
        cleanup.clean(paths.full())


def kubeconfig_if_running() -> Path | None:
    """The kubeconfig if the cluster is up, all of its parts run and its node is Ready; else None."""
    folder = paths.full()
    kubeconfig = folder / "admin.kubeconfig"
    if not {daemon.name for daemon in processes.running(folder)} >= _EXPECTED or not kubeconfig.exists():
        return None
    return kubeconfig if _node_is_ready(Api(kubeconfig)) else None


def forget_images() -> None:
    """Remove all imported images.

    Raises:
        ClusterError: the cluster is up.
    """
    with locks.hold("full cluster"):
        if processes.running(paths.full()):
            raise ClusterError(
                "Stop the cluster before its images are removed: `python -m dev.cluster down`."
            )
        cleanup.clean(paths.full())
        shutil.rmtree(paths.image_store(), ignore_errors=True)


def _start(folder: Path, binaries: dict[str, Path], audit: bool) -> Path:
    sysctls.change(cleanup.remembered_sysctls())
    network.create_bridge()
    cgroups.create()
    network.write_configuration(folder)
    containerd = node.start_containerd(folder, binaries)
    with step("control plane"):
        plane = control_plane.plan(folder, "full", audit=audit)
        identity = control_plane.issue(plane, Authority(folder / "pki"))
        api = control_plane.start(plane, identity, binaries)
    with step("node"):
        processes.check_alive(containerd, "containerd", folder / "log" / "containerd.log")
        wait_for("containerd's start", lambda: node.containerd_socket(folder).exists())
        images.load_own()
        kubelet = node.start_kubelet(folder, binaries)
        _start_network(folder, binaries, api)
        storage.create(api, folder)

        def ready() -> bool:
            processes.check_alive(kubelet, "kubelet", folder / "log" / "kubelet.log")
            return _node_is_ready(api)

        wait_for("the node becoming Ready", ready)
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        wait_for("the controller manager's first service account", lambda: api.get(account))
        wait_for("CoreDNS becoming ready", network.coredns_is_ready)
    return plane.kubeconfig


def _start_network(folder: Path, binaries: dict[str, Path], api: Api) -> None:
    for path, body in network.coredns_access():
        api.create(path, body)
    for name, argument in (
        ("kube-proxy", f"--config={folder}/kube-proxy.json"),
        ("coredns", f"-conf={folder}/Corefile"),
    ):
        processes.start(binaries[name], [argument], folder / "log" / f"{name}.log")


def _node_is_ready(api: Api) -> bool:
    """Whether the node is Ready and takes pods."""
    body = api.get(f"/api/v1/nodes/{network.NODE}")
    if body is None or body["spec"].get("taints"):
        return False
    conditions = {each["type"]: each["status"] for each in body["status"].get("conditions", [])}
    return conditions.get("Ready") == "True"
