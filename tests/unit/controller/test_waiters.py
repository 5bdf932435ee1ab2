"""Who is woken when a job changes."""

import pytest

from kubetune.controller.keys import Key
from kubetune.controller.waiters import Waiters

TUNED = Key("FineTuneJob", "here", "tuned")
SET = Key("AdapterSet", "here", "set")
ELSEWHERE = Key("FineTuneJob", "there", "tuned")


def reconciled(waiters: Waiters, key: Key, *, wants_jobs: bool) -> bool:
    return waiters.after(key, waiters.before(key), wants_jobs=wants_jobs)


def test_those_of_the_namespace_that_wait_are_woken_every_time() -> None:
    waiters = Waiters()
    for key in (TUNED, SET, ELSEWHERE):
        assert not reconciled(waiters, key, wants_jobs=True)
    for _ in range(2):
        assert waiters.changed("here") == {TUNED, SET}


def test_who_waits_no_more_is_not_woken() -> None:
    waiters = Waiters()
    reconciled(waiters, TUNED, wants_jobs=True)
    reconciled(waiters, SET, wants_jobs=True)
    reconciled(waiters, TUNED, wants_jobs=False)
    assert waiters.changed("here") == {SET}
    reconciled(waiters, SET, wants_jobs=False)
    assert waiters.changed("here") == set()


@pytest.mark.parametrize(
    ("namespace", "wants_jobs", "again"),
    [("here", True, True), ("here", False, False), ("there", True, False)],
)
def test_a_change_while_it_is_being_reconciled_is_not_missed(
    namespace: str, wants_jobs: bool, again: bool
) -> None:
    waiters = Waiters()
    before = waiters.before(TUNED)
    # What it reads may be older than this change, and it is not known to wait yet.
    assert waiters.changed(namespace) == set()
    assert waiters.after(TUNED, before, wants_jobs=wants_jobs) is again
