"""Conditions: each one that is owned is set each time."""

from datetime import UTC, datetime, timedelta, timezone

from kubetune.api.status import is_true
from kubetune.status.conditions import (
    LONGEST_MESSAGE,
    Judgement,
    conditions,
    parse_timestamp,
    timestamp,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_one_that_is_not_judged_any_more_goes():
    before = conditions([Judgement("Old", "True", "R"), Judgement("Kept", "True", "R")], [], 1, NOW)
    after = conditions([Judgement("Kept", "True", "R")], before, 2, NOW + timedelta(hours=1))
    assert [c.type for c in after] == ["Kept"]
    assert after[0].last_transition_time == before[1].last_transition_time
    assert after[0].observed_generation == 2


def test_unknown_is_a_status_of_its_own():
    before = conditions([Judgement("C", "False", "R")], [], 1, NOW)
    after = conditions([Judgement("C", "Unknown", "R")], before, 1, NOW + timedelta(hours=1))
    assert after[0].last_transition_time == "2026-01-01T01:00:00Z"
    assert not is_true(after, "C")


def test_a_message_that_is_too_long_for_the_api_is_cut():
    [condition] = conditions([Judgement("C", "False", "R", "x" * 10**6)], [], 1, NOW)
    assert len(condition.message) == LONGEST_MESSAGE


def test_timestamps_are_utc_in_whole_seconds_and_read_back():
    there = datetime(2026, 7, 1, 14, 30, 5, 999, tzinfo=timezone(timedelta(hours=2)))
    assert timestamp(there) == "2026-07-01T12:30:05Z"
    assert parse_timestamp(timestamp(there)) == there.replace(microsecond=0)
