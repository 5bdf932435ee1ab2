"""What to do about a training job next. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from kubetune.api.exitcodes import Reason
from kubetune.api.lifecycle import Lifecycle
from kubetune.api.status import Failure, JobStatus, find
from kubetune.status.attempts import Attempt
from kubetune.status.conditions import parse_timestamp
from kubetune.status.ending import LATE, Ending, late

FIRST_DELAY = timedelta(seconds=10)
LONGEST_DELAY = timedelta(seconds=300)
LONG_LIFE = timedelta(minutes=10)
"""An attempt that lasted so long made progress: the next one need not wait."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do until something changes, or until a moment."""

    until: datetime | None = None
    starts: bool = True
    """Whether an attempt starts then; else it is looked at again."""


@dataclass(frozen=True)
class StartAttempt:
    """Create the Job of an attempt, once everything that it needs is there."""

    attempt: int
    restarts: int


@dataclass(frozen=True)
class StopAttempt:
    """End the newest attempt: its pods save a checkpoint and go."""

    reason: Literal["Suspended", "DeadlineExceeded", "PodDeleted"]


@dataclass(frozen=True)
class Hold:
    """Suspended, and nothing runs."""


@dataclass(frozen=True)
class Finish:
    """The job is over."""

    phase: Literal["Succeeded", "Failed"]
    failure: Failure | None = None


Decision = Wait | StartAttempt | StopAttempt | Hold | Finish


@dataclass(frozen=True)
class Seen:
    """The attempts and pods of a job that exist in the cluster."""

    attempts: Sequence[Attempt] = ()
    """Those whose Jobs exist, oldest first."""
    alive: Sequence[str] = ()
    """Pods of any attempt that have not ended, also of those whose Jobs are deleted."""
    active_seconds: int = 0
    """How long pods ran."""
    active_until: datetime | None = None
    """Up to which moment that is counted."""
    unending_seconds: int = 0
    """Seconds since then in which pods have not ended that should have."""
    endings: Sequence[Ending] = ()
    """How far those pods of `alive` have come in ending that were told to end."""


def decide(seen: Seen, previous: JobStatus, wanted: Lifecycle, now: datetime) -> Decision:
    """The next step.

    Args:
        seen: the attempts.
        previous: the status, which knows of more attempts where a Job was deleted.
        wanted: the part of the spec that may change.
        now: the clock.
    """
    last = seen.attempts[-1] if seen.attempts else None
    if last and last.state == "Succeeded":
        return Finish("Succeeded")
    restarts = max(previous.restarts, last.restarts if last else 0)
    known = last is not None and last.number >= previous.attempts
    if last and known and last.state == "Failed" and last.outcome and last.failure:
        if not last.outcome.retry:
            return Finish("Failed", last.failure)
        restarts += last.outcome.counted
        if restarts > wanted.backoff_limit:
            return Finish("Failed", _exhausted(last.failure, wanted.backoff_limit))
    runs = last if last and known and last.state in ("Pending", "Running") else None
    stopped = _stopped(seen, runs, previous, wanted, now)
    if stopped:
        return stopped
    if runs and runs.ending and runs.ending.forced:
        # The Job controller waits for a kubelet to say that the pod has ended, and would wait for ever.
        return StopAttempt("PodDeleted")
    if runs:
        return Wait(_look_again(seen, runs, previous, wanted, now), starts=False)
    if last and known:
        return _start(last.number + 1, restarts, _due(last, now), now)
    return _start(previous.attempts + 1, restarts, _due_after_deletion(previous, now), now)


def _stopped(
    seen: Seen, runs: Attempt | None, previous: JobStatus, wanted: Lifecycle, now: datetime
) -> Decision | None:
    """What is done while the job may not run: it is suspended, or its time is up."""
    limit = wanted.active_deadline_seconds
    used = _used(seen, previous)
    over = limit is not None and used >= limit
    if not over and not wanted.suspend:
        return None
    if runs:
        if wanted.suspend:
            return StopAttempt("Suspended")
        ends = _ended_by_kubelet(runs)
        if ends and now < ends and _kubelet_knows(runs, used, limit, now):
            # The kubelet does it by itself, and then the trainer's last word is not lost.
            return Wait(ends, starts=False)
        return StopAttempt("DeadlineExceeded")
    waits = set(seen.alive) - {e.pod for e in seen.endings if e.is_late(now)}
    if waits or (seen.alive and not over):
        return Wait(_next_late(seen.endings, now), starts=False)
    return Finish("Failed", _too_long(limit, seen, previous, now)) if limit and over else Hold()


