"""The local cluster itself: each size starts, is what it says, and is mended after a crash."""

import logging
import os
import signal
import time

import pytest

from dev.cluster import build, instance, processes
from tests.fixtures.cluster import Cluster, start_or_skip

pytestmark = pytest.mark.integration
log = logging.getLogger(__name__)


def test_api_server_answers_under_the_pinned_version(api_server: Cluster) -> None:
    done = api_server.kubectl("version", "--output=json")
    assert done.returncode == 0, done.stderr
    version = api_server.kubectl("version").stdout
    assert version.count("v1.37.2") == 2, version


def test_restricted_pod_security_is_enforced(api_server: Cluster, namespace: str) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root", "namespace": namespace},
        "spec": {
            "containers": [
                {"name": "main", "image": "localhost/any", "securityContext": {"privileged": True}}
            ]
        },
    }
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        api_server.apply(pod)


def test_a_killed_instance_is_replaced_by_a_working_one(api_server: Cluster) -> None:
    started = time.monotonic()
    first = instance.start("api", with_parent=True)
    log.info("api size ready after %.1f s", time.monotonic() - started)
    try:
        etcd = next(daemon for daemon in processes.running(first.folder) if daemon.name == "etcd")
        os.kill(etcd.pid, signal.SIGKILL)
        assert processes.wait_gone([etcd.pid], 5)
        second = instance.start("api", first.folder, with_parent=True)
        assert second.api.ready()
        names = sorted(daemon.name for daemon in processes.running(first.folder))
        assert names == ["etcd", "kube-apiserver"]
    finally:
        instance.stop(first.folder)
    assert not processes.running(first.folder)
    assert api_server.kubectl("get", "--raw=/readyz").stdout == "ok"


def test_a_control_plane_makes_pods_of_jobs_and_has_nowhere_to_run_them() -> None:
    plane = start_or_skip("control-plane", lambda: instance.start("control-plane", with_parent=True))
    cluster = Cluster(plane.kubeconfig, build.path("kubectl"))
    template = {
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "localhost/any"}]}
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "some", "namespace": "default"},
        "spec": {"template": template},
    }
    try:
        cluster.apply(job)
        condition = "jsonpath={.status.conditions[0].reason}=Unschedulable"
        waited = cluster.kubectl("wait", "--for=create", "pod", "--selector=job-name=some", "--timeout=30s")
        assert waited.returncode == 0, waited.stderr
        waited = cluster.kubectl(
            "wait", f"--for={condition}", "pod", "--selector=job-name=some", "--timeout=30s"
        )
        assert waited.returncode == 0, waited.stderr
    finally:
        instance.stop(plane.folder)
