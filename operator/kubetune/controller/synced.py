"""Condition Synced: False while a look at a resource cannot be carried out, with the API server's words.

Reconcilers say by themselves what they know the cause of. This is for all the rest: any request that is
refused, whatever it was for, and our own mistakes. It is told in an event and in the status. A refused status
can only be told in an event, and a refused event only in the log and in the metrics.
"""

import logging
import time
from collections import Counter
from typing import Any

from kubetune.api.meta import Block
from kubetune.api.status import NEVER_OBSERVED, Condition, find
from kubetune.controller.client import Client, Object
from kubetune.controller.errors import ApiError, Unavailable
from kubetune.controller.events import record
from kubetune.controller.keys import Key
from kubetune.controller.reconciler import Clock
from kubetune.controller.write_status import write_conditions
from kubetune.status.conditions import SYNCED, Judgement, conditions
from kubetune.status.health import health

log = logging.getLogger(__name__)

PASSING_SECONDS = 10.0
"""Conflicts and an API server that does not answer are told only if they last so long: mostly they pass."""


class _Told(Block):
    """The part of a status that all kinds have."""

    conditions: list[Condition] = []


class Synced:
    """Who could not be looked at, and since when. What is told is kept in the resources themselves."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._since: dict[Key, float] = {}
        """Monotonic seconds of the first failure in a row."""

    def failing(self) -> Counter[str]:
        """How many resources could not be looked at last time, by kind."""
        return Counter(key.kind for key in self._since)

    async def failed(self, key: Key, error: Exception) -> None:
        """A look failed."""
        since = self._since.setdefault(key, time.monotonic())
        final = not isinstance(error, ApiError) or error.is_answer
        if not final and time.monotonic() - since < PASSING_SECONDS:
            return
        judged = Judgement(SYNCED, "False", *_told(error))
        try:
            resource = await self._client.find(*key)
            if resource is None or _says(resource, judged):
                return
            # The event first: if the status were written first, a crash in between would lose it.
            await record(self._client, resource, "Warning", judged.reason, judged.message)
            await self._write(resource, judged)
        except ApiError as refused:
            log.warning("what went wrong is not told in the status: %s", refused.message)
        except Exception:
            log.exception("what went wrong is not told in the status")  # It costs no worker.

    async def succeeded(self, key: Key, resource: Object | None) -> None:
        """A look succeeded at a resource, as it was read."""
        self._since.pop(key, None)
        try:
            if resource is None or not _says(resource):
                return
            found = await self._client.find(*key)
            if found:
                await self._write(found, None)
        except ApiError as error:
            log.warning("that all is well again is not told yet: %s", error.message)
        except Exception:
            log.exception("that all is well again is not told yet")

    async def _write(self, resource: Object, judged: Judgement | None) -> None:
        before = _conditions(resource)
        kept = [Judgement(c.type, c.status, c.reason, c.message) for c in before if c.type != SYNCED]
        if judged:
            # A new resource has no conditions yet: as far as is known, it is under way.
            kept = [*(kept or health("InProgress", judged)), judged]
        generation = resource.get("status", {}).get("observedGeneration", NEVER_OBSERVED)
        if generation == NEVER_OBSERVED:  # the first look is this one
            generation = resource["metadata"]["generation"]
        now = conditions(kept, [c for c in before if judged or c.type != SYNCED], generation, self._clock())
        await write_conditions(self._client, resource, now, generation)


def _told(error: Exception) -> tuple[str, str]:
    """Reason and message."""
    if not isinstance(error, ApiError):
        return "InternalError", f"{type(error).__name__}: {error}. Please report it, with the operator's log"
    said = f"{error.request}: {error.message}" if error.request else error.message
    if isinstance(error, Unavailable) and not error.is_answer:
        return "NotAnswered", f"The API server does not answer. It is asked again. {said}"
    return "RequestRefused", f"The API server refuses a request of the operator. It is tried again. {said}"


def _conditions(resource: Object) -> list[Condition]:
    found: Any = resource.get("status", {}).get("conditions", [])
    return _Told.model_validate({"conditions": found}).conditions


def _says(resource: Object, judged: Judgement | None = None) -> bool:
    """Whether a status says that something is wrong, or this in particular."""
    found = find(_conditions(resource), SYNCED)
    return found is not None and (
        judged is None or (found.reason, found.message) == (judged.reason, judged.message)
    )
