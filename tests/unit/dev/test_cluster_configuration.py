"""What the parts of a cluster are told: addresses that fit together, settings that must not be lost."""

import ipaddress
import tomllib
from pathlib import Path

import pytest

from dev.cluster import control_plane, network, node, oci, storage
from dev.cluster.certs import KeyPair, SigningKeys
from dev.cluster.control_plane import ControlPlane, Identity

FOLDER = Path("/state/full")
PAIR = KeyPair(FOLDER / "a.crt", FOLDER / "a.key")
IDENTITY = Identity(FOLDER / "ca.crt", PAIR, PAIR, SigningKeys(FOLDER / "s.pub", FOLDER / "s.key"))


def flags(size: str, *, audit: bool = False) -> dict[str, str]:
    plane = ControlPlane(FOLDER, size, 1, 2, 3, audit)
    words = control_plane.apiserver_arguments(plane, IDENTITY)
    return {name: value for name, _, value in (word.partition("=") for word in words)}


@pytest.mark.parametrize("size", ["api", "control-plane"])
def test_small_sizes_listen_on_loopback_and_advertise_nothing(size: str) -> None:
    given = flags(size)
    assert ipaddress.ip_address(given["--bind-address"]).is_loopback
    assert not ipaddress.ip_address(given["--advertise-address"]).is_loopback
    assert given["--endpoint-reconciler-type"] == "none"


def test_the_full_size_listens_on_the_bridge_only() -> None:
    given = flags("full")
    assert given["--bind-address"] == given["--advertise-address"] == network.BRIDGE_ADDRESS
    assert "--endpoint-reconciler-type" not in given
    assert given["--kubelet-certificate-authority"] == str(IDENTITY.authority)


def test_only_the_api_size_lacks_service_account_admission() -> None:
    disabled = {
        size: flags(size).get("--disable-admission-plugins") for size in ("api", "control-plane", "full")
    }
    assert disabled == {"api": "ServiceAccount", "control-plane": None, "full": None}


def test_audit_is_written_when_asked_for() -> None:
    assert "--audit-log-path" not in flags("full")
    assert flags("full", audit=True)["--audit-log-path"] == "/state/full/log/audit.log"


def test_addresses_fit_together() -> None:
    pods, services = ipaddress.ip_network(network.POD_RANGE), ipaddress.ip_network(network.SERVICE_RANGE)
    assert ipaddress.ip_address(network.BRIDGE_ADDRESS) in pods
    assert ipaddress.ip_address(network.FIRST_SERVICE_ADDRESS) == services[1]
    assert not pods.overlaps(services)


def test_a_cluster_name_is_answered_by_the_kubernetes_plugin_only() -> None:
    # Within one block `template` would be asked before `kubernetes`, and deny every cluster name.
    blocks = network.corefile(FOLDER).split("\n}\n")
    assert not [block for block in blocks if "template" in block and "kubernetes" in block]
    assert f"bind {network.BRIDGE_ADDRESS}" in blocks[0]


def test_containerd_is_told_what_small_virtual_machines_need() -> None:
    text = node.containerd_configuration(FOLDER, Path("/usr/sbin/runc"), [Path("/cache/bin/bridge")])
    configuration = tomllib.loads(text)
    runtime = configuration["plugins"]["io.containerd.cri.v1.runtime"]
    assert runtime["restrict_oom_score_adj"] is True
    runc = runtime["containerd"]["runtimes"]["runc"]["options"]
    assert runc["SystemdCgroup"] is False
    images = configuration["plugins"]["io.containerd.cri.v1.images"]
    assert images["pinned_images"]["sandbox"] == oci.PAUSE_IMAGE


def test_kubelet_and_containerd_agree() -> None:
    kubelet = node.kubelet_configuration(FOLDER)
    containerd = tomllib.loads(node.containerd_configuration(FOLDER, Path("/usr/sbin/runc"), []))
    assert kubelet["containerRuntimeEndpoint"] == "unix://" + containerd["grpc"]["address"]
    assert kubelet["cgroupDriver"] == "cgroupfs"
    assert kubelet["failCgroupV1"] is False
    assert kubelet["imageGCHighThresholdPercent"] == 100, "an imported image cannot be pulled again"


def test_all_state_is_below_the_instance() -> None:
    kubelet = node.kubelet_configuration(FOLDER)
    for key in ("podLogsDir", "volumePluginDir", "tlsCertFile"):
        assert kubelet[key].startswith(f"{FOLDER}/"), key
    assert network.cni_configuration(FOLDER)["plugins"][0]["ipam"]["dataDir"].startswith(f"{FOLDER}/")


def test_volumes_are_distinct_and_shareable() -> None:
    volumes = [storage.volume(number, FOLDER) for number in range(storage.COUNT)]
    assert len({volume["spec"]["local"]["path"] for volume in volumes}) == storage.COUNT
    assert all("ReadWriteMany" in volume["spec"]["accessModes"] for volume in volumes)
