"""Addresses of the full cluster, the bridge that pods and host meet on, and what routes between them.

The cluster is closed: pods reach each other, Services and the host, but nothing beyond the machine.
"""

import http.client
import json
from pathlib import Path
from typing import Any

from dev.cluster import shell

NODE = "kubetune-local"
BRIDGE = "kubetune0"
BRIDGE_ADDRESS = "10.223.0.1"
POD_RANGE = "10.223.0.0/16"
SERVICE_RANGE = "10.224.0.0/16"
FIRST_SERVICE_ADDRESS = "10.224.0.1"
DOMAIN = "cluster.local"
CNI_NAME = "kubetune"
API_PORT = 6443
COREDNS_READY_PORT = 8181

_TABLE = "kubetune"
_BRIDGE_NETFILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def create_bridge() -> None:
    """Make the bridge, to which Service addresses are routed too, so that none ever leaves the machine."""
    shell.run("ip", "link", "add", BRIDGE, "type", "bridge")
    shell.run("ip", "address", "add", f"{BRIDGE_ADDRESS}/16", "dev", BRIDGE)
    shell.run("ip", "link", "set", BRIDGE, "up")
    shell.run("ip", "route", "add", SERVICE_RANGE, "dev", BRIDGE)
    shell.run("nft", "--file", "-", input=closed_table())


def closed_table() -> str:
    """nftables rules: nothing is forwarded between pods and the world beyond this machine."""
    return f"""\
table ip {_TABLE} {{
    chain forward {{
        type filter hook forward priority filter
        iifname "{BRIDGE}" oifname != "{BRIDGE}" reject
        iifname != "{BRIDGE}" oifname "{BRIDGE}" drop
    }}
}}
"""


def remove() -> None:
    """Remove the bridge and the rules that kube-proxy made for this cluster."""
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        shell.run("ip", "link", "delete", BRIDGE)
    shell.attempt("nft", "delete", "table", "ip", _TABLE)
    # The tables' name is fixed in kube-proxy: another cluster's are told by its addresses.
    table = shell.attempt("nft", "list", "table", "ip", "kube-proxy")
    if table.returncode == 0 and FIRST_SERVICE_ADDRESS in table.stdout:
        shell.run("nft", "delete", "table", "ip", "kube-proxy")
        shell.attempt("nft", "delete", "table", "ip6", "kube-proxy")


def cni_configuration(folder: Path) -> dict[str, Any]:
    """One bridge, addresses handed out on this host."""
    return {
        "cniVersion": "1.0.0",
        "name": CNI_NAME,
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": True,
                "ipMasq": False,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": f"{folder}/cni",
                    "ranges": [[{"subnet": POD_RANGE}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }


def kube_proxy_configuration(folder: Path) -> dict[str, Any]:
    """kube-proxy by nftables."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": f"{folder}/kube-proxy.kubeconfig"},
        "hostnameOverride": NODE,
        "clusterCIDR": POD_RANGE,
        "healthzBindAddress": f"{BRIDGE_ADDRESS}:10256",
        "metricsBindAddress": f"{BRIDGE_ADDRESS}:10249",
        # Leave the machine's own connection tracking limits alone.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        # A Service's answer from one pod to another crosses the bridge. Where the kernel does not show such
        # packets to nftables, it must be made to come back through the host.
        "nftables": {"masqueradeAll": not _bridge_is_filtered()},
    }


def corefile(folder: Path) -> str:
    """Cluster names only: a name from outside is answered at once with "no such name"."""
    # Two blocks, since within one `template` would come before `kubernetes`, in whatever order they stand.
    return f"""\
{DOMAIN} in-addr.arpa ip6.arpa {{
    bind {BRIDGE_ADDRESS}
    errors
    ready {BRIDGE_ADDRESS}:{COREDNS_READY_PORT}
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {folder}/coredns.kubeconfig
        ttl 1
    }}
}}
. {{
    bind {BRIDGE_ADDRESS}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def coredns_access() -> list[tuple[str, dict[str, Any]]]:
    """The role that CoreDNS needs, with the paths to create it at."""
    group = "rbac.authorization.k8s.io"
    role = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    }
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "coredns"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "coredns"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "coredns"}],
    }
    path = f"/apis/{group}/v1"
    return [(f"{path}/clusterroles", role), (f"{path}/clusterrolebindings", binding)]


def write_configuration(folder: Path) -> None:
    """Write the configuration files of CNI, kube-proxy and CoreDNS."""
    conflist = folder / "cni" / "conf" / "kubetune.conflist"
    conflist.parent.mkdir(parents=True)
    conflist.write_text(json.dumps(cni_configuration(folder), indent=1))
    (folder / "kube-proxy.json").write_text(json.dumps(kube_proxy_configuration(folder), indent=1))
    (folder / "Corefile").write_text(corefile(folder))


def coredns_is_ready() -> bool:
    """Whether CoreDNS has read the cluster's Services."""
    connection = http.client.HTTPConnection(BRIDGE_ADDRESS, COREDNS_READY_PORT, timeout=2)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _bridge_is_filtered() -> bool:
    return _BRIDGE_NETFILTER.exists() and _BRIDGE_NETFILTER.read_text().strip() == "1"
