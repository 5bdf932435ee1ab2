"""Objects that change between reading and writing, on a real API server."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config

from kubetune.api.status import NEVER_OBSERVED, JobStatus
from kubetune.controller.client import Client, Object
from kubetune.controller.errors import Conflict, NotFound
from kubetune.controller.jobs import JobReconciler
from kubetune.controller.write_status import write_status
from kubetune.desired.job import TrainingSettings
from tests.fixtures.cluster import Cluster
from tests.fixtures.manifests import minimal

pytestmark = pytest.mark.integration

STATUS = {"phase": "Running", "attempts": 1}
UNSEEN = {"observedGeneration": NEVER_OBSERVED}
"""The status of a resource that the operator has not looked at."""


@pytest.fixture
async def client(crds: Cluster) -> AsyncIterator[Client]:
    configuration = kubernetes_client.Configuration()
    await kubernetes_config.load_kube_config(str(crds.kubeconfig), client_configuration=configuration)
    client = Client(kubernetes_client.ApiClient(configuration))
    yield client
    await client.close()


@pytest.fixture
async def job(client: Client, namespace: str) -> Object:
    return await create(client, namespace)


async def create(client: Client, namespace: str) -> Object:
    body = minimal("PretrainJob")
    body["metadata"] = {"name": "tiny", "namespace": namespace}
    return await client.create(body)


async def claim(client: Client, namespace: str, name: str) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    meta = {"name": name, "namespace": namespace}
    await client.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec})


async def test_a_late_status_is_not_that_of_a_successor(client: Client, namespace: str, job: Object):
    await client.delete(job)
    successor = await create(client, namespace)
    with pytest.raises(Conflict):
        await client.apply_status(job, STATUS)
    assert (await client.get("PretrainJob", namespace, "tiny"))["status"] == UNSEEN
    await client.apply_status(successor, STATUS)


async def test_a_late_status_does_not_take_back_a_newer_one(client: Client, namespace: str, job: Object):
    await client.apply_status(job, STATUS | {"phase": "Succeeded"})
    with pytest.raises(Conflict):
        await client.apply_status(job, STATUS)
    assert (await client.get("PretrainJob", namespace, "tiny"))["status"]["phase"] == "Succeeded"


async def test_an_edit_in_between_does_not_cost_a_status(client: Client, namespace: str, job: Object):
    await client.annotate("PretrainJob", job, {"a": "b"})
    await write_status(client, job, JobStatus(), JobStatus(phase="Running", attempts=1))
    assert (await client.get("PretrainJob", namespace, "tiny"))["status"]["attempts"] == 1


async def test_another_status_in_between_does(client: Client, namespace: str, job: Object):
    await client.apply_status(job, {"trainerStatus": {"progressPercentage": 7}}, "kubetune-progress")
    with pytest.raises(Conflict):
        await write_status(client, job, JobStatus(), JobStatus(phase="Running", attempts=1))


async def test_a_successor_in_between_does(client: Client, namespace: str, job: Object):
    await client.delete(job)
    await create(client, namespace)
    with pytest.raises(Conflict):
        await write_status(client, job, JobStatus(), JobStatus(phase="Running", attempts=1))


async def test_two_managers_write_one_after_the_other(client: Client, job: Object):
    job = await client.apply_status(job, {"trainerStatus": {"progressPercentage": 7}}, "kubetune-progress")
    job = await client.apply_status(job, STATUS)
    assert job["status"] == UNSEEN | STATUS | {"trainerStatus": {"progressPercentage": 7}}


async def test_no_attempt_is_made_for_a_job_that_was_deleted_meanwhile(
    client: Client, namespace: str, job: Object
):
    for name in ("corpus", "models"):
        await claim(client, namespace, name)
    await client.apply_status(job, STATUS)
    stale = await client.get("PretrainJob", namespace, "tiny")
    # Its first attempt has gone with it.
    await client.delete(job)
    successor = await create(client, namespace)
    reconciler = JobReconciler(
        "PretrainJob", TrainingSettings("trainer", "IfNotPresent", "https://receiver", "", "operator")
    )
    with pytest.raises(Conflict):
        await reconciler.reconcile(client, stale, datetime.now(UTC))
    assert await client.list("Job", namespace, {}) == []
    await client.delete(successor)
    with pytest.raises(NotFound):
        await reconciler.reconcile(client, stale, datetime.now(UTC))
