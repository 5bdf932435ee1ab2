"""No pod that kubetune makes can talk to the API server, or more to its node than it must."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures.pods import pods

pytestmark = pytest.mark.unit

LOOSENED = {
    "adapterset/platform.out.yaml",
    "jobs/pretrain-platform.out.yaml",
    "reclaim/pretrain-platform.out.yaml",
}
"""Here a user has asked for more."""
PODS = {name: pod for name, pod in pods().items() if name not in LOOSENED}
TRAINING = {name for name in PODS if name.startswith("jobs/")}
WITH_SECRETS = {
    "jobs/finetune-adapter.out.yaml",
    "jobs/finetune-ppo.out.yaml",
    "jobs/finetune-remote.out.yaml",
    "jobs/pretrain-from.out.yaml",
    "jobs/pretrain-remote.out.yaml",
}
HARMLESS = {"configMap", "emptyDir", "persistentVolumeClaim", "projected"}


def containers(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from spec.get("initContainers", [])
    yield from spec["containers"]


def test_what_a_user_cannot_loosen():
    for name in LOOSENED:
        spec = pods()[name]["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for container in containers(spec):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"]["drop"] == ["ALL"]
            assert "privileged" not in security


def test_there_are_pods_of_both_kinds():
    assert TRAINING
    assert PODS.keys() - TRAINING


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_no_credentials_of_the_api_server(name: str):
    spec = PODS[name]["spec"]
    assert spec["automountServiceAccountToken"] is False
    sources = [s for v in spec["volumes"] for s in v.get("projected", {}).get("sources", [])]
    tokens = [s["serviceAccountToken"] for s in sources]
    assert [t["audience"] for t in tokens] == (["kubetune-progress"] if name in TRAINING else [])
    assert all(t["expirationSeconds"] <= 3600 for t in tokens)


@pytest.mark.parametrize("name", PODS)
def test_a_pod_reads_no_secret_but_those_that_its_sources_name(name: str):
    spec = PODS[name]["spec"]
    secrets = {volume["name"]: volume["secret"] for volume in spec["volumes"] if "secret" in volume}
    assert bool(secrets) == (name in WITH_SECRETS)
    for volume in spec["volumes"]:
        assert volume.keys() - {"name"} <= HARMLESS or volume["name"] in secrets, volume
    for container in containers(spec):
        assert not container.get("envFrom")
        assert not any("valueFrom" in variable for variable in container.get("env", []))
        for mount in container["volumeMounts"]:
            if mount["name"] in secrets:
                # A folder of its own, for each.
                assert mount["mountPath"] == f"/mnt/secret/{secrets[mount['name']]['secretName']}"
                assert mount["readOnly"] is True


@pytest.mark.parametrize("name", PODS)
def test_a_pod_keeps_to_itself(name: str):
    spec = PODS[name]["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"} & spec.keys()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(spec):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPort" in port for port in container.get("ports", []))
