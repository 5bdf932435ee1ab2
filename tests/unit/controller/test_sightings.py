"""Whether a watch that has gone deaf is noticed."""

from typing import Any

import pytest

from kubetune.controller import sightings as module
from kubetune.controller.keys import Key
from kubetune.controller.sightings import Sightings

A, B, OTHER = Key("PretrainJob", "n", "a"), Key("PretrainJob", "n", "b"), Key("FineTuneJob", "n", "a")


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def version(number: int) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": str(number)}}


def test_a_watch_that_shows_what_lists_show_owes_nothing(clock: Clock):
    found = Sightings()
    found.seen(A, version(1), deleted=False)
    found.compare("PretrainJob", {A: version(1)})
    clock.now += 1000
    assert found.lag_seconds() == 0


@pytest.mark.parametrize(
    "listed",
    [
        pytest.param({A: version(9)}, id="a change"),
        pytest.param({A: version(1), B: version(2)}, id="a new one"),
        pytest.param({}, id="a deletion"),
    ],
)
def test_what_a_watch_has_not_told_is_owed_until_it_tells(clock: Clock, listed: dict[Key, Any]):
    found = Sightings()
    found.seen(A, version(1), deleted=False)
    found.compare("PretrainJob", listed)
    clock.now += 300
    found.compare("PretrainJob", listed)
    clock.now += 1
    assert found.lag_seconds() == 301
    for key, resource in listed.items():
        found.seen(key, resource, deleted=False)
    if not listed:
        found.seen(A, version(1), deleted=True)
    assert found.lag_seconds() == 0


def test_a_watch_may_be_ahead_of_a_list(clock: Clock):
    found = Sightings()
    found.seen(A, version(10), deleted=False)
    found.compare("PretrainJob", {A: version(9)})
    clock.now += 1000
    assert found.lag_seconds() == 0


def test_a_list_of_one_kind_says_nothing_of_another(clock: Clock):
    found = Sightings()
    found.seen(OTHER, version(1), deleted=False)
    found.compare("PretrainJob", {})
    clock.now += 1000
    assert found.lag_seconds() == 0


def test_what_came_and_went_untold_is_not_owed_for_ever(clock: Clock):
    found = Sightings()
    found.compare("PretrainJob", {A: version(1)})
    found.compare("PretrainJob", {})
    clock.now += 1000
    assert found.lag_seconds() == 0
