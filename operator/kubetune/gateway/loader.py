"""Brings one adapter into the engine: copy, verify, load, confirm."""

import asyncio
import re
import time
from pathlib import Path

from kubetune.api.table import AdapterReason, TableAdapter
from kubetune.gateway.ending import one_token, own_end
from kubetune.gateway.engine import EngineClient, EngineFailed, EngineSlow
from kubetune.gateway.metrics import Metrics
from kubetune.gateway.prepare import prepare
from kubetune.gateway.refused import AdapterRefused
from kubetune.gateway.verify import Limits
from kubetune.gateway.watch import EngineWatch

_LIST_SECONDS = 300.0  # behind a full batch
# An engine that answers with an error has looked at the adapter and says no, unless it says that it has no
# room now. vLLM answers 500 for both.
_MAY_PASS = frozenset({408, 425, 429, 502, 503, 504})
_NO_ROOM = re.compile(
    r"out of memory|cannot allocate|no free lora slots|too many open files|no space left", re.I
)
_NOISE = re.compile(
    r"^Call to \w+ method failed: |,? ?please check the stack trace above for the root cause", re.I
)


class Loader:
    """What all slots share."""

    def __init__(
        self,
        engine: EngineClient,
        watch: EngineWatch,
        metrics: Metrics,
        cache: Path,
        *,
        max_bytes: int,
        parallel: int = 4,
    ) -> None:
        self.engine = engine
        self.watch = watch
        self.metrics = metrics
        self.loaded_digests: dict[str, str] = {}
        """Digest by engine name, of all adapters that this engine process was given."""
        self._cache = cache
        self._max_bytes = max_bytes
        self._copies = asyncio.Semaphore(parallel)

    async def prepare(self, adapter: TableAdapter, limits: Limits) -> Path:
        """The verified copy of an adapter, as `prepare.prepare` makes it.

        Raises:
            AdapterRefused: it must not be served.
        """
        async with self._copies:
            return await asyncio.to_thread(prepare, adapter, limits, self._cache, max_bytes=self._max_bytes)

    async def load(self, adapter: TableAdapter, limits: Limits) -> Path:
        """Load an adapter under its own name; returns the folder of the copy.

        Raises:
            AdapterRefused: it cannot be served.
            EngineDown: the engine went away.
        """
        name, started = adapter.loaded_name, time.monotonic()
        # The engine caches what it computed by name: one name must never mean two contents.
        if self.loaded_digests.setdefault(name, adapter.digest) != adapter.digest:
            raise AdapterRefused(
                AdapterReason.NAME_COLLISION,
                f"the engine knows another version as {name}: train it again for another digest",
            )
        path = await self.prepare(adapter, limits)
        try:
            listed = await self.engine.models(within=_LIST_SECONDS)
            # Listed already: loaded by an earlier gateway process, or by a call whose answer was lost.
            if name not in listed:
                await self.engine.load(name, str(path))
                listed = await self.engine.models(within=_LIST_SECONDS)
            if name not in listed or Path(listed[name].root) != path:
                raise AdapterRefused(
                    AdapterReason.ENGINE_ERROR, f"the engine does not list {name} from {path}"
                )
        except EngineSlow as error:
            raise AdapterRefused(AdapterReason.ENGINE_ERROR, f"the engine did not answer: {error}") from error
        except EngineFailed as error:
            raise _refused(error) from error
        self.metrics.load_seconds.observe(time.monotonic() - started)
        return path

    async def end_of(self, copy: Path, base: Path) -> int | None:
        """The token that ends an adapter's answers, if it is another than the base's.

        Raises:
            AdapterRefused: it is no token of the base, or cannot be told.
            EngineDown: the engine went away.
        """
        end = await asyncio.to_thread(own_end, copy, base)
        if end is None:
            return None
        try:
            return one_token(end, await self.engine.tokenize(end))
        except EngineSlow as error:
            raise AdapterRefused(AdapterReason.ENGINE_ERROR, f"the engine did not answer: {error}") from error
        except EngineFailed as error:
            raise _refused(error) from error


def _refused(error: EngineFailed) -> AdapterRefused:
    told = _NOISE.sub("", str(error))
    if error.status in _MAY_PASS or _NO_ROOM.search(told):
        return AdapterRefused(AdapterReason.ENGINE_ERROR, f"the engine cannot load it now: {told}")
    return AdapterRefused(AdapterReason.ENGINE_REFUSED, f"the engine refuses it: {told}")
