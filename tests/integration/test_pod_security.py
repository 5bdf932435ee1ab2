"""The namespaces of these tests enforce the restricted Pod Security Standard, and our pods are admitted."""

import json
from typing import Any

import pytest

from tests.fixtures.cluster import Cluster
from tests.fixtures.manifests import merge
from tests.fixtures.pods import pods

pytestmark = pytest.mark.integration

LOOSENED = "jobs/pretrain-platform.out.yaml"
"""Here a user has asked for more than the standard allows."""
PODS = {name: pod for name, pod in pods().items() if not name.endswith("pretrain-platform.out.yaml")}
HARM: dict[str, Any] = {
    "privileged": {"containers": [{"name": "a", "image": "a", "securityContext": {"privileged": True}}]},
    "as root": {"securityContext": {"runAsUser": 0}},
    "in the node's network": {"hostNetwork": True},
    "with a folder of the node": {"volumes": [{"name": "a", "hostPath": {"path": "/"}}]},
    "without a seccomp profile": {"securityContext": {"seccompProfile": None}},
}


def created(cluster: Cluster, namespace: str, spec: dict[str, Any]) -> str:
    """What the API server says of a pod; empty if it takes it."""
    # As a plugin would fill in that this size of a cluster has not.
    spec.setdefault("serviceAccountName", "default")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tried"}, "spec": spec}
    done = cluster.kubectl(
        "create", f"--namespace={namespace}", "--dry-run=server", "--filename=-", input=json.dumps(pod)
    )
    # A warning would be of what the standard of a later version refuses.
    return done.stderr


@pytest.mark.parametrize("name", PODS)
def test_a_pod_of_ours_is_admitted(api_server: Cluster, namespace: str, name: str) -> None:
    spec = PODS[name]["spec"]
    # Those objects are not there.
    spec = merge(spec, {"priorityClassName": None, "runtimeClassName": None})
    assert created(api_server, namespace, spec) == ""


def test_what_a_user_has_loosened_is_refused_where_the_standard_is_enforced(
    api_server: Cluster, namespace: str
) -> None:
    said = created(api_server, namespace, pods()[LOOSENED]["spec"])
    assert 'violates PodSecurity "restricted' in said
    assert "IPC_LOCK" in said


@pytest.mark.parametrize("how", HARM)
def test_any_other_is_refused(api_server: Cluster, namespace: str, how: str) -> None:
    spec = merge(PODS["jobs/pretrain-minimal.out.yaml"]["spec"], HARM[how])
    if how == "with a folder of the node":
        spec["containers"][0]["volumeMounts"] = []
    assert 'violates PodSecurity "restricted' in created(api_server, namespace, spec)
