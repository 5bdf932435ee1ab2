"""The demo deletes its own namespace, and nobody else's."""

from collections.abc import Iterator

import pytest

from dev.cluster import build, instance
from dev.demo import namespace
from dev.kubectl import Kubectl, KubectlError
from tests.fixtures.cluster import start_or_skip

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def kubectl() -> Iterator[Kubectl]:
    """On a cluster with the controller that empties deleted namespaces."""
    running = start_or_skip("control-plane", lambda: instance.start("control-plane", with_parent=True))
    yield Kubectl(build.path("kubectl"), running.kubeconfig)
    instance.stop(running.folder)


def names(kubectl: Kubectl, kind: str, *where: str) -> set[str]:
    return {item["metadata"]["name"] for item in kubectl.get(kind, *where)["items"]}


def test_a_namespace_that_somebody_else_made_is_left_alone(kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "theirs")
    kubectl("create", "configmap", "precious", "--namespace=theirs")
    refusal = pytest.raises(namespace.NotOurs, match="Namespace theirs is there already, and no demo made it")
    with refusal, namespace.own(kubectl, "theirs"):
        pytest.fail("the demo must not begin")
    assert "precious" in names(kubectl, "configmaps", "--namespace=theirs")


def test_what_an_interrupted_demo_left_is_made_anew_and_removed_at_the_end(kubectl: Kubectl) -> None:
    interrupted = namespace.own(kubectl, "ours")
    interrupted.__enter__()("create", "configmap", "left-over")
    with namespace.own(kubectl, "ours") as bound:
        assert names(bound, "configmaps") <= {"kube-root-ca.crt"}
        with pytest.raises(KubectlError, match="violates PodSecurity"):
            bound("run", "root", "--image=localhost/any", "--privileged")
    assert "ours" not in names(kubectl, "namespaces")
