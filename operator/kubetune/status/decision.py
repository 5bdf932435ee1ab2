"""What to do about a training job next. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from kubetune.api.exitcodes import Reason
from kubetune.api.status import Failure, JobStatus
from kubetune.status.attempts import Attempt
from kubetune.status.conditions import parse_timestamp

FIRST_DELAY = timedelta(seconds=10)
LONGEST_DELAY = timedelta(seconds=300)
LONG_LIFE = timedelta(minutes=10)
"""An attempt that lasted for so long got somewhere: the next one need not wait."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do until something changes, or until a moment."""

    until: datetime | None = None


@dataclass(frozen=True)
class Start:
    """Create the Job of an attempt, once everything that it needs is there."""

    attempt: int
    restarts: int


@dataclass(frozen=True)
class Finish:
    """The job is over."""

    phase: Literal["Succeeded", "Failed"]
    failure: Failure | None = None


Decision = Wait | Start | Finish


def decide(attempts: Sequence[Attempt], previous: JobStatus, backoff_limit: int, now: datetime) -> Decision:
    """The next step.

    Args:
        attempts: those whose Jobs exist, oldest first.
        previous: the status, which knows of more attempts where somebody deleted a Job.
        backoff_limit: of the spec.
        now: the clock.
    """
    last = attempts[-1] if attempts else None
    if last and last.state == "Succeeded":
        return Finish("Succeeded")
    restarts = max(previous.restarts, last.restarts if last else 0)
    if last is None or last.number < previous.attempts:
        return _start(previous.attempts + 1, restarts, _due_after_deletion(previous, now), now)
    if last.state != "Failed" or last.outcome is None or last.failure is None:
        return Wait()
    if not last.outcome.retry:
        return Finish("Failed", last.failure)
    restarts += last.outcome.counted
    if restarts > backoff_limit:
        return Finish("Failed", _exhausted(last.failure, backoff_limit))
    return _start(last.number + 1, restarts, _due(last, now), now)


def _start(attempt: int, restarts: int, due: datetime, now: datetime) -> Start | Wait:
    return Start(attempt, restarts) if due <= now else Wait(due)


def _due(last: Attempt, now: datetime) -> datetime:
    """When the next attempt may start. Restarts that do not count wait, too, or they would run hot."""
    finished = last.finished or now
    return finished if finished - last.created >= LONG_LIFE else finished + delay(last.number)


def _due_after_deletion(previous: JobStatus, now: datetime) -> datetime:
    """When the next attempt may start, if nothing is left of the last one to tell when it ended.

    At once, usually; but something that deletes every Job does not make us run hot.
    """
    if previous.start_time is None:
        return now
    pauses = (delay(number) for number in range(1, previous.attempts + 1))
    return parse_timestamp(previous.start_time) + sum(pauses, timedelta())


def delay(attempts: int) -> timedelta:
    """Pause after so many attempts: none after the first, then 10 s, doubled each time up to 5 minutes."""
    if attempts <= 1:
        return timedelta()
    return min(FIRST_DELAY * (1 << min(attempts - 2, 10)), LONGEST_DELAY)


def _exhausted(cause: Failure, limit: int) -> Failure:
    said = (
        f"backoffLimit is {limit}, and the last attempt failed again: {cause.reason.value}: {cause.message}"
    )
    return cause.model_copy(update={"reason": Reason.BACKOFF_LIMIT_EXCEEDED, "message": said})
