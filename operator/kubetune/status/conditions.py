"""Conditions. Each is True, False or Unknown, and every condition of a kind is set at each look."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from kubetune.api.status import Condition

LONGEST_MESSAGE = 2048
SYNCED = "Synced"
"""Type of the condition that is there while the API server refuses something; see `controller/synced.py`."""


@dataclass(frozen=True)
class Judgement:
    """What a condition should say."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, whole seconds, as Kubernetes writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime:
    """The moment that a Kubernetes timestamp names."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def conditions(
    judgements: Iterable[Judgement], previous: Iterable[Condition], generation: int | None, now: datetime
) -> list[Condition]:
    """Conditions in the given order; the transition time stays while the status does.

    Synced stays as it was unless it is judged, too, because only a complete look at a resource tells.
    """
    before: Mapping[str, Condition] = {c.type: c for c in previous}
    found = []
    for judgement in judgements:
        old = before.get(judgement.type)
        since = old.last_transition_time if old and old.status == judgement.status else timestamp(now)
        found.append(
            Condition(
                type=judgement.type,
                status=judgement.status,
                observed_generation=generation,
                last_transition_time=since,
                reason=judgement.reason,
                message=judgement.message[:LONGEST_MESSAGE],
            )
        )
    judged = {condition.type for condition in found}
    return [*found, *(c for c in before.values() if c.type == SYNCED and c.type not in judged)]
