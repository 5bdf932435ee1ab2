"""etcd, kube-apiserver, kube-controller-manager, kube-scheduler: their arguments and their start."""

import json
import socket
from dataclasses import dataclass
from pathlib import Path

from dev.cluster import processes
from dev.cluster.api import Api, wait_for, write_kubeconfig
from dev.cluster.certs import Authority, KeyPair, SigningKeys
from dev.cluster.network import API_PORT, BRIDGE_ADDRESS, FIRST_SERVICE_ADDRESS, NODE, SERVICE_RANGE

# The API server wants to be given an address that is not loopback even where it advertises none
# (--endpoint-reconciler-type=none). This one is reserved for documentation.
_UNUSED_ADDRESS = "198.51.100.1"


@dataclass(frozen=True)
class ControlPlane:
    """What distinguishes one control plane from another."""

    folder: Path
    size: str
    etcd_port: int
    etcd_peer_port: int
    api_port: int
    audit: bool = False

    @property
    def has_nodes(self) -> bool:
        """Whether pods can run, so that the API server must be reachable from them."""
        return self.size == "full"

    @property
    def address(self) -> str:
        """The one address that the API server listens at."""
        return BRIDGE_ADDRESS if self.has_nodes else "127.0.0.1"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "admin.kubeconfig"


@dataclass(frozen=True)
class Identity:
    """Certificates and keys of the control plane."""

    authority: Path
    server: KeyPair
    kubelet_client: KeyPair
    tokens: SigningKeys


def plan(folder: Path, size: str, *, audit: bool = False) -> ControlPlane:
    """Choose free ports for an instance."""
    etcd, peer, api = _free_ports(3)
    return ControlPlane(folder, size, etcd, peer, API_PORT if size == "full" else api, audit)


def issue(plane: ControlPlane, authority: Authority) -> Identity:
    """Issue the control plane's certificates and write its kubeconfigs."""
    url = f"https://{plane.address}:{plane.api_port}"

    def kubeconfig(name: str, user: str, group: str | None = None) -> KeyPair:
        pair = authority.client(name, user, group)
        write_kubeconfig(plane.folder / f"{name}.kubeconfig", url, authority.ca.certificate, pair)
        return pair

    admin = kubeconfig("admin", "admin", "system:masters")
    if plane.size != "api":
        kubeconfig("kube-controller-manager", "system:kube-controller-manager")
        kubeconfig("kube-scheduler", "system:kube-scheduler")
    if plane.has_nodes:
        kubeconfig("kubelet", f"system:node:{NODE}", "system:nodes")
        kubeconfig("kube-proxy", "system:kube-proxy")
        kubeconfig("coredns", "coredns")
        authority.server("kubelet-server", [plane.address], [NODE])
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    names.append("kubernetes.default.svc.cluster.local")
    server = authority.server("kube-apiserver", [plane.address, "127.0.0.1", FIRST_SERVICE_ADDRESS], names)
    return Identity(authority.ca.certificate, server, admin, authority.signing_keys("service-accounts"))


def etcd_arguments(plane: ControlPlane) -> list[str]:
    """Arguments of etcd. It need not survive a power cut, so it never waits for the disk."""
    client = f"http://127.0.0.1:{plane.etcd_port}"
    peer = f"http://127.0.0.1:{plane.etcd_peer_port}"
    return [
        f"--data-dir={plane.folder}/etcd",
        "--unsafe-no-fsync",
        "--log-level=warn",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
    ]


def apiserver_arguments(plane: ControlPlane, identity: Identity) -> list[str]:
    """Arguments of kube-apiserver."""
    arguments = [
        f"--etcd-servers=http://127.0.0.1:{plane.etcd_port}",
        f"--bind-address={plane.address}",
        f"--secure-port={plane.api_port}",
        f"--tls-cert-file={identity.server.certificate}",
        f"--tls-private-key-file={identity.server.key}",
        f"--client-ca-file={identity.authority}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={identity.tokens.public}",
        f"--service-account-signing-key-file={identity.tokens.private}",
        "--authorization-mode=Node,RBAC",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--allow-privileged",
        "--profiling=false",
    ]
    if plane.has_nodes:
        arguments += [
            f"--advertise-address={plane.address}",
            "--enable-admission-plugins=NodeRestriction",
            f"--kubelet-certificate-authority={identity.authority}",
            f"--kubelet-client-certificate={identity.kubelet_client.certificate}",
            f"--kubelet-client-key={identity.kubelet_client.key}",
            "--kubelet-preferred-address-types=InternalIP",
        ]
    else:
        arguments += [f"--advertise-address={_UNUSED_ADDRESS}", "--endpoint-reconciler-type=none"]
        # As on OpenShift: whoever names an owner that waits for its child needs a right on the owner.
        arguments.append("--enable-admission-plugins=OwnerReferencesPermissionEnforcement")
    if plane.size == "api":
        # Without a controller manager no namespace gets the service account that this would insist on.
        arguments.append("--disable-admission-plugins=ServiceAccount")
    if plane.audit:
        arguments += [
            f"--audit-policy-file={plane.folder}/audit-policy.json",
            f"--audit-log-path={plane.folder}/log/audit.log",
        ]
    return arguments


def controller_manager_arguments(plane: ControlPlane, identity: Identity) -> list[str]:
    """Arguments of kube-controller-manager."""
    return [
        f"--kubeconfig={plane.folder}/kube-controller-manager.kubeconfig",
        f"--service-account-private-key-file={identity.tokens.private}",
        f"--root-ca-file={identity.authority}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--secure-port=0",
    ]


def scheduler_arguments(plane: ControlPlane) -> list[str]:
    """Arguments of kube-scheduler."""
    kubeconfig = f"{plane.folder}/kube-scheduler.kubeconfig"
    return [f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0"]


def audit_policy() -> dict[str, object]:
    """Who did what to which object; no bodies."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    }


def start(
    plane: ControlPlane, identity: Identity, binaries: dict[str, Path], *, with_parent: bool = False
) -> Api:
    """Start etcd and what else the size has, and wait until the API server is ready.

    Raises:
        ClusterError: a process ended, or it took more than three minutes.
    """
    (plane.folder / "audit-policy.json").write_text(json.dumps(audit_policy()))
    arguments = {
        "etcd": etcd_arguments(plane),
        "kube-apiserver": apiserver_arguments(plane, identity),
    }
    if plane.size != "api":
        arguments["kube-controller-manager"] = controller_manager_arguments(plane, identity)
        arguments["kube-scheduler"] = scheduler_arguments(plane)

    started = {}

    def launch(name: str) -> None:
        log = plane.folder / "log" / f"{name}.log"
        started[name] = processes.start(binaries[name], arguments[name], log, with_parent=with_parent)

    launch("etcd")
    launch("kube-apiserver")
    api = Api(plane.kubeconfig)

    def ready() -> bool:
        for name, process in started.items():
            processes.check_alive(process, name, plane.folder / "log" / f"{name}.log")
        return api.ready()

    wait_for("the API server becoming ready", ready)
    for name in list(arguments)[2:]:
        launch(name)
    return api


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
