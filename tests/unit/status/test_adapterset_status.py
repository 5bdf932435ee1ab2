"""What an AdapterSet says of itself: one line per situation."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kubetune.api.exitcodes import Reason
from kubetune.api.status import AdapterSetStatus, AdapterStatus, ResolvedBase
from kubetune.api.table import AdapterState, GatewayState
from kubetune.status.adapterset import ObservedAdapterSet, adapter_set_status
from kubetune.status.adapterset_pods import ObservedPod, lost_pods, observed_pod
from kubetune.status.starting import Trouble

NOW = datetime(2026, 1, 1, tzinfo=UTC)
D1, D2 = (f"sha256:{n * 64}" for n in "12")
BASE = ResolvedBase(uri="pvc://models/base", digest=D1)


def resolved(name: str = "a", digest: str | None = D1, **fields: Any) -> AdapterStatus:
    return AdapterStatus(name=name, digest=digest, uri="pvc://models/a", **fields)


def state(name: str = "a", phase: str = "Loaded", serving: str | None = D1, **fields: Any) -> AdapterState:
    return AdapterState(name=name, digest=D1, phase=phase, serving=serving, **fields)  # type: ignore[arg-type]


def failed(serving: str | None = None) -> AdapterState:
    return state(phase="Failed", serving=serving, reason="DigestMismatch", message="other files")


def pod(name: str = "p1", *adapters: AdapterState, ready: bool = True, table: str = "t") -> ObservedPod:
    gateway = GatewayState(table_digest=table, engine_ready=True, adapters=list(adapters or [state()]))
    return ObservedPod(name, ready, gateway)


def starting(name: str = "p1", failure: tuple[str, str] | None = None) -> ObservedPod:
    return ObservedPod(name, False, None, failure)


def unread(name: str = "p1") -> ObservedPod:
    return ObservedPod(name, True, None)


def observed(*pods: ObservedPod, **fields: Any) -> ObservedAdapterSet:
    defaults: dict[str, Any] = {
        "wanted_pods": 1, "base": BASE, "base_problem": None, "adapters": [resolved()], "table_digest": "t",
        "pods": pods,
    }  # fmt: skip
    return ObservedAdapterSet(**{**defaults, **fields})


def judge(
    now: ObservedAdapterSet, previous: AdapterSetStatus | None = None, *, at: datetime = NOW
) -> AdapterSetStatus:
    return adapter_set_status(
        previous or AdapterSetStatus(), now, generation=3, now=at, selector="x=y", endpoint="http://s"
    )


WAITING = ("JobNotComplete", "PretrainJob base is Running")
SITUATIONS = {
    # name: (observed, phase, ready, loaded, conditions, reason of the adapter)
    # The conditions Resolved, Loaded, Available, Progressing, Degraded are (T)rue, (F)alse or (U)nknown.
    "all is well": (observed(pod()), "Ready", "1/1", "1/1", "TTTFF", None),
    "waiting for the base": (
        observed(base=None, base_problem=WAITING, table_digest=None),
        "WaitingForDependency", "0/1", "0/1", "FFFFF", "WaitingForBaseModel",
    ),
    "the base's job failed": (
        observed(base=None, base_problem=("JobFailed", "it failed"), table_digest=None),
        "Degraded", "0/1", "0/1", "FFFFT", "WaitingForBaseModel",
    ),
    "no pods yet": (observed(rolling=("RollingOut", "x")), "Pending", "0/1", "0/1", "TFFTF", "Loading"),
    "pods are starting": (observed(starting()), "Progressing", "0/1", "0/1", "TFFTF", "Loading"),
    "a pod cannot start": (
        observed(starting(failure=("PodsFailing", "engine: CrashLoopBackOff: boom"))),
        "Degraded", "0/1", "0/1", "TFFTT", "Loading",
    ),
    "loading": (
        observed(pod("p1", state(phase="Loading", serving=None))),
        "Progressing", "1/1", "0/1", "TFTTF", "Loading",
    ),
    "an old table": (observed(pod(table="old")), "Ready", "1/1", "1/1", "TTTTF", None),
    "the old version answers while the new one loads": (
        observed(pod("p1", state(phase="Loading", serving=D2))),
        "Progressing", "1/1", "0/1", "TFTTF", "Loading",
    ),
    "the new version failed": (
        observed(pod("p1", failed(serving=D2))), "Degraded", "1/1", "0/1", "TFTFT", "DigestMismatch",
    ),
    "one of two pods": (
        observed(pod("p1"), starting("p2"), wanted_pods=2), "Progressing", "1/2", "0/1", "TFTTF", "Loading",
    ),
    "a pod that is not ready does not count": (
        observed(replace(pod("p1"), ready=False)), "Progressing", "0/1", "0/1", "TFFTF", "Loading",
    ),
    "no answer from a pod": (observed(unread()), "Progressing", "1/1", "0/1", "TUTFU", "Loading"),
    "an adapter waits for its job": (
        observed(pod("p1"), adapters=[resolved(), resolved("b", None, reason="JobNotComplete", message="x")]),
        "WaitingForDependency", "1/1", "1/2", "FFTFF", None,
    ),
    "an adapter of another base": (
        observed(pod("p1"), adapters=[resolved(reason="BaseModelMismatch", message="x")]),
        "Degraded", "1/1", "0/1", "FFTFT", "BaseModelMismatch",
    ),
    "a claim that cannot be shared": (
        observed(pod("p1"), wanted_pods=2, set_problem=("ClaimNotShareable", "x")),
        "Degraded", "1/2", "0/1", "FFTTT", "Loading",
    ),
    "the API server refuses": (
        observed(apply_problem=("CreationRefused", "quota")), "Degraded", "0/1", "0/1", "TFFFT", "Loading",
    ),
    "rolling out": (
        observed(pod(), starting("p2"), rolling=("NewClaim", "x")),
        "Progressing", "1/1", "1/1", "TTTTF", None,
    ),
    "scaled to zero": (observed(wanted_pods=0), "ScaledToZero", "0/0", "0/1", "TFFFF", None),
    "no adapters": (observed(pod("p1"), adapters=[]), "Ready", "1/1", "0/0", "TTTFF", None),
}  # fmt: skip
LETTERS = {"True": "T", "False": "F", "Unknown": "U"}


def test_gateways_that_cannot_be_asked_are_told_of_with_the_port_and_what_may_be_in_the_way():
    [loaded] = [c for c in judge(observed(unread())).conditions if c.type == "Loaded"]
    assert loaded.reason == "StateUnreadable"
    assert "port 8001" in loaded.message
    assert "examples/networkpolicies/serving.yaml" in loaded.message


@pytest.mark.parametrize("name", SITUATIONS)
def test_situation(name: str):
    now, phase, ready, loaded, letters, reason = SITUATIONS[name]
    status = judge(now)
    assert [c.type for c in status.conditions] == [
        "Ready",
        "Reconciling",
        "Stalled",
        "Resolved",
        "Loaded",
        "Available",
        "Progressing",
        "Degraded",
    ]
    assert "".join(LETTERS[c.status] for c in status.conditions[3:]) == letters
    assert (status.phase, status.ready, status.loaded) == (phase, ready, loaded)
    assert (status.adapters[0].reason if status.adapters else None) == reason
    assert all(c.reason and c.observed_generation == 3 for c in status.conditions)


def test_a_settled_set_says_the_same_later():
    first = judge(observed(pod()))
    assert judge(observed(pod()), first, at=NOW + timedelta(hours=1)) == first


def test_a_transition_keeps_its_time_until_the_next():
    first = judge(observed(starting()))
    later = judge(observed(pod()), first, at=NOW + timedelta(minutes=1))
    times = {c.type: c.last_transition_time for c in later.conditions}
    assert times["Resolved"] == "2026-01-01T00:00:00Z"
    assert times["Available"] == "2026-01-01T00:01:00Z"


def test_a_pod_that_was_ready_and_is_not_any_more():
    whole = judge(observed(pod("p1"), pod("p2"), wanted_pods=2))
    lost = judge(observed(pod("p1"), starting("p2"), wanted_pods=2), whole)
    still = judge(observed(pod("p1"), starting("p2"), wanted_pods=2), lost)
    back = judge(observed(pod("p1"), pod("p2"), wanted_pods=2), still)
    assert [s.phase for s in (whole, lost, still, back)] == ["Ready", "Degraded", "Degraded", "Ready"]
    scaled = judge(observed(pod("p1"), pod("p2"), starting("p3"), wanted_pods=3), whole)
    assert scaled.phase == "Progressing"


def test_no_answer_keeps_the_last_numbers_but_says_so():
    status = judge(observed(unread()), judge(observed(pod())))
    assert (status.adapters[0].ready, status.loaded) == (1, "1/1")
    assert {c.type: c.status for c in status.conditions}["Loaded"] == "Unknown"


def test_at_most_three_failing_pods_are_named():
    pods = [pod(f"p{n}", failed()) for n in range(5)]
    adapter = judge(observed(*pods, wanted_pods=5)).adapters[0]
    assert [f.pod for f in adapter.failing] == ["p0", "p1", "p2"]
    assert (adapter.reason, adapter.message) == ("DigestMismatch", "other files")


def test_a_failure_of_an_older_version_is_not_a_failure_of_this_one():
    stale = AdapterState(name="a", digest=D2, phase="Failed", reason="NotFound", message="x")
    assert judge(observed(pod("p1", stale))).adapters[0].failing == []


def kubernetes_pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "status": status}


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        ({"containerStatuses": [{"name": "g", "state": {"waiting": {"reason": "PodInitializing"}}}]}, None),
        (
            {"initContainerStatuses": [{
                "name": "engine",
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}},
                "lastState": {"terminated": {"exitCode": 1, "message": "no such model\n"}},
            }]},
            "engine: Error: no such model",
        ),
        (
            {"initContainerStatuses": [{
                "name": "engine", "ready": False, "state": {"running": {}},
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
            }]},
            "engine: OOMKilled: exit code 137",
        ),
        (
            {"initContainerStatuses": [
                {"name": "check-base", "ready": True, "state": {"terminated": {"exitCode": 0}}},
                {
                    "name": "engine", "ready": True, "state": {"running": {}},
                    "lastState": {"terminated": {"exitCode": 137}},
                },
            ]},
            None,
        ),
        (
            {"initContainerStatuses": [
                {"name": "check-base", "state": {"terminated": {"exitCode": 1, "message": "other base"}}},
            ]},
            "check-base: Error: other base",
        ),
        (
            {"containerStatuses": [{
                "name": "gateway",
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}},
            }]},
            "gateway: ImagePullBackOff: not found",
        ),
        (
            {"conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}
            ]},
            "Unschedulable: no node takes it: no GPU. `kubectl describe nodes` shows what they have and what "
            "is in use",
        ),
        ({}, None),
    ],
)  # fmt: skip
def test_why_a_pod_cannot_become_ready(status: dict[str, Any], failure: str | None):
    assert observed_pod(kubernetes_pod(**status), None).failure == (failure and ("PodsFailing", failure))


@pytest.mark.parametrize(
    ("container", "code", "reason"),
    [
        ("check-base", 3, "DigestMismatch"),
        ("check-base", 4, "NotALanguageModel"),
        ("check-base", 5, "NotFullWeights"),
        ("check-base", 1, "PodsFailing"),
        ("engine", 3, "PodsFailing"),
    ],
)
def test_a_base_that_no_engine_starts_on_has_a_reason_of_its_own(container: str, code: int, reason: str):
    ended = {"name": container, "state": {"terminated": {"exitCode": code, "message": "told"}}}
    refused = observed_pod(kubernetes_pod(initContainerStatuses=[ended]), None)
    assert refused.failure == (reason, f"{container}: Error: told")
    status = judge(observed(refused))
    assert {c.type: c.reason for c in status.conditions}["Degraded"] == reason
    assert {c.type: c.status for c in status.conditions}["Stalled"] == "True"


def test_a_volume_that_is_not_there_is_told_in_the_words_of_an_event():
    making = kubernetes_pod(containerStatuses=[{"name": "gateway", "state": {"waiting": {}}}])
    trouble = Trouble("FailedMount", "no such share", Reason.CONTAINER_ERROR)
    assert observed_pod(making, None, trouble).failure == ("PodsFailing", "FailedMount: no such share")


REFUSED = {
    "phase": "Failed", "reason": "UnexpectedAdmissionError",
    "message": "Pod was rejected: Allocate failed due to no healthy devices",
}  # fmt: skip


def lost(name: str, minute: int) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "creationTimestamp": f"2026-01-01T00:0{minute}:00Z"},
        "status": REFUSED,
    }


def test_nodes_that_refuse_one_pod_after_another():
    now = datetime(2026, 1, 1, 0, 9, 30, tzinfo=UTC)
    told = lost_pods([lost("a", 8), lost("b", 9)], now)
    assert told
    assert told.endswith("again: UnexpectedAdmissionError: Allocate failed due to no healthy devices")
    assert lost_pods([lost("a", 2), lost("b", 9)], now) is None, "one is made anew"
    assert lost_pods([lost("a", 2), lost("b", 3)], now) is None, "long ago"
    assert lost_pods([], now) is None
    # All are starting, and none will be ready.
    status = judge(replace(observed(starting()), lost_pods=told))
    [degraded] = [c for c in status.conditions if c.type == "Degraded"]
    assert (status.phase, degraded.reason, degraded.message) == ("Degraded", "PodsFailing", told)
    assert judge(replace(observed(pod()), lost_pods=told)).phase == "Ready"


def test_a_ready_pod_is_ready():
    ready = kubernetes_pod(conditions=[{"type": "Ready", "status": "True"}])
    assert observed_pod(ready, None) == ObservedPod("p", True, None)


def test_pods_of_an_earlier_operator_serve_on_and_it_says_how_to_make_them_anew():
    status = judge(observed(pod(), outdated=True))
    [progressing] = [c for c in status.conditions if c.type == "Progressing"]
    assert (status.phase, progressing.status, progressing.reason) == ("Ready", "False", "UpdateAvailable")
    assert "kubectl rollout restart" in progressing.message
