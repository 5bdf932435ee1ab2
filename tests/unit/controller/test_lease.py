"""Who may take the Lease, and when."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from kubetune.controller.lease import Sighting, Timing, held, holder, micro_time, released, seen, taken_for

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
TIMING = Timing()


def spec(who: str | None, *, duration: int | None = 15, renewed: datetime = NOW) -> dict[str, Any]:
    fields = {"holderIdentity": who, "leaseDurationSeconds": duration, "renewTime": micro_time(renewed)}
    return {key: value for key, value in fields.items() if value is not None}


@pytest.mark.parametrize(
    ("what", "now", "left"),
    [
        (None, 0.0, 0.0),
        (spec("me"), 100.0, 0.0),
        (spec(None), 100.0, 0.0),
        (spec(""), 100.0, 0.0),
        (spec("other"), 100.0, 15.0),
        (spec("other"), 114.9, 0.1),
        (spec("other"), 115.0, 0.0),
        (spec("other"), 999.0, 0.0),
        # Another version of the operator may have another duration: its own counts.
        (spec("other", duration=60), 115.0, 45.0),
        (spec("other", duration=None), 100.0, 0.0),
        # By its clock, which may be wrong, it expired years ago, or was renewed in the future.
        (spec("other", renewed=LONG_AGO), 105.0, 10.0),
        (spec("other", renewed=NOW + timedelta(days=9)), 115.0, 0.0),
    ],
)
def test_for_how_long_it_is_anothers(what: dict[str, Any] | None, now: float, left: float):
    sighting = None if what is None else Sighting(what, since=100.0)
    assert taken_for(sighting, "me", now) == pytest.approx(left)


def test_a_renewal_is_seen_and_a_look_that_shows_no_change_does_not_prolong():
    first = seen(None, spec("other"), 100.0)
    assert first == Sighting(spec("other"), 100.0)
    assert seen(first, spec("other"), 110.0) == first
    renewed = spec("other", renewed=NOW + timedelta(microseconds=1))
    assert seen(first, renewed, 110.0) == Sighting(renewed, 110.0)


def test_when_somebody_deletes_it_its_holder_may_not_know_yet():
    first = seen(None, spec("other"), 100.0)
    gone = seen(first, None, 110.0)
    assert taken_for(gone, "me", 110.0) == 5.0
    assert taken_for(seen(None, None, 110.0), "me", 110.0) == 0.0


def test_taking_and_renewing():
    taken = held(None, "me", TIMING, NOW)
    assert taken == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-01T12:00:00.000000Z",
        "renewTime": "2026-01-01T12:00:00.000000Z",
        "leaseTransitions": 0,
    }
    renewed = held(taken, "me", TIMING, NOW + timedelta(seconds=2))
    assert renewed == taken | {"renewTime": "2026-01-01T12:00:02.000000Z"}
    by_other = held(renewed, "other", TIMING, NOW + timedelta(seconds=20))
    assert by_other["leaseTransitions"] == 1
    assert by_other["acquireTime"] == by_other["renewTime"] == "2026-01-01T12:00:20.000000Z"


def test_what_is_given_back_may_be_taken_at_once_and_the_change_of_hands_is_counted():
    given = released(held(None, "other", TIMING, NOW))
    assert holder(given) is None
    assert taken_for(Sighting(given, 100.0), "me", 100.0) == 0.0
    assert held(given, "me", TIMING, NOW)["leaseTransitions"] == 1


def test_a_time_always_has_six_digits_and_is_utc():
    assert micro_time(datetime(2026, 1, 1, 12, 0, 0, 7, tzinfo=UTC)) == "2026-01-01T12:00:00.000007Z"
    east = timezone(timedelta(hours=2))
    assert micro_time(datetime(2026, 1, 1, 14, tzinfo=east)) == "2026-01-01T12:00:00.000000Z"


def test_the_times_are_those_of_client_go_and_leave_room_between_them():
    assert (TIMING.lease_seconds, TIMING.renew_deadline, TIMING.retry_period) == (15, 10.0, 2.0)
    for seconds in (1, 3, 15, 60):
        timing = Timing(seconds)
        # Two tries that get no answer fit before the deadline; the deadline is well before others take over.
        assert 2 * timing.attempt_seconds <= timing.renew_deadline < timing.lease_seconds * 0.7
