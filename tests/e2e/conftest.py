"""The product installed on the full local cluster, and a namespace of one's own on it."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dev import stack as dev_stack
from dev.cluster import build, full
from dev.kubectl import Kubectl
from tests.e2e import jobs
from tests.fixtures.cluster import Cluster, start_or_skip


# Both end with this folder's tests, so that those in other folders have the machine to themselves.
@pytest.fixture(scope="package")
def full_cluster() -> Iterator[Cluster]:
    """The full cluster: the one that runs (and goes on running), else one for these tests."""
    was_running = full.kubeconfig_if_running() is not None
    kubeconfig = start_or_skip("full", full.up)
    yield Cluster(kubeconfig, build.path("kubectl"))
    if not was_running:
        full.down()


@pytest.fixture(scope="package")
def stack() -> Iterator[dev_stack.Stack]:
    """Cluster, images and chart: what runs already is used and left, else it is started and stopped."""
    with dev_stack.running() as running:
        yield running


@pytest.fixture(scope="module")
def kubectl(stack: dev_stack.Stack) -> Iterator[Kubectl]:
    """kubectl in a fresh namespace under restricted Pod Security, with claim `models` and data `examples`."""
    name = f"e2e-{uuid.uuid4().hex[:6]}"
    bound = replace(stack.kubectl, namespace=name)
    dev_stack.fresh_namespace(bound)
    for manifest in (jobs.claim("models"), jobs.examples()):
        bound("apply", "-f", "-", stdin=json.dumps(manifest))
    yield bound
    bound("delete", "namespace", name, "--wait=false")
