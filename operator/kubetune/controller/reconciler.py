"""What a reconciler of one kind is, and what the loop around it does."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from kubetune.controller.client import Client
from kubetune.controller.errors import ApiError

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The time now."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Result:
    """What a reconcile asks for."""

    requeue_after: float | None = None
    """Look again after so many seconds, even if nothing happens."""
    wants_jobs: bool = False
    """Look again as soon as a job of the namespace appears, completes or fails."""
    refused: ApiError | None = None
    """What the API server did not take, though everything else was done."""


class Reconciler(Protocol):
    """Brings one kind of resource to its desired state."""

    @property
    def kind(self) -> str:
        """The kind that it is for."""
        ...

    async def reconcile(self, client: Client, resource: dict[str, Any], now: datetime) -> Result:
        """Compare and mend once. Errors of the API server are raised: the caller tries again later."""
        ...
