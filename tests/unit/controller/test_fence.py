"""Writes pass only while the fence is open, and it is known whether one is under way."""

import asyncio

import pytest

from kubetune.controller.errors import NotLeader
from kubetune.controller.fence import Fence, uptime


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fence(clock: Clock) -> Fence:
    return Fence(clock)


def passes(fence: Fence) -> bool:
    try:
        with fence.passing():
            return True
    except NotLeader:
        return False


def test_it_is_closed_until_it_is_opened(fence: Fence):
    assert not passes(fence)
    assert fence.left() < 0


def test_it_shuts_by_itself_when_nobody_prolongs_it(fence: Fence, clock: Clock):
    fence.open_until(110.0)
    clock.now = 109.9
    assert passes(fence)
    clock.now = 110.0
    assert not passes(fence)
    fence.open_until(120.0)
    assert passes(fence)


def test_once_closed_it_stays_closed(fence: Fence):
    fence.open_until(110.0)
    fence.close()
    fence.open_until(120.0)
    assert not passes(fence)


async def test_it_is_idle_once_every_write_has_passed_however_it_ended(fence: Fence):
    fence.open_until(110.0)
    await fence.idle()
    waiting = asyncio.create_task(fence.idle())
    with fence.passing():
        with pytest.raises(ZeroDivisionError), fence.passing():
            raise ZeroDivisionError
        # To be closed does not end what is under way.
        fence.close()
        await asyncio.sleep(0.01)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 1)


def test_the_clock_goes_on():
    assert uptime() < uptime()
