"""The rules of leader election, as client-go has them: who may take the Lease, and when. Pure.

Clocks may be wrong, so nobody trusts the times in a Lease. Another's Lease has expired if it has not changed
for its duration, by the clock of the replica that looks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

LEASE = "kubetune"
"""Its name, the same in every release: each has a namespace of its own."""
Spec = Mapping[str, Any]


@dataclass(frozen=True)
class Timing:
    """15, 10 and 2 seconds, or other times in these proportions."""

    lease_seconds: int = 15
    """Others may take over when the leader has renewed nothing for so long."""

    @property
    def renew_deadline(self) -> float:
        """A leader that has renewed nothing for so long steps down, in good time before others take over."""
        return self.lease_seconds * 2 / 3

    @property
    def retry_period(self) -> float:
        """Between two looks at the Lease."""
        return self.lease_seconds * 2 / 15

    @property
    def attempt_seconds(self) -> float:
        """The longest that one look may take: an answer that does not come leaves time for another try."""
        return self.renew_deadline / 2


@dataclass(frozen=True)
class Sighting:
    """What a Lease says, and since when."""

    spec: Spec
    since: float
    """Seconds of a clock of ours that nobody sets."""


def seen(before: Sighting | None, spec: Spec | None, now: float) -> Sighting | None:
    """What is known after another look.

    Args:
        before: what was known.
        spec: of the Lease; None when it is gone: its holder may not know yet, so that changes nothing.
        now: the clock.
    """
    if spec is None or (before is not None and before.spec == spec):
        return before
    return Sighting(spec, now)


def holder(spec: Spec) -> str | None:
    """Who holds a Lease; None when nobody does."""
    return spec.get("holderIdentity") or None


def taken_for(sighting: Sighting | None, identity: str, now: float) -> float:
    """Seconds for which the Lease is another's; 0 when `identity` may take or renew it."""
    if sighting is None or holder(sighting.spec) in (None, identity):
        return 0.0
    return max(0.0, sighting.since + (sighting.spec.get("leaseDurationSeconds") or 0) - now)


def held(before: Spec | None, identity: str, timing: Timing, now: datetime) -> dict[str, Any]:
    """What the Lease says once `identity` has taken or renewed it."""
    before = before or {}
    renewal = holder(before) == identity
    transitions = before.get("leaseTransitions") or 0
    return {
        "holderIdentity": identity,
        "leaseDurationSeconds": timing.lease_seconds,
        "acquireTime": before["acquireTime"] if renewal else micro_time(now),
        "renewTime": micro_time(now),
        "leaseTransitions": transitions + (before != {} and not renewal),
    }


def released(before: Spec) -> dict[str, Any]:
    """What the Lease says once its holder has given it back: anybody may take it at once."""
    return {**before, "holderIdentity": "", "leaseDurationSeconds": 1}


def micro_time(now: datetime) -> str:
    """A MicroTime."""
    # `isoformat` would leave out a fraction that is zero, and the API server refuses a time without one.
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
