"""The programs a cluster consists of and the pinned modules they are built from."""

from dataclasses import dataclass

KUBERNETES_VERSION = "1.37.2"


@dataclass(frozen=True)
class Component:
    """A program: `module` is the folder in dev/components whose go.mod pins `package`."""

    name: str
    module: str
    package: str
    linker_flags: str = ""


def _kubernetes(name: str) -> Component:
    major, minor, _ = KUBERNETES_VERSION.split(".")
    values = {"gitVersion": f"v{KUBERNETES_VERSION}", "gitMajor": major, "gitMinor": minor}
    stamp = " ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in values.items())
    return Component(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", stamp)


def _containerd(name: str) -> Component:
    return Component(name, "containerd", f"github.com/containerd/containerd/v2/cmd/{name}")


def _cni(kind: str, name: str) -> Component:
    return Component(name, "cni", f"github.com/containernetworking/plugins/plugins/{kind}/{name}")


# In the order in which they are best built: what most callers wait for comes first.
COMPONENTS = {
    component.name: component
    for component in (
        Component("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
        _kubernetes("kube-apiserver"),
        _kubernetes("kubectl"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kubelet"),
        _kubernetes("kube-proxy"),
        _containerd("containerd"),
        _containerd("containerd-shim-runc-v2"),
        _containerd("ctr"),
        _cni("main", "bridge"),
        _cni("ipam", "host-local"),
        Component("coredns", "coredns", "github.com/coredns/coredns"),
        Component("helm", "helm", "helm.sh/helm/v4/cmd/helm"),
        Component("versitygw", "versitygw", "github.com/versity/versitygw/cmd/versitygw"),
    )
}

API = ("etcd", "kube-apiserver", "kubectl")
CONTROL_PLANE = (*API, "kube-controller-manager", "kube-scheduler")
FULL = (
    *CONTROL_PLANE,
    "kubelet",
    "kube-proxy",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "bridge",
    "host-local",
    "coredns",
)
BY_SIZE = {"api": API, "control-plane": CONTROL_PLANE, "full": FULL}
