"""The work queue: one entry and one worker per key, nothing lost, failures ever later."""

import asyncio
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubetune.controller import queue as module
from kubetune.controller.queue import FIRST_BACKOFF, LONGEST_BACKOFF, WorkQueue

KEYS = st.sampled_from("abc")
# What happens, one after the other: a key is added, or the workers get on by some steps.
SCRIPTS = st.lists(KEYS | st.integers(1, 5), max_size=40)


@settings(max_examples=200)
@given(script=SCRIPTS, workers=st.integers(1, 4), steps=st.integers(0, 4), fails=st.booleans())
def test_no_key_is_worked_on_twice_at_once_and_none_is_lost(
    script: list[str | int], workers: int, steps: int, fails: bool
) -> None:
    asyncio.run(check(script, workers, steps, fails))


async def check(script: list[str | int], workers: int, steps: int, fails: bool) -> None:
    """Works `steps` turns of the event loop on each key; `fails`: an exception ends the work."""
    queue: WorkQueue[str] = WorkQueue()
    moment = 0
    added: dict[str, int] = {}
    begun: dict[str, int] = {}
    working: Counter[str] = Counter()

    async def work() -> None:
        nonlocal moment
        while True:
            key = await queue.take()
            moment += 1
            begun[key] = moment
            working[key] += 1
            assert working[key] == 1, "two workers on one key"
            try:
                for _ in range(steps):
                    await asyncio.sleep(0)
                if fails:
                    raise RuntimeError
            except RuntimeError:
                pass
            finally:
                working[key] -= 1
                queue.done(key)

    async with asyncio.TaskGroup() as tasks:
        crew = [tasks.create_task(work()) for _ in range(workers)]
        for event in script:
            if isinstance(event, str):
                moment += 1
                added[event] = moment
                queue.add(event)
                assert queue.depth <= len(added)
            else:
                for _ in range(event):
                    await asyncio.sleep(0)
        for _ in range(50 * (steps + 2)):
            await asyncio.sleep(0)
        for member in crew:
            member.cancel()
    for key, when in added.items():
        assert begun[key] > when, "what was added was not worked on after that"
    assert queue.depth == 0
    assert queue.oldest_seconds() == 0


async def test_a_key_added_twice_is_worked_on_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add("a")
    assert queue.depth == 1
    await queue.take()
    queue.done("a")
    assert queue.depth == 0


async def test_a_key_added_while_it_is_worked_on_comes_again_when_that_is_done() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await queue.take()
    queue.add("a")
    queue.add("a")
    assert queue.depth == 0
    queue.done("a")
    assert queue.depth == 1
    assert await queue.take() == "a"
    queue.done("a")
    assert queue.depth == 0


async def test_the_earliest_of_several_appointments_stands() -> None:
    queue: WorkQueue[str] = WorkQueue()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    queue.add_after("a", 30)
    queue.add_after("a", 0.02)
    queue.add_after("a", 60)
    await asyncio.wait_for(queue.take(), 5)
    assert loop.time() - begun < 5
    queue.done("a")
    queue.add_after("a", 30)
    queue.add("a")
    await asyncio.wait_for(queue.take(), 5)
    queue.done("a")
    # The work has been done: the appointment went with it.
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.take(), 0.05)


async def test_failures_in_a_row_are_retried_ever_later_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue: WorkQueue[str] = WorkQueue()
    monkeypatch.setattr(module.random, "uniform", lambda low, high: (low + high) / 2)
    # Far more than a float could be doubled.
    delays = [queue.retry("a") for _ in range(2000)]
    assert delays[:4] == pytest.approx([FIRST_BACKOFF * factor for factor in (1, 2, 4, 8)])
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_BACKOFF
    assert queue.retry("b") == FIRST_BACKOFF
    queue.forget_failures("a")
    assert queue.retry("a") == FIRST_BACKOFF


async def test_retries_of_many_keys_are_spread() -> None:
    queue: WorkQueue[int] = WorkQueue()
    delays = {queue.retry(key) for key in range(100)}
    assert len(delays) > 90
    assert all(0.75 * FIRST_BACKOFF <= delay <= 1.25 * FIRST_BACKOFF for delay in delays)


async def test_its_age_is_that_of_the_key_that_waits_or_is_worked_on_longest() -> None:
    queue: WorkQueue[str] = WorkQueue()
    assert queue.oldest_seconds() == 0
    queue.add("a")
    await asyncio.sleep(0.03)
    assert 0.02 < queue.oldest_seconds() < 5
    await queue.take()
    await asyncio.sleep(0.03)
    # A worker that hangs shows, too.
    assert 0.02 < queue.oldest_seconds() < 5
    queue.done("a")
    assert queue.oldest_seconds() == 0


async def test_keys_are_taken_in_their_order() -> None:
    queue: WorkQueue[str] = WorkQueue()
    order: defaultdict[str, int] = defaultdict(int)
    for key in "abcab":
        queue.add(key)
    for number in range(3):
        order[await queue.take()] = number
    assert order == {"a": 0, "b": 1, "c": 2}