def _used(seen: Seen, previous: JobStatus) -> int:
    """What counts against activeDeadlineSeconds: also the time of pods that may or may not run still."""
    return max(previous.active_seconds, seen.active_seconds) + seen.unending_seconds


def _look_again(
    seen: Seen, runs: Attempt, previous: JobStatus, wanted: Lifecycle, now: datetime
) -> datetime | None:
    """When to look at a running attempt again although no event may come."""
    moments = [runs.again, _deadline(seen, runs, previous, wanted, now), _next_late(seen.endings, now)]
    return min((moment for moment in moments if moment), default=None)


def _next_late(endings: Sequence[Ending], now: datetime) -> datetime | None:
    """When the next pod should have ended."""
    return min((e.until + LATE for e in endings if not e.is_late(now)), default=None)


def _deadline(
    seen: Seen, runs: Attempt, previous: JobStatus, wanted: Lifecycle, now: datetime
) -> datetime | None:
    """When the time of a running attempt is up, if the kubelet does not end it by itself."""
    limit, used = wanted.active_deadline_seconds, _used(seen, previous)
    if limit is None or runs.begun is None:
        return None
    if _kubelet_knows(runs, used, limit, now) and not runs.ending:
        # A look is needed then, because no event may come from a node that does not answer.
        return _ended_by_kubelet(runs)
    return now + timedelta(seconds=limit - used)


def _ended_by_kubelet(runs: Attempt) -> datetime | None:
    """By when the kubelet has ended an attempt whose time is up; None if it does not."""
    if runs.begun is None or runs.deadline_seconds is None or runs.ending:
        return None
    return runs.begun + timedelta(seconds=runs.deadline_seconds + runs.grace_seconds) + LATE


def _kubelet_knows(runs: Attempt, used: int, limit: int | None, now: datetime) -> bool:
    """Whether the kubelet ends an attempt at the limit or before; it does not if that was lowered since."""
    if limit is None or runs.begun is None or runs.deadline_seconds is None:
        return False
    left = runs.begun + timedelta(seconds=runs.deadline_seconds) - now
    return left <= timedelta(seconds=limit - used + 1)


def _start(attempt: int, restarts: int, due: datetime, now: datetime) -> StartAttempt | Wait:
    return StartAttempt(attempt, restarts) if due <= now else Wait(due)


def _due(last: Attempt, now: datetime) -> datetime:
    """When the next attempt may start. Restarts that are not counted wait as well: otherwise they could
    follow each other without a pause."""
    finished = last.finished or now
    return finished if finished - last.created >= LONG_LIFE else finished + delay(last.number)


def _due_after_deletion(previous: JobStatus, now: datetime) -> datetime:
    """When the next attempt may start, if nothing is left of the last one to tell when it ended.

    Usually that is at once. If something deletes each Job as soon as it is made, the pauses grow all the
    same.
    """
    if previous.start_time is None or was_suspended(previous):
        return now
    pauses = (delay(number) for number in range(1, previous.attempts + 1))
    return parse_timestamp(previous.start_time) + sum(pauses, timedelta())


def was_suspended(previous: JobStatus) -> bool:
    """Whether the operator ended the newest attempt because the user suspended the job, and no other has
    started since."""
    found = find(previous.conditions, "Suspended")
    return found is not None and (found.status == "True" or found.reason in ("Stopping", "Resumed"))


def delay(attempts: int) -> timedelta:
    """Pause after so many attempts: none after the first, then 10 s, doubled each time up to 5 minutes."""
    if attempts <= 1:
        return timedelta()
    return min(FIRST_DELAY * (1 << min(attempts - 2, 10)), LONGEST_DELAY)


def _exhausted(cause: Failure, limit: int) -> Failure:
    said = (
        f"The last attempt that backoffLimit {limit} allows has failed: {cause.reason.value}: {cause.message}"
    )
    return cause.model_copy(update={"reason": Reason.BACKOFF_LIMIT_EXCEEDED, "message": said})


def _reached(seen: Seen, previous: JobStatus) -> str:
    """How far the run has come."""
    words = [a.last_word.last_checkpoint for a in seen.attempts if a.last_word]
    newest = next((c for c in reversed(words) if c), previous.last_checkpoint)
    return f", at step {newest.step}" if newest else ""


def _too_long(limit: int, seen: Seen, previous: JobStatus, now: datetime) -> Failure:
    unending = late(seen.endings, now)
    return Failure(
        reason=Reason.DEADLINE_EXCEEDED,
        message=f"The run was not complete after activeDeadlineSeconds, {limit} s{_reached(seen, previous)}: "
        f"create a new job with a higher limit.{' ' if unending else ''}{unending}",
    )
