"""What gives a reason to make serving pods anew, and what does not."""

import json
from copy import deepcopy
from typing import Any

import pytest

from kubetune.api.adapterset import AdapterSetSpec
from kubetune.api.status import ResolvedBase
from kubetune.desired import adapterset_keep
from kubetune.desired.adapterset_engine import EngineLimits
from kubetune.desired.adapterset_keep import RESTARTED_ANNOTATION, TEMPLATE_ANNOTATION, kept, reason_of

Object = dict[str, Any]
BASE = ResolvedBase(uri="pvc://models/base", digest="sha256:" + "0" * 64)
LIMITS = EngineLimits(max_loras=2, max_lora_rank=16, claims=("models",))
SPEC: Object = {"baseModel": {"name": "base", "uri": "pvc://models/base"}}


def rendered(version: str, *, replicas: int = 1, **pod: Any) -> Object:
    """What an operator of some version makes."""

    def container(name: str) -> Object:
        return {"name": name, "image": f"{name}:{version}", "imagePullPolicy": "Always"}

    pod_spec = {"initContainers": [container("engine")], "containers": [container("gateway")], **pod}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod_spec}
    return {
        "kind": "Deployment",
        "metadata": {"name": "s"},
        "spec": {"replicas": replicas, "template": template},
    }


def stored(deployment: Object) -> Object:
    """As the API server gives it back: with defaults."""
    live = deepcopy(deployment)
    live["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst"
    return live


def reason(
    live: Object | None = None, *, base: ResolvedBase = BASE, limits: EngineLimits = LIMITS, **spec: Any
) -> str:
    return reason_of(AdapterSetSpec.model_validate(SPEC | spec), base, limits, live)


def test_an_upgrade_changes_nothing_in_what_exists():
    first, outdated = kept(rendered("1"), None, reason())
    assert (first["spec"], outdated) == (rendered("1")["spec"], False)
    live = stored(first)
    again, outdated = kept(rendered("2", hostname="new", replicas=1), live, reason(live))
    assert (again, outdated) == (first, True)
    # To scale is no reason, either.
    scaled, _ = kept(rendered("2", replicas=5), live, reason(live, replicas=5))
    assert scaled["spec"]["template"] == first["spec"]["template"]
    assert scaled["spec"]["replicas"] == 5


REASONS: dict[str, Object] = {
    "the engine's arguments": {"engine": {"args": ["--seed=1"]}},
    "the user's image": {"engine": {"podTemplate": {"image": "mine:1"}}},
    "the name of the base": {"baseModel": {"name": "other", "uri": "pvc://models/base"}},
    "the base": {"base": ResolvedBase(uri="pvc://models/other", digest=BASE.digest)},
    "its digest": {"base": ResolvedBase(uri=BASE.uri, digest="sha256:" + "1" * 64)},
    "a rank": {"limits": EngineLimits(2, 32, ("models",))},
    "a claim": {"limits": EngineLimits(2, 16, ("models", "more"))},
}


@pytest.mark.parametrize("change", REASONS.values(), ids=REASONS)
def test_a_reason_brings_the_pods_up_to_date(change: Object):
    first, _ = kept(rendered("1"), None, reason())
    live = stored(first)
    after, outdated = kept(rendered("2"), live, reason(live, **change))
    assert (after["spec"], outdated) == (rendered("2")["spec"], False)
    # Then that is how it stays.
    live = stored(after)
    assert kept(rendered("3"), live, reason(live, **change)) == (after, True)


NO_REASONS: dict[str, Object] = {
    "adapters": {"adapters": [{"name": "a", "source": {"jobRef": {"name": "j"}}}]},
    "replicas": {"replicas": 3},
    "the service": {"service": {"port": 9000}},
    "a default that is written out": {"engine": {"type": "vllm", "args": []}},
}


@pytest.mark.parametrize("change", NO_REASONS.values(), ids=NO_REASONS)
def test_what_does_not_concern_the_pods_is_no_reason(change: Object):
    assert reason(**change) == reason()


def test_a_restart_by_kubectl_brings_them_up_to_date_once():
    first, _ = kept(rendered("1"), None, reason())
    live = stored(first)
    live["spec"]["template"]["metadata"]["annotations"] = {RESTARTED_ANNOTATION: "2026-01-01T00:00:00Z"}
    after, outdated = kept(rendered("2"), live, reason(live))
    assert (after["spec"], outdated) == (rendered("2")["spec"], False)
    live["metadata"], live["spec"]["template"]["spec"] = after["metadata"], after["spec"]["template"]["spec"]
    assert kept(rendered("3"), live, reason(live)) == (after, True)


def test_one_that_nothing_was_noted_of_keeps_its_images():
    live = stored(rendered("1"))
    after, outdated = kept(rendered("2", hostname="new"), live, reason(live))
    assert after["spec"] == rendered("1", hostname="new")["spec"]
    assert outdated


def test_one_too_large_to_be_noted_keeps_its_images(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adapterset_keep, "MOST_BYTES", 100)
    first, _ = kept(rendered("1"), None, reason())
    assert "template" not in json.loads(first["metadata"]["annotations"][TEMPLATE_ANNOTATION])
    live = stored(first)
    assert kept(rendered("2"), live, reason(live)) == (first, True)
    after, _ = kept(rendered("2"), live, reason(live, engine={"args": ["--seed=1"]}))
    assert after["spec"] == rendered("2")["spec"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_a_note_that_somebody_spoiled_is_no_reason_to_keep_anything(text: str):
    live = stored(kept(rendered("1"), None, reason())[0])
    live["metadata"]["annotations"][TEMPLATE_ANNOTATION] = text
    assert kept(rendered("2"), live, reason(live))[0]["spec"] == rendered("2")["spec"]
