"""The full local cluster is a real one: scheduling, DNS, Services, volumes, limits, Pod Security, logs."""

import json
import urllib.request
from typing import Any

import pytest

from dev.cluster.oci import BUSYBOX_IMAGE
from tests.fixtures.cluster import Cluster

pytestmark = pytest.mark.e2e

RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER = {
    "name": "main",
    "image": BUSYBOX_IMAGE,
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    },
    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
}


def pod_spec(script: str, **more: Any) -> dict[str, Any]:
    container = CONTAINER | {"command": ["sh", "-ec", script]} | more.pop("container", {})
    claim = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
    base = {"restartPolicy": "Never", "securityContext": RESTRICTED, "terminationGracePeriodSeconds": 1}
    return {**base, "containers": [container], "volumes": [claim], **more}


@pytest.fixture
def claim(full_cluster: Cluster, namespace: str) -> str:
    """A namespace with a claim named data."""
    resources = {"requests": {"storage": "1Gi"}}
    full_cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data", "namespace": namespace},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": resources},
        }
    )
    return namespace


def create(
    cluster: Cluster, namespace: str, kind: str, name: str, spec: dict[str, Any], **metadata: Any
) -> None:
    version = {"Job": "batch/v1"}.get(kind, "v1")
    about = {"name": name, "namespace": namespace, **metadata}
    cluster.apply({"apiVersion": version, "kind": kind, "metadata": about, "spec": spec})


def wait(cluster: Cluster, namespace: str, condition: str, what: str) -> None:
    done = cluster.kubectl("--namespace", namespace, "wait", f"--for={condition}", what, "--timeout=60s")
    assert done.returncode == 0, done.stderr + cluster.kubectl("-n", namespace, "describe", "pods").stdout


def test_ranks_of_an_indexed_job_find_each_other_and_share_a_volume(
    full_cluster: Cluster, claim: str
) -> None:
    # Each rank writes its own address where the other can read it, and checks that DNS says the same.
    script = """
        other=$((1 - JOB_COMPLETION_INDEX))
        echo $POD_IP > /data/rank-$JOB_COMPLETION_INDEX
        until [ -s /data/rank-$other ]; do sleep 0.2; done
        until nslookup ranks-$other.ranks.$NAMESPACE.svc.cluster.local > /tmp/answer; do sleep 0.2; done
        grep -q "Address: $(cat /data/rank-$other)$" /tmp/answer
        echo rank $JOB_COMPLETION_INDEX found $other
    """
    environment = [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "NAMESPACE", "value": claim},
    ]
    mounts = [*CONTAINER["volumeMounts"], {"name": "tmp", "mountPath": "/tmp"}]
    spec = pod_spec(script, subdomain="ranks", container={"env": environment, "volumeMounts": mounts})
    spec["volumes"].append({"name": "tmp", "emptyDir": {}})
    service = {"clusterIP": "None", "selector": {"app": "ranks"}, "publishNotReadyAddresses": True}
    create(full_cluster, claim, "Service", "ranks", service)
    template = {"metadata": {"labels": {"app": "ranks"}}, "spec": spec}
    indexed = {"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": 0}
    create(full_cluster, claim, "Job", "ranks", {**indexed, "template": template})
    wait(full_cluster, claim, "condition=Complete", "job/ranks")
    logs = full_cluster.kubectl("-n", claim, "logs", "--selector=app=ranks").stdout
    assert sorted(logs.split("\n")) == ["", "rank 0 found 1", "rank 1 found 0"]


def test_a_service_is_reached_from_pods_and_from_the_host(full_cluster: Cluster, claim: str) -> None:
    script = "echo hello > /data/index.html; exec httpd -f -p 8080 -h /data"
    probe = {"readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}}
    create(
        full_cluster,
        claim,
        "Service",
        "web",
        {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    )
    create(full_cluster, claim, "Pod", "web", pod_spec(script, container=probe), labels={"app": "web"})
    wait(full_cluster, claim, "condition=Ready", "pod/web")
    client = "wget -qO- http://web/ && wget -qO- http://web.$0.svc.cluster.local/"
    create(full_cluster, claim, "Pod", "client", pod_spec(client.replace("$0", claim)))
    wait(full_cluster, claim, "jsonpath={.status.phase}=Succeeded", "pod/client")
    assert full_cluster.kubectl("-n", claim, "logs", "client").stdout == "hello\nhello\n"
    service_address = full_cluster.get("-n", claim, "service", "web")["spec"]["clusterIP"]
    pod_address = full_cluster.get("-n", claim, "pod", "web")["status"]["podIP"]
    for url in (f"http://{service_address}/", f"http://{pod_address}:8080/"):
        with urllib.request.urlopen(url, timeout=5) as answer:
            assert answer.read() == b"hello\n"


def test_a_pod_reaches_the_api_server_and_knows_no_outside_names(full_cluster: Cluster, claim: str) -> None:
    # busybox speaks no TLS of today: that the port opens is enough.
    script = """
        nc -w 5 kubernetes.default.svc.cluster.local 443 < /dev/null
        ! nslookup outside.example
        echo closed
    """
    create(full_cluster, claim, "Pod", "probe", pod_spec(script))
    wait(full_cluster, claim, "jsonpath={.status.phase}=Succeeded", "pod/probe")
    assert full_cluster.kubectl("-n", claim, "logs", "probe").stdout.endswith("closed\n")


def test_memory_limits_are_enforced(full_cluster: Cluster, claim: str) -> None:
    limit = {"resources": {"limits": {"memory": "32Mi", "cpu": "500m"}}}
    create(full_cluster, claim, "Pod", "greedy", pod_spec("tail /dev/zero", container=limit))
    wait(full_cluster, claim, "jsonpath={.status.phase}=Failed", "pod/greedy")
    status = full_cluster.get("-n", claim, "pod", "greedy")["status"]["containerStatuses"][0]
    assert status["state"]["terminated"]["reason"] == "OOMKilled"


def test_restricted_pod_security_refuses_root(full_cluster: Cluster, claim: str) -> None:
    spec = pod_spec("id", securityContext={"runAsUser": 0})
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root", "namespace": claim},
        "spec": spec,
    }
    done = full_cluster.kubectl("apply", "--filename=-", input=json.dumps(manifest))
    assert done.returncode != 0
    assert "violates PodSecurity" in done.stderr
