"""One alias: brings the version that the table asks for into the engine, and takes the old one out.

Level-triggered: a task compares what is desired with what is, and does the next thing. A version is loaded
under a name of its own beside the old one, the alias is pointed at it, and the old one is unloaded when its
last request is done. An engine that is gone takes everything with it, and all is loaded again.
"""

import asyncio
import logging
import shutil
from contextlib import suppress
from pathlib import Path

from kubetune.api.table import AdapterPhase, AdapterReason, AdapterState, TableAdapter
from kubetune.gateway.chat import chat_template
from kubetune.gateway.engine import EngineDown, EngineFailed, EngineSlow
from kubetune.gateway.fetch import fingerprint
from kubetune.gateway.loader import Loader
from kubetune.gateway.refused import AdapterRefused
from kubetune.gateway.verify import Limits
from kubetune.gateway.versions import Version

_log = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS = 0.5
_LOOK_SECONDS = 10.0
"""Longest pause between looks at files that were refused for good, to see whether they have changed."""
_LAST_RETRY_SECONDS = 60.0
_TRIES = 3
"""Failed tries after which an alias counts as settled, although the error may pass."""


class Slot:
    """One alias."""

    def __init__(self, name: str, loader: Loader) -> None:
        self.name = name
        self.serving: Version | None = None
        """What answers now."""
        self._loader = loader
        self._desired: TableAdapter | None = None
        self._limits: Limits | None = None
        self._loaded: dict[str, Version] = {}  # by digest; everything in the engine, draining ones too
        self._busy_names: set[str] = set()  # being loaded or unloaded
        self._last_good: TableAdapter | None = None
        self._refusal: AdapterRefused | None = None
        self._refused_files: str | None = None
        self._tries = 0
        self._delay = _FIRST_RETRY_SECONDS
        self._wake = asyncio.Event()
        self._engine_lock = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()

    # What the fleet asks and tells.

    def want(self, adapter: TableAdapter | None, limits: Limits) -> None:
        """Change what is desired; None: the alias is to go."""
        if (adapter, limits) == (self._desired, self._limits):
            return
        self._desired, self._limits = adapter, limits
        self._forget_refusal()
        self._wake.set()

    def engine_changed(self) -> None:
        """Forget what was loaded: the engine's epoch began or ended."""
        self._loaded.clear()
        self.serving = None
        self._forget_refusal()
        self._wake.set()

    @property
    def loaded_names(self) -> set[str]:
        """Engine names that the engine must list."""
        return {v.engine_name for v in self._loaded.values()}

    @property
    def names(self) -> set[str]:
        """Engine names that belong to this slot, those in transition among them."""
        return self.loaded_names | self._busy_names

    @property
    def copies(self) -> set[str]:
        """Folders in the cache that are needed, now or after a restart of the engine."""
        return self.names | {a.loaded_name for a in (self._desired, self._last_good) if a}

    @property
    def wanted(self) -> bool:
        """Whether there is anything left to do for this alias."""
        return bool(self._desired or self.names)

    @property
    def versions(self) -> list[Version]:
        """Everything in the engine."""
        return list(self._loaded.values())

    @property
    def phase(self) -> AdapterPhase:
        """Where the desired version stands."""
        if self._desired and self.serving and self.serving.digest == self._desired.digest:
            return "Loaded"
        if self._refusal:
            return "Failed"
        return "Pending" if self._loader.watch.epoch is None else "Loading"

    @property
    def settled(self) -> bool:
        """Whether waiting longer is of no use in this epoch."""
        if self._refusal:
            return not self._refusal.reason.may_pass or self._tries >= _TRIES
        return self.phase == "Loaded"

    @property
    def state(self) -> AdapterState | None:
        """What the operator is told; None once the alias is on its way out."""
        if self._desired is None:
            return None
        return AdapterState(
            name=self.name,
            digest=self._desired.digest,
            phase=self.phase,
            serving=self.serving.digest if self.serving else None,
            reason=self._refusal.reason if self._refusal else None,
            message=str(self._refusal) if self._refusal else None,
        )

    @property
    def refused_for_good(self) -> bool:
        """Whether clients wait in vain: nothing answers, and what is desired was refused for good."""
        return self.serving is None and self._refusal is not None and not self._refusal.reason.may_pass

    @property
    def why_not(self) -> str:
        """Why nothing answers, for a client."""
        return f"{self._refusal.reason}: {self._refusal}" if self._refusal else "it is being loaded"

    # The task.

    async def run(self) -> None:
        """Keep the alias as desired, until it is gone for good."""
        try:
            while self.wanted:
                self._wake.clear()
                delay = await self._step()
                with suppress(TimeoutError):  # time for the next try
                    async with asyncio.timeout(delay):
                        await self._wake.wait()
        finally:
            for task in self._retiring:
                task.cancel()

    async def _step(self) -> float | None:
        """Bring reality one step nearer; returns the seconds until the next try, None to wait for news."""
        adapter, limits, epoch = self._desired, self._limits, self._loader.watch.epoch
        if adapter is None or limits is None:
            self._point_at(None)
            return None
        if self.phase == "Loaded":
            return None
        # Taken before the attempt, so that a change during it leads to another one.
        files = await asyncio.to_thread(fingerprint, Path(adapter.path))
        try:
            if self._refusal is None or self._refusal.reason.may_pass or files != self._refused_files:
                if epoch is None:
                    await self._loader.prepare(adapter, limits)  # so that it is ready when the engine is
                else:
                    version = await self._bring(adapter, limits, epoch)
                    if (adapter, limits) == (self._desired, self._limits):
                        self._point_at(version)
                        self._last_good = adapter
                self._forget_refusal()
                return None
        except EngineDown:
            self._loader.watch.suspect()
            return _FIRST_RETRY_SECONDS
        except AdapterRefused as refusal:
            self._note(refusal, adapter, files)
        except Exception as error:
            _log.exception("cannot serve %s", adapter.loaded_name)
            self._note(
                AdapterRefused(AdapterReason.INTERNAL_ERROR, f"{type(error).__name__}: {error}"),
                adapter,
                files,
            )
        if epoch is not None:
            await self._fall_back(limits, epoch)
        may_pass = self._refusal is not None and self._refusal.reason.may_pass
        self._delay = min(2 * self._delay, _LAST_RETRY_SECONDS if may_pass else _LOOK_SECONDS)
        return self._delay

    async def _bring(self, adapter: TableAdapter, limits: Limits, epoch: int) -> Version:
        """The version of an adapter in the engine, loaded if it is not.

        Raises:
            AdapterRefused: it cannot be served.
            EngineDown: the engine went away.
        """
        async with self._engine_lock:
            if adapter.digest in self._loaded:
                return self._loaded[adapter.digest]
            self._busy_names.add(adapter.loaded_name)
            try:
                path = await self._loader.load(adapter, limits)
                template = await asyncio.to_thread(chat_template, path, limits.base_path)
                end = await self._loader.end_of(path, limits.base_path)
            finally:
                self._busy_names.discard(adapter.loaded_name)
            if self._loader.watch.epoch != epoch:
                raise EngineDown("the engine restarted while it loaded an adapter")
            version = Version(self.name, adapter.loaded_name, adapter, path, template, end)
            self._loaded[adapter.digest] = version
            _log.info("loaded %s", adapter.loaded_name)
            return version

    def _point_at(self, version: Version | None) -> None:
        """Flip the alias: no await between a request's look-up and its count, so no request sees a gap."""
        self.serving = version
        for old in self._loaded.values():
            if old is not version and not old.retiring:
                old.retiring = True
                task = asyncio.create_task(self._retire(old))
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)

    async def _retire(self, old: Version) -> None:
        """Unload a version once its last request is done, unless the alias has come back to it."""
        await old.requests.idle()
        async with self._engine_lock:
            old.retiring = False
            if self.serving is old or self._loaded.get(old.digest or "") is not old:
                return None
            if old.requests.count:  # taken up again and left again while we waited for the lock
                return self._point_at(self.serving)
            self._busy_names.add(old.engine_name)
            del self._loaded[old.digest or ""]
            try:
                await self._loader.engine.unload(old.engine_name)
                if old.path:
                    await asyncio.to_thread(shutil.rmtree, old.path)
                _log.info("unloaded %s", old.engine_name)
            except (EngineDown, EngineFailed, EngineSlow, OSError) as error:
                _log.warning("cannot unload %s, the next sweep will: %s", old.engine_name, error)
            finally:
                self._busy_names.discard(old.engine_name)
                self._wake.set()
        return None

    def _note(self, refusal: AdapterRefused, adapter: TableAdapter, files: str | None) -> None:
        self._loader.metrics.refused.labels(refusal.reason).inc()
        if adapter != self._desired:
            return
        if str(self._refusal) != str(refusal):
            _log.warning("cannot serve %s: %s: %s", adapter.loaded_name, refusal.reason, refusal)
        self._refusal, self._refused_files = refusal, files
        self._tries += 1

    async def _fall_back(self, limits: Limits, epoch: int) -> None:
        """If the desired version cannot be served after an engine's restart, serve what answered before."""
        if self.serving:
            return self._point_at(self.serving)  # versions loaded meanwhile are retired
        if not self._last_good or self._last_good == self._desired:
            return None
        try:
            self._point_at(await self._bring(self._last_good, limits, epoch))
        except AdapterRefused as refusal:
            _log.warning("cannot serve %s either: %s", self._last_good.loaded_name, refusal)
        except EngineDown:
            self._loader.watch.suspect()
        return None

    def _forget_refusal(self) -> None:
        self._refusal, self._refused_files, self._tries = None, None, 0
        self._delay = _FIRST_RETRY_SECONDS
