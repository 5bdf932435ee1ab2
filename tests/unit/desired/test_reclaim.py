"""Who stands in the way of removing what a job wrote, and what removes it."""

from pathlib import Path
from typing import Any

import pytest

from kubetune.desired.reclaim import reclaim_job, users
from tests.fixtures.golden import Golden, as_yaml
from tests.unit.desired.test_jobs_golden import GOLDEN, SETTINGS, load

UID = "12345678-0000-0000-0000-000000000000"
FOLDER = "pvc://models/base-12345678"
BASE: dict[str, Any] = {
    "apiVersion": "kubetune.io/v1alpha1",
    "kind": "PretrainJob",
    "metadata": {"name": "base", "namespace": "n", "uid": UID},
    "spec": {"output": {"storageUri": "pvc://models"}},
    "status": {"artifact": {"uri": f"{FOLDER}/artifact"}},
}


def adapter_set(base_model: dict[str, Any], *sources: dict[str, Any], **status: Any) -> dict[str, Any]:
    adapters = [{"name": f"a{n}", "source": source} for n, source in enumerate(sources)]
    spec = {"baseModel": {"name": "b", **base_model}, "adapters": adapters}
    return {"metadata": {"name": "s", "uid": "s"}, "spec": spec, "status": status}


def tuned(base: dict[str, Any], phase: str = "Running", uid: str = "t") -> dict[str, Any]:
    return {"metadata": {"name": "t", "uid": uid}, "spec": {"baseModel": base}, "status": {"phase": phase}}


def adapted(adapter: dict[str, Any]) -> dict[str, Any]:
    job = tuned(ref("other"))
    return job | {"spec": job["spec"] | {"adapter": adapter}}


def judged(reward_model: dict[str, Any]) -> dict[str, Any]:
    job = tuned(ref("other"))
    return job | {"spec": job["spec"] | {"reward": {"model": reward_model}}}


def continued(source: dict[str, Any] | None) -> dict[str, Any]:
    model = {"from": source} if source else {"config": {}}
    return {"metadata": {"name": "c", "uid": "c"}, "spec": {"model": model}, "status": {"phase": "Running"}}


def ref(name: str, kind: str = "PretrainJob") -> dict[str, Any]:
    return {"jobRef": {"kind": kind, "name": name}}


ELSEWHERE = {"uri": "pvc://models/base-123456789/artifact"}
SERVED = {"uri": f"{FOLDER}/artifact"}
RULED = {"baseModel": ref("other"), "reward": {"functions": [{"name": "json"}]}}
SERVES, STARTS = "AdapterSet s serves it", "FineTuneJob t starts from it"
TABLE: dict[str, tuple[list[Any], list[Any], list[str]]] = {
    "nobody": ([], [], []),
    "others": ([adapter_set(ref("other"), ref("base", "FineTuneJob"))], [tuned(ref("other"))], []),
    "a neighbour's folder": ([adapter_set(ELSEWHERE, base=ELSEWHERE)], [tuned(ELSEWHERE)], []),
    "base by name": ([adapter_set(ref("base"))], [], [SERVES]),
    "base by folder": ([adapter_set(SERVED)], [], [SERVES]),
    "adapter by name": ([adapter_set(ref("x"), ref("base"))], [], [SERVES]),
    "adapter by folder": ([adapter_set(ref("x"), SERVED)], [], [SERVES]),
    "chosen by labels": ([adapter_set(ref("x"), {"jobSelector": {}}, adapters=[SERVED])], [], [SERVES]),
    "base resolved long ago": ([adapter_set(ref("x"), base=SERVED)], [], [SERVES]),
    "nothing resolved": ([adapter_set(ref("x"), adapters=[{"name": "a0"}], base=None)], [], []),
    "being tuned": ([], [tuned(ref("base"))], [STARTS]),
    "being tuned from its folder": ([], [tuned({"uri": f"{FOLDER}/artifact/"})], [STARTS]),
    "was tuned": ([], [tuned(ref("base"), "Succeeded"), tuned(ref("base"), "Failed")], []),
    "its adapter goes on": ([], [adapted(SERVED)], [STARTS]),
    "another adapter goes on": ([], [adapted(ref("other", "FineTuneJob"))], []),
    "it rewards answers": ([], [judged(SERVED)], [STARTS]),
    "another one rewards answers": ([], [judged(ref("other", "FineTuneJob"))], []),
    "rules reward answers": ([], [tuned(ref("other")) | {"spec": RULED}], []),
    "being trained on": ([], [continued(ref("base"))], ["PretrainJob c starts from it"]),
    "another is trained on": ([], [continued(ref("base", "FineTuneJob")), continued(None)], []),
    "both": ([adapter_set(ref("base"))], [tuned(ref("base"))], [SERVES, STARTS]),
}


def by_kind(jobs: list[Any]) -> dict[str, list[Any]]:
    pretrains = [job for job in jobs if "model" in job["spec"]]
    return {"PretrainJob": pretrains, "FineTuneJob": [job for job in jobs if job not in pretrains]}


@pytest.mark.parametrize(("sets", "jobs", "expected"), TABLE.values(), ids=TABLE)
def test_users(sets: list[Any], jobs: list[Any], expected: list[str]):
    assert users(BASE, sets, by_kind(jobs)) == expected


def test_a_reward_model_by_name_is_kept():
    judge = {**BASE, "kind": "FineTuneJob"}
    assert users(judge, [], by_kind([judged(ref("base", "FineTuneJob"))])) == [STARTS]


def test_a_job_that_made_nothing_is_waited_for_by_nobody():
    unfinished = {**BASE, "status": {}}
    assert users(unfinished, [adapter_set(ref("base"))], by_kind([tuned(ref("base"))])) == []


def test_a_job_does_not_stand_in_its_own_way():
    itself = {**BASE, "kind": "FineTuneJob", "spec": {**BASE["spec"], "baseModel": SERVED}}
    assert users(itself, [], by_kind([tuned(SERVED, uid=UID)])) == []


@pytest.mark.parametrize("case", ["pretrain-everything", "pretrain-platform", "finetune-minimal"])
def test_the_job_that_removes_the_files(case: str, golden: Golden):
    path: Path = GOLDEN.parent / "reclaim" / f"{case}.out.yaml"
    golden.check(path, as_yaml([reclaim_job(load(case)[0], SETTINGS)]))
