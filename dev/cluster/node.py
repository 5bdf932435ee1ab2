"""The node: containerd and kubelet, their configuration and start."""

import json
import subprocess
from pathlib import Path
from typing import Any

from dev.cluster import cgroups, paths, processes, shell
from dev.cluster.network import BRIDGE_ADDRESS, DOMAIN, NODE
from dev.cluster.oci import PAUSE_IMAGE


def containerd_socket(folder: Path) -> Path:
    """Where containerd listens."""
    return folder / "containerd.sock"


def containerd_configuration(folder: Path, runc: Path, plugins: list[Path]) -> str:
    """containerd's TOML.

    restrict_oom_score_adj: many virtual machines and containers lack CAP_SYS_RESOURCE, without which a score
    below the parent's cannot be set and every sandbox would fail.
    """
    state = folder / "containerd"
    cri = "plugins.'io.containerd.cri.v1.runtime'"
    return f"""\
version = 3
root = "{paths.image_store()}"
state = "{state}"
disabled_plugins = [
  "io.containerd.nri.v1.nri",
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
  address = "{containerd_socket(folder)}"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE_IMAGE}"

[{cri}]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true

[{cri}.cni]
  use_internal_loopback = true
  bin_dirs = {json.dumps([str(plugin) for plugin in plugins])}
  conf_dir = "{folder}/cni/conf"

[{cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[{cri}.containerd.runtimes.runc.options]
  SystemdCgroup = false
  BinaryName = "{runc}"
  Root = "{state}/runc"
"""


def kubelet_configuration(folder: Path) -> dict[str, Any]:
    """KubeletConfiguration. Images are imported, never pulled: so none is ever collected to free space."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": BRIDGE_ADDRESS,
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{folder}/pki/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{folder}/pki/kubelet-server.crt",
        "tlsPrivateKeyFile": f"{folder}/pki/kubelet-server.key",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroups.NAME}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{containerd_socket(folder)}",
        "podLogsDir": f"{folder}/log/pods",
        "volumePluginDir": f"{folder}/kubelet/volume-plugins",
        "resolvConf": "",
        "clusterDomain": DOMAIN,
        "clusterDNS": [BRIDGE_ADDRESS],
        "makeIPTablesUtilChains": False,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
    }


def start_containerd(folder: Path, binaries: dict[str, Path]) -> subprocess.Popen[bytes]:
    """Write containerd's configuration and start it."""
    runc = shell.which("runc")
    assert runc is not None
    plugins = [binaries[name].parent for name in ("bridge", "host-local")]
    configuration = folder / "containerd.toml"
    configuration.write_text(containerd_configuration(folder, runc, plugins))
    return processes.start(
        binaries["containerd"],
        [f"--config={configuration}"],
        folder / "log" / "containerd.log",
        search_path=[binaries["containerd-shim-runc-v2"].parent],
    )


def start_kubelet(folder: Path, binaries: dict[str, Path]) -> subprocess.Popen[bytes]:
    """Write kubelet's configuration and start it."""
    configuration = folder / "kubelet.json"
    configuration.write_text(json.dumps(kubelet_configuration(folder), indent=1))
    arguments = [
        f"--config={configuration}",
        f"--kubeconfig={folder}/kubelet.kubeconfig",
        f"--root-dir={folder}/kubelet",
        f"--hostname-override={NODE}",
        f"--node-ip={BRIDGE_ADDRESS}",
    ]
    return processes.start(binaries["kubelet"], arguments, folder / "log" / "kubelet.log")
