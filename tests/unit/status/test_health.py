"""Ready, Reconciling and Stalled: what kubectl, Flux and others read, in every situation that is tested."""

from collections import Counter
from typing import Any

import pytest

from kubetune.api.meta import Block
from kubetune.api.status import AdapterSetStatus, Conditions, JobStatus, find
from kubetune.status.job import seen_again
from tests.fixtures.kstatus import Verdict, kstatus
from tests.unit.status import test_adapterset_status as sets
from tests.unit.status import test_job_status as jobs

JOBS: dict[str, Verdict] = {"Succeeded": "Current", "Failed": "Failed"}
SETS: dict[str, Verdict] = {"Ready": "Current", "ScaledToZero": "Current", "Degraded": "Failed"}


def verdict(status: Block) -> tuple[Verdict, str]:
    return kstatus({"metadata": {"generation": 3}, "status": status.wire()})


def words(status: JobStatus | AdapterSetStatus) -> dict[str, str]:
    found = {c.type: c.status for c in status.conditions}
    return {kind: found[kind] for kind in ("Ready", "Reconciling", "Stalled")}


def check(status: JobStatus | AdapterSetStatus, expected: Verdict) -> None:
    assert verdict(status)[0] == expected
    assert (words(status)["Ready"] == "True") == (expected == "Current")
    # At most one of the three holds, and none is left open.
    assert Counter(words(status).values())["True"] <= 1
    assert set(words(status).values()) <= {"True", "False"}
    assert len({c.type for c in status.conditions}) == len(status.conditions)


@pytest.mark.parametrize("name", jobs.SITUATIONS)
def test_a_job(name: str):
    found, decision, phase, _ = jobs.SITUATIONS[name]
    status = jobs.judge(found, decision)
    check(status, JOBS.get(phase, "InProgress"))
    assert (words(status)["Reconciling"] == "True") == (phase not in ("Succeeded", "Failed", "Suspended"))


@pytest.mark.parametrize("name", sets.SITUATIONS)
def test_a_set(name: str):
    status = sets.judge(sets.SITUATIONS[name][0])
    check(status, SETS.get(status.phase, "InProgress"))


def test_what_a_job_waits_for_is_told():
    found, decision, *_ = jobs.SITUATIONS["waits for both"]
    status = jobs.judge(found, decision)
    assert verdict(status) == ("InProgress", "PretrainJob base does not exist")
    reconciling = find(status.conditions, "Reconciling")
    assert reconciling
    assert reconciling.reason == "JobNotFound"


def test_why_a_job_failed_is_told():
    found, decision, *_ = jobs.SITUATIONS["failed"]
    assert verdict(jobs.judge(found, decision)) == ("Failed", "it broke")


def test_a_lost_pod_comes_back_by_itself():
    whole = sets.judge(sets.observed(sets.pod("p1"), sets.pod("p2"), wanted_pods=2))
    lost = sets.judge(sets.observed(sets.pod("p1"), sets.starting("p2"), wanted_pods=2), whole)
    assert (lost.phase, verdict(lost)) == ("Degraded", ("InProgress", "1 of 2 pods are ready"))


def test_a_set_that_is_being_scaled_to_zero_is_not_there_yet():
    ending = sets.judge(sets.observed(sets.pod(), wanted_pods=0))
    assert (ending.phase, verdict(ending)[0]) == ("Progressing", "InProgress")


def test_a_job_that_ended_under_an_earlier_operator_is_judged_too():
    for name, expected in (("is done", "Current"), ("failed", "Failed")):
        found, decision, *_ = jobs.SITUATIONS[name]
        told = jobs.judge(found, decision)
        before = told.model_copy(update={"conditions": told.conditions[3:]})
        assert verdict(before)[0] == "Current"
        again = seen_again(before, 3, jobs.NOW)
        check(again, expected)  # type: ignore[arg-type]
        assert again == told
        assert seen_again(again, 3, jobs.NOW) == again


def test_there_is_room_for_all_conditions():
    [room] = [m.max_length for m in Conditions.__metadata__[0].metadata if hasattr(m, "max_length")]
    found, decision, *_ = jobs.SITUATIONS["is done"]
    # Reclaimed and Synced are there at times only.
    assert len(jobs.judge(found, decision).conditions) + 2 <= room
    some: dict[str, Any] = sets.SITUATIONS["all is well"][0].__dict__
    assert len(sets.judge(sets.ObservedAdapterSet(**some)).conditions) + 2 <= room
