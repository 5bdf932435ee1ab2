"""At most one write per job and interval; the newest wins; none after the end."""

import asyncio
import copy
from typing import Any

from kubetune.api.progress import CheckpointStatus, ProgressUpdate, TrainerStatus
from kubetune.controller.errors import Conflict, Unavailable
from kubetune.controller.keys import Key
from kubetune.progress.writer import CONFLICTS, Writer

A, B = Key("PretrainJob", "n", "a"), Key("PretrainJob", "n", "b")
CHECKPOINT = CheckpointStatus(step=7, time="t", uri="pvc://x", digest="sha256:00")
INTERVAL = 0.1


class Store:
    """What the writer reads and writes of a client."""

    def __init__(self) -> None:
        self.resources: dict[str, dict[str, Any]] = {name: resource(name) for name in "ab"}
        self.written: list[tuple[str, int]] = []
        self.errors: list[Exception] = []

    async def find(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.resources.get(name))

    async def apply_status(self, resource: dict[str, Any], status: dict[str, Any], manager: str) -> None:
        assert manager == "kubetune-progress"
        if self.errors:
            error = self.errors.pop(0)
            if isinstance(error, Conflict):
                self.finish()
            raise error
        name = resource["metadata"]["name"]
        self.resources[name]["status"] |= status
        self.written.append((name, status["trainerStatus"]["progressPercentage"]))

    def finish(self) -> None:
        ended = {"type": "Complete", "status": "True", "reason": "R", "lastTransitionTime": "t"}
        for found in self.resources.values():
            found["status"]["conditions"] = [ended]


def resource(name: str) -> dict[str, Any]:
    return {
        "kind": "PretrainJob",
        "metadata": {"name": name, "namespace": "n", "uid": f"uid-{name}"},
        "status": {},
    }


def update(percent: int, checkpoint: CheckpointStatus | None = None) -> ProgressUpdate:
    return ProgressUpdate(
        trainer_status=TrainerStatus(progress_percentage=percent), last_checkpoint=checkpoint
    )


def bench() -> tuple[Store, Writer]:
    store = Store()
    return store, Writer(store, interval=INTERVAL, checkpoint_interval=INTERVAL / 10)  # type: ignore[arg-type]


async def test_the_first_at_once_then_the_newest_per_interval():
    store, writer = bench()
    for percent in range(10):
        writer.put(A, "uid-a", update(percent))
        await asyncio.sleep(0)
    assert store.written == [("a", 0)]
    await asyncio.sleep(INTERVAL * 1.5)
    assert store.written == [("a", 0), ("a", 9)]


async def test_each_job_has_an_interval_of_its_own():
    store, writer = bench()
    writer.put(A, "uid-a", update(1))
    writer.put(B, "uid-b", update(2))
    await asyncio.sleep(INTERVAL / 2)
    assert store.written == [("a", 1), ("b", 2)]


async def test_after_a_silence_the_next_is_written_at_once():
    store, writer = bench()
    writer.put(A, "uid-a", update(1))
    await asyncio.sleep(INTERVAL * 2.5)
    writer.put(A, "uid-a", update(2))
    await asyncio.sleep(INTERVAL / 5)
    assert store.written == [("a", 1), ("a", 2)]


async def test_a_checkpoint_is_not_taken_back_by_an_update_without_one():
    store, writer = bench()
    writer.put(A, "uid-a", update(1, CHECKPOINT))
    await asyncio.sleep(INTERVAL * 1.5)
    writer.put(A, "uid-a", update(2))
    await asyncio.sleep(INTERVAL)
    assert store.resources["a"]["status"]["lastCheckpoint"] == CHECKPOINT.wire()
    assert store.written[-1] == ("a", 2)


async def test_a_new_checkpoint_does_not_wait():
    store, writer = bench()
    for percent in range(10):
        writer.put(A, "uid-a", update(percent, CHECKPOINT if percent > 5 else None))
        await asyncio.sleep(0)
    await asyncio.sleep(INTERVAL / 2)
    assert store.written == [("a", 0), ("a", 9)]
    assert store.resources["a"]["status"]["lastCheckpoint"] == CHECKPOINT.wire()
    # Told again, it is not new.
    writer.put(A, "uid-a", update(10, CHECKPOINT))
    await asyncio.sleep(INTERVAL / 4)
    assert store.written == [("a", 0), ("a", 9)]
    await asyncio.sleep(INTERVAL)
    assert store.written[-1] == ("a", 10)


async def test_a_job_that_is_over_another_or_gone_is_left_alone():
    store, writer = bench()
    store.finish()
    writer.put(A, "uid-a", update(1))
    writer.put(B, "uid-of-an-earlier-b", update(1))
    writer.put(Key("PretrainJob", "n", "c"), "uid-c", update(1))
    await asyncio.sleep(INTERVAL / 2)
    assert store.written == []


async def test_a_job_that_ends_between_reading_and_writing_keeps_its_last_word():
    store, writer = bench()
    store.errors = [Conflict("it has been modified")]
    writer.put(A, "uid-a", update(99))
    await asyncio.sleep(INTERVAL / 2)
    assert store.written == []


async def test_an_update_outlasts_those_who_write_in_between():
    store, writer = bench()
    store.errors = [Conflict("it has been modified")] * (CONFLICTS + 1)
    store.finish = lambda: None  # type: ignore[method-assign]
    writer.put(A, "uid-a", update(99))
    await asyncio.sleep(INTERVAL * 1.5)
    assert store.written == [("a", 99)]


async def test_a_failure_loses_one_update_and_nothing_more():
    store, writer = bench()
    store.errors = [Unavailable("no answer")]
    writer.put(A, "uid-a", update(1))
    await asyncio.sleep(INTERVAL / 5)
    writer.put(A, "uid-a", update(2))
    await asyncio.sleep(INTERVAL * 1.5)
    assert store.written == [("a", 2)]


async def test_what_waited_does_not_replace_what_another_replica_wrote_meanwhile():
    store, writer = bench()

    def at(percent: int, second: int) -> ProgressUpdate:
        said = TrainerStatus(progress_percentage=percent, last_updated_time=f"2026-01-01T00:00:0{second}Z")
        return ProgressUpdate(trainer_status=said)

    writer.put(A, "uid-a", at(40, 1))
    await asyncio.sleep(INTERVAL / 4)
    writer.put(A, "uid-a", at(41, 2))
    other = Writer(store, interval=INTERVAL, checkpoint_interval=INTERVAL / 10)  # type: ignore[arg-type]
    other.put(A, "uid-a", at(42, 3))
    await asyncio.sleep(2 * INTERVAL)
    assert store.written == [("a", 40), ("a", 42)]
    # A trainer whose clock is behind, such as that of the next attempt, is believed all the same.
    await asyncio.sleep(INTERVAL)
    writer.put(A, "uid-a", at(1, 0))
    await asyncio.sleep(INTERVAL / 4)
    assert store.written[-1] == ("a", 1)
