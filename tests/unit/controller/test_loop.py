"""Who is looked at, when, and what a failure costs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from kubetune.controller.errors import Conflict, NotFound, Refused, Unavailable
from kubetune.controller.keys import Key
from kubetune.controller.loop import ReconcileLoop
from kubetune.controller.reconciler import Result

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Object = dict[str, Any]


class Store:
    """What the loop reads of a client."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.down = False

    async def find(self, kind: str, namespace: str, name: str) -> Object | None:
        await asyncio.sleep(0)
        return self.objects.get(Key(kind, namespace, name))

    async def list(self, kind: str, namespace: str | None = None) -> list[Object]:
        if self.down:
            raise Unavailable("no answer")
        here = (key for key in self.objects if namespace in (None, key.namespace))
        return [self.objects[key] for key in here if key.kind == kind]


class Noting:
    """A reconciler that notes what it is given, and answers or raises as told."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.names: list[str] = []
        self.answers: dict[str, list[Result | Exception]] = {}
        self.busy: set[str] = set()
        self.seconds = 0.0

    async def reconcile(self, client: Any, resource: Object, now: datetime) -> Result:
        name = resource["metadata"]["name"]
        assert name not in self.busy, "two workers at one resource"
        assert now == NOW
        self.busy.add(name)
        await asyncio.sleep(self.seconds)
        self.busy.discard(name)
        self.names.append(name)
        answers = self.answers.get(name, [])
        answer = answers.pop(0) if answers else Result()
        if isinstance(answer, Exception):
            raise answer
        return answer


class Bench:
    def __init__(self) -> None:
        self.store = Store()
        self.jobs, self.sets = Noting("PretrainJob"), Noting("AdapterSet")
        self.loop = ReconcileLoop(
            self.store,  # type: ignore[arg-type]
            {"PretrainJob": self.jobs, "AdapterSet": self.sets},
            clock=lambda: NOW,
            resync_seconds=1000,
        )

    def show(
        self, kind: str, name: str, phase: str | None = None, *, deleted: bool = False, **meta: Any
    ) -> None:
        """The watch shows a resource."""
        resource = found(name, phase, **meta)
        key = Key(kind, "n", name)
        if deleted:
            self.store.objects.pop(key, None)
        else:
            self.store.objects[key] = resource
        self.loop.seen(key, resource, deleted=deleted)

    async def settled(self) -> None:
        """Wait until nothing is waiting or worked on."""
        async with asyncio.timeout(5):
            while self.loop.queue.oldest_seconds():
                await asyncio.sleep(0.001)


def found(name: str, phase: str | None = None, **meta: Any) -> Object:
    default = {"name": name, "namespace": "n", "uid": "u", "generation": 1, "resourceVersion": "1"}
    return {"metadata": default | meta, "status": {"phase": phase} if phase else {}}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    running = asyncio.create_task(bench.loop.run(workers=4))
    await asyncio.sleep(0)
    yield bench
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_what_is_shown_is_looked_at(bench: Bench):
    bench.show("PretrainJob", "a")
    bench.show("AdapterSet", "s")
    await bench.settled()
    assert (bench.jobs.names, bench.sets.names) == (["a"], ["s"])


async def test_a_job_that_only_reports_is_left_alone(bench: Bench):
    bench.show("PretrainJob", "a", "Running")
    await bench.settled()
    bench.show("PretrainJob", "a", "Running", resourceVersion="2")
    bench.show("PretrainJob", "a", "Succeeded", resourceVersion="3")
    await bench.settled()
    assert bench.jobs.names == ["a"]


@pytest.mark.parametrize(
    "changed", [{"generation": 2}, {"uid": "v"}, {"deletionTimestamp": "now"}], ids=lambda c: next(iter(c))
)
async def test_a_job_that_somebody_changed_is_looked_at(bench: Bench, changed: dict[str, Any]):
    bench.show("PretrainJob", "a", "Running")
    await bench.settled()
    bench.show("PretrainJob", "a", "Running", **changed)
    assert bench.loop.queue.depth == 1


async def test_those_that_wait_for_jobs_are_woken_by_a_phase_a_label_and_a_deletion(bench: Bench):
    bench.sets.answers["s"] = [Result(wants_jobs=True)] * 9
    bench.show("PretrainJob", "a", "Running")
    bench.show("AdapterSet", "s")
    await bench.settled()
    for change in ({"phase": "Succeeded"}, {"phase": "Succeeded", "labels": {"x": "y"}}, {"deleted": True}):
        bench.sets.names.clear()
        bench.show("PretrainJob", "a", **change)
        await bench.settled()
        assert bench.sets.names == ["s"], change


async def test_a_change_during_a_look_is_not_missed(bench: Bench):
    bench.sets.seconds = 0.05
    bench.sets.answers["s"] = [Result(wants_jobs=True), Result(wants_jobs=True)]
    bench.show("AdapterSet", "s")
    await asyncio.sleep(0.02)
    bench.show("PretrainJob", "a", "Succeeded")
    await bench.settled()
    assert bench.sets.names == ["s", "s"]


async def test_one_that_waits_no_more_is_not_woken(bench: Bench):
    bench.sets.answers["s"] = [Result(wants_jobs=True), Result()]
    bench.show("AdapterSet", "s")
    await bench.settled()
    for phase in ("Running", "Succeeded", "Failed"):
        bench.show("PretrainJob", "a", phase)
        await bench.settled()
    assert bench.sets.names == ["s", "s"]


async def test_what_is_gone_or_going_is_not_reconciled(bench: Bench):
    bench.show("PretrainJob", "a", deleted=True)
    bench.show("PretrainJob", "b", deletionTimestamp="now")
    await bench.settled()
    assert bench.jobs.names == []


@pytest.mark.parametrize(
    "error", [Conflict("c"), NotFound("n"), Refused("r"), Unavailable("u"), KeyError("a bug")], ids=repr
)
async def test_a_failure_costs_one_resource_a_moment(bench: Bench, error: Exception):
    bench.jobs.answers["a"] = [error]
    bench.show("PretrainJob", "a")
    bench.show("PretrainJob", "b")
    async with asyncio.timeout(2):
        while bench.jobs.names.count("a") < 2:
            await asyncio.sleep(0.01)
    assert bench.jobs.names.count("b") == 1


async def test_a_second_look_is_taken_when_asked_for(bench: Bench):
    bench.jobs.answers["a"] = [Result(requeue_after=0.02)]
    bench.show("PretrainJob", "a")
    async with asyncio.timeout(10):
        while bench.jobs.names != ["a", "a"]:
            await asyncio.sleep(0.001)


async def test_a_resync_finds_what_no_watch_has_shown():
    bench = Bench()
    bench.store.objects[Key("PretrainJob", "n", "a")] = found("a")
    running = asyncio.create_task(bench.loop.run(workers=1))
    async with asyncio.timeout(2):
        while bench.jobs.names != ["a"]:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    assert bench.loop.sightings.lag_seconds() > 0
    running.cancel()


async def test_the_age_of_the_resync_grows_while_the_api_server_is_away():
    bench = Bench()
    bench.store.down = True
    running = asyncio.create_task(bench.loop.run(workers=1))
    await asyncio.sleep(0.05)
    assert bench.loop.resync_age_seconds() >= 0.05
    running.cancel()


async def test_jobs_are_counted_by_phase(bench: Bench):
    for name, phase in (("a", "Running"), ("b", "Running"), ("c", None)):
        bench.show("PretrainJob", name, phase)
    bench.show("PretrainJob", "b", deleted=True)
    assert bench.loop.phases() == {("PretrainJob", "Running"): 1, ("PretrainJob", "Pending"): 1}
