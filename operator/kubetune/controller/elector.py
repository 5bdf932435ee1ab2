"""Leader election by a Lease in the operator's namespace: acquires it, renews it, gives it back."""

import asyncio
import logging
import random
import socket
import uuid
from collections.abc import Awaitable, Callable

from kubetune.controller.client import Client, Object
from kubetune.controller.errors import ApiError
from kubetune.controller.fence import Fence, Uptime, uptime
from kubetune.controller.lease import LEASE, Sighting, Timing, held, holder, released, seen, taken_for
from kubetune.controller.reconciler import utc_now
from kubetune.controller.rivals import Rivals, Scope

log = logging.getLogger(__name__)

RESIGN_SECONDS = 3.0
"""Time for writes under way and for giving the Lease back."""


class LeadershipLost(Exception):
    """Another replica leads, or may lead by now."""


def new_identity() -> str:
    """Who this process is: its pod's name, and what tells it from the one before it in the same pod."""
    return f"{socket.gethostname()}_{uuid.uuid4()}"


class Elector:
    """One candidate. Opens the fence while it leads."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        identity: str,
        fence: Fence,
        timing: Timing,
        *,
        scope: Scope = (),
        clock: Uptime = uptime,
    ) -> None:
        self.identity = identity
        self.has_looked = False
        """Whether the Lease could be read, or found missing, once."""
        self.rival: str | None = None
        """Which other release keeps this one from leading, and what to do; None if none does."""
        self.refusal: str | None = None
        """What the API server says when it does not let us look at the Lease or take it."""
        self._rivals = Rivals(client, namespace, scope, clock)
        self._client = client
        self._namespace = namespace
        self._fence = fence
        self._timing = timing
        self._clock = clock
        self._lease: Object | None = None
        """As it was written last; None when it must be read first."""
        self._sighting: Sighting | None = None
        self._tried = clock()
        self._turn = asyncio.Lock()
        self._resigned = False

    @property
    def leads(self) -> bool:
        """Whether this replica leads now."""
        return self._fence.left() > 0

    def silent_seconds(self) -> float:
        """Time since the last try, successful or not: it grows only when the elector itself is stuck."""
        return self._clock() - self._tried

    async def acquire(self) -> Object:
        """Wait until this replica leads; returns the Lease."""
        while True:
            async with self._turn:
                if not self._resigned:
                    await self._try(self._take, self._timing.attempt_seconds)
            if self._lease and self.leads:
                log.info("leader election: %s leads", self.identity)
                return self._lease
            # Awake at the very moment at which the Lease expires.
            taken = taken_for(self._sighting, self.identity, self._clock())
            pause = min(taken or self._timing.retry_period, self._timing.retry_period)
            # Random, so that two that gave way to one another do not try again at the same moment.
            await asyncio.sleep(pause * random.uniform(0.5, 1.5) if self.rival else pause)

    async def hold(self) -> None:
        """Renew the Lease until resigned.

        Raises:
            LeadershipLost: the process should end, for what it believes may be out of date.
        """
        while not self._resigned:
            await asyncio.sleep(max(0.0, min(self._timing.retry_period, self._fence.left())))
            async with self._turn:
                if self._resigned:
                    return
                if (left := self._fence.left()) <= 0:
                    raise LeadershipLost(f"not renewed for {self._timing.renew_deadline:.0f} s")
                await self._try(self._renew, min(left, self._timing.attempt_seconds))

    async def resign(self) -> None:
        """Let nothing more be written; give the Lease back once no write is under way."""
        self._resigned = True
        self._fence.close()
        try:
            async with asyncio.timeout(RESIGN_SECONDS):
                await self._fence.idle()
                # A try that is under way may yet have made it ours.
                async with self._turn:
                    await self._give_back()
        except (TimeoutError, ApiError) as error:
            log.warning("leader election: the Lease is left to expire: %s", str(error) or "no answer")

    async def _give_back(self) -> None:
        if self._sighting is None or holder(self._sighting.spec) != self.identity:
            return
        lease = self._lease or await self._read()
        if lease is None and await self._gives_way():
            self._fence.close()
            raise LeadershipLost("the Lease was deleted, and another release leads")
        if lease and holder(lease["spec"]) == self.identity:
            await self._client.replace({**lease, "spec": released(lease["spec"])})
            log.info("leader election: the Lease is given back")

    async def _try(self, call: Callable[[], Awaitable[None]], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await call()
            self.refusal = None
        except (TimeoutError, ApiError) as error:
            if isinstance(error, ApiError) and error.is_answer:
                self.refusal = f"{error.request}: {error.message}"
            # The next look tells whether a write that got no answer was done, and who else wrote.
            self._lease = None
            log.warning("leader election: %s", str(error) or f"no answer within {seconds:.1f} s")
        finally:
            self._tried = self._clock()

    async def _take(self) -> None:
        lease = await self._read()
        if taken_for(self._sighting, self.identity, self._clock()):
            self.rival = None
            return
        if await self._gives_way():
            return
        begun = await self._write(lease)
        if await self._gives_way():
            await self._give_back()
            self._lease = None
        else:
            self._open(begun)

    async def _gives_way(self) -> bool:
        """Whether another release acts where this one would."""
        before, self.rival = self.rival, await self._rivals.leading()
        if self.rival and self.rival != before:
            log.warning("leader election: %s", self.rival)
        return self.rival is not None

    async def _renew(self) -> None:
        lease = self._lease or await self._read()
        if lease and holder(lease["spec"]) != self.identity:
            self._fence.close()
            raise LeadershipLost(f"{holder(lease['spec']) or 'nobody'} leads")
        self._open(await self._write(lease))

    async def _read(self) -> Object | None:
        lease = await self._client.find("Lease", self._namespace, LEASE)
        self.has_looked = True
        before = self._sighting
        self._sighting = seen(before, lease["spec"] if lease else None, self._clock())
        if self._sighting and (before is None or holder(before.spec) != holder(self._sighting.spec)):
            log.info("leader election: held by %s", holder(self._sighting.spec) or "nobody")
        return lease

    async def _write(self, lease: Object | None) -> float:
        """Take or renew the Lease; returns the moment before that, from which the fence counts."""
        annotations = dict(await self._rivals.annotations())
        begun = self._clock()
        before = lease["spec"] if lease else None
        spec = held(before, self.identity, self._timing, utc_now())
        if lease:
            # Refused when somebody has written it meanwhile: its resourceVersion is another then.
            noted = {**(lease["metadata"].get("annotations") or {}), **annotations}
            metadata = {**lease["metadata"], "annotations": noted}
            self._lease = await self._client.replace({**lease, "metadata": metadata, "spec": spec})
        else:
            metadata = {"name": LEASE, "namespace": self._namespace, "annotations": annotations}
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
            self._lease = await self._client.create({**body, "spec": spec})
        self._sighting = Sighting(self._lease["spec"], begun)
        return begun

    def _open(self, begun: float) -> None:
        self._fence.open_until(begun + self._timing.renew_deadline)
