"""Jobs that cannot start yet: they say why, and start by themselves once that is mended.

What is missing is looked for every few seconds, so all cases wait together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fixtures.operator import eventually
from tests.fixtures.world import World

pytestmark = pytest.mark.integration

JOBS = "/apis/batch/v1"
POLICIES = "/apis/admissionregistration.k8s.io/v1"
MISSING = {
    "no-claim": ("ClaimNotFound", "PersistentVolumeClaim later does not exist"),
    "no-map": ("ConfigMapNotFound", "ConfigMap later does not exist"),
    "no-key": ("KeyNotFound", "no key corpus.jsonl (it has: other)"),
}


BUCKET = {"name": "web", "uri": "s3://corpus/a.jsonl", "secretRef": {"name": "bucket"}}


@dataclass(frozen=True)
class Worlds:
    """A namespace for each thing that goes wrong for all its jobs."""

    missing: World
    quota: World
    policy: World

    @property
    def policy_name(self) -> str:
        return f"no-jobs-{self.policy.namespace}"


@pytest.fixture(scope="module")
def waiting(operator_world: World) -> Iterator[Worlds]:
    """Jobs that cannot start."""
    worlds = Worlds(*(operator_world.new_namespace() for _ in range(3)))
    forbid_pods(worlds.quota)
    forbid_jobs(worlds.policy, worlds.policy_name)
    worlds.quota.pretrain("poor", "succeed")
    worlds.policy.pretrain("late", "succeed")
    missing = worlds.missing
    missing.config_map("data", other="x")
    missing.pretrain("no-claim", "succeed", output={"storageUri": "pvc://later"})
    missing.pretrain("no-map", "succeed", uri="configmap://later/corpus.jsonl")
    missing.pretrain("no-key", "succeed", uri="configmap://data/corpus.jsonl")
    missing.pretrain("no-secret", "succeed", data={"mixture": [BUCKET]})
    missing.finetune("no-base-claim", "succeed", base={"uri": "pvc://base/model"})
    yield worlds
    for world in (worlds.missing, worlds.quota, worlds.policy):
        world.delete(f"/api/v1/namespaces/{world.namespace}")


@pytest.fixture(scope="module")
def mended(waiting: Worlds) -> Worlds:
    """Everything mended at once."""
    waiting.quota.delete(waiting.quota.path("resourcequotas", "none"))
    for plural in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
        waiting.policy.delete(f"{POLICIES}/{plural}/{waiting.policy_name}")
    missing = waiting.missing
    missing.claim("later")
    missing.claim("base")
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bucket"}}
    missing.create(missing.path("secrets"), secret)
    missing.config_map("later", **{"corpus.jsonl": "{}"})
    missing.patch(missing.path("configmaps", "data"), {"data": {"corpus.jsonl": "{}"}})
    return waiting


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_named(waiting: Worlds, name: str) -> None:
    world, (reason, message) = waiting.missing, MISSING[name]
    assert message in world.until_condition(name, "ResourcesReady", reason)["message"]
    assert world.status(name)["phase"] == "Pending"
    assert world.children(name) == []
    eventually("there is an event", lambda: ("Warning", reason) in world.events(name))


def test_a_missing_claim_of_the_base_model_is_named(waiting: Worlds) -> None:
    found = waiting.missing.until_condition("no-base-claim", "ResourcesReady", "ClaimNotFound", "FineTuneJob")
    assert "PersistentVolumeClaim base" in found["message"]


def test_a_missing_secret_of_a_source_is_named(waiting: Worlds) -> None:
    """Though the operator may not look at Secrets: the kubelet's event tells."""
    found = waiting.missing.until_condition("no-secret", "ResourcesReady", "SecretNotFound")
    assert "Secret bucket does not exist: create it" in found["message"]
    assert waiting.missing.status("no-secret")["phase"] == "Pending"


def test_a_policy_that_refuses_the_job_is_shown(waiting: Worlds) -> None:
    shown = waiting.policy.until_condition("late", "ResourcesReady", "CreationRefused")
    assert "training is forbidden on Tuesdays" in shown["message"]
    assert waiting.policy.status("late")["attempts"] == 0


def test_a_quota_that_refuses_the_pod_is_shown(waiting: Worlds) -> None:
    shown = waiting.quota.until_condition("poor", "ResourcesReady", "PodsRefused")
    assert "exceeded quota: none" in shown["message"]
    assert waiting.quota.status("poor")["phase"] == "Pending"


@pytest.mark.parametrize("name", MISSING)
def test_what_was_missing_is_found(mended: Worlds, name: str) -> None:
    mended.missing.until_phase(name, "Succeeded")
    assert mended.missing.condition(name, "ResourcesReady")["status"] == "True"


def test_the_claim_of_the_base_model_is_found(mended: Worlds) -> None:
    mended.missing.until_phase("no-base-claim", "Succeeded", "FineTuneJob")


def test_the_secret_of_a_source_is_found_in_the_same_attempt(mended: Worlds) -> None:
    assert mended.missing.until_phase("no-secret", "Succeeded", seconds=60)["attempts"] == 1
    assert mended.missing.condition("no-secret", "ResourcesReady")["status"] == "True"


def test_a_job_that_is_refused_no_more_starts(mended: Worlds) -> None:
    mended.policy.until_phase("late", "Succeeded")


def test_a_pod_that_is_refused_no_more_starts_in_the_same_attempt(mended: Worlds) -> None:
    assert mended.quota.until_phase("poor", "Succeeded", seconds=60)["attempts"] == 1


def forbid_pods(world: World) -> None:
    quota = {
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "0"}},
    }  # fmt: skip
    world.create(world.path("resourcequotas"), quota)
    eventually("the quota is known", lambda: world.get(world.path("resourcequotas", "none")).get("status"))


def forbid_jobs(world: World, name: str) -> None:
    namespaces = {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}}
    matched = {
        "apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]
    }  # fmt: skip
    policy: dict[str, Any] = {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"namespaceSelector": namespaces, "resourceRules": [matched]},
            "validations": [{"expression": "false", "message": "training is forbidden on Tuesdays"}],
        },
    }  # fmt: skip
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]},
    }  # fmt: skip
    world.create(f"{POLICIES}/validatingadmissionpolicies", policy)
    world.create(f"{POLICIES}/validatingadmissionpolicybindings", binding)
    pod = {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a"}]}}
    probe = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "probe"}, "spec": {"template": pod}
    }  # fmt: skip
    path = f"{world.path('jobs', root=JOBS)}?dryRun=All"
    eventually("the policy works", lambda: world.api.call("POST", path, probe)[0] == 422)
