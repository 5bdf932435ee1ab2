"""Watches the engine, and tells one process of it from the next: a new process has no adapters.

An epoch is the life of one engine process as seen from here. It begins when the engine answers, lists the
base and has generated a token. It ends when nothing listens any more, when the engine says that it is dead,
when it no longer lists what was loaded, or when it has given no sign of life for long. A busy engine is slow
in everything and breaks connections now and then: neither ends an epoch, and requests wait.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Set
from contextlib import suppress

from kubetune.gateway.engine import EngineClient, EngineDown, EngineFailed, EngineSlow, ServedModel

_log = logging.getLogger(__name__)
_ANSWER_SECONDS = 15.0
_SILENT_SECONDS = 60.0
"""The engine hangs if no byte of any answer, also to requests in flight, has come for so long."""
_DOWN_LOOKS, _DOWN_SECONDS = 3, 0.1
"""The engine is gone when so many looks in a row, so far apart, find that."""
_BAD_ANSWERS = 5
"""So many errors in a row mean that it is broken."""


class EngineWatch:
    """The engine's epoch, kept up to date by `run`."""

    def __init__(self, engine: EngineClient, *, poll_seconds: float) -> None:
        self._engine = engine
        self._poll_seconds = poll_seconds
        self._doubt = asyncio.Event()
        self._bad = 0  # errors in a row
        self._down = 0  # looks in a row that found it gone
        self._computes = False  # this process has generated a token
        self._last = 0
        self.epoch: int | None = None
        """None while the engine is down."""
        self.why_down = "the engine is starting"
        """For people, while it is down."""
        self.restarts = 0
        """Epochs that ended."""

    def suspect(self) -> None:
        """Look at once: a request has failed in a way that suggests that the engine is gone."""
        self._doubt.set()

    async def run(
        self,
        base: Callable[[], str | None],
        loaded: Callable[[], Set[str]],
        on_change: Callable[[], None],
        on_models: Callable[[dict[str, ServedModel]], None],
    ) -> None:
        """Poll for ever.

        base: name of the base, once the table is known. loaded: names that must be listed in this epoch.
        on_change: the epoch began or ended. on_models: a fresh listing, in the midst of an epoch.
        """
        while True:
            await self._look(base, loaded, on_change, on_models)
            if 0 < self._down < _DOWN_LOOKS:
                await asyncio.sleep(_DOWN_SECONDS)
                continue
            self._doubt.clear()
            with suppress(TimeoutError):  # the usual case: no doubt arose, time for the next look
                async with asyncio.timeout(self._poll_seconds):
                    await self._doubt.wait()

    async def _look(
        self,
        base: Callable[[], str | None],
        loaded: Callable[[], Set[str]],
        on_change: Callable[[], None],
        on_models: Callable[[dict[str, ServedModel]], None],
    ) -> None:
        expected = loaded()
        try:
            models = await self._engine.models(within=_ANSWER_SECONDS)
        except EngineDown as error:
            self._down += 1
            if self._down >= _DOWN_LOOKS:
                self._end(str(error), on_change, gone=True)
            return
        except EngineSlow as error:
            self._down = 0
            if time.monotonic() - self._engine.last_heard >= _SILENT_SECONDS:
                self._end(str(error), on_change, gone=False)
            return
        except EngineFailed as error:
            self._down = 0
            self._bad += 1
            if self._bad >= _BAD_ANSWERS:
                self._end(str(error), on_change, gone=False)
            return
        self._bad = self._down = 0
        # What was loaded before the listing and still is after it, must be in it.
        if self.epoch is not None and not (expected & loaded()) <= models.keys():
            self._end("the engine has restarted", on_change, gone=True)
        if self.epoch is None:
            await self._try_begin(base(), models, on_change)
        else:
            on_models(models)

    async def _try_begin(
        self, base: str | None, models: dict[str, ServedModel], on_change: Callable[[], None]
    ) -> None:
        if base is None:
            return
        if base not in models:
            self.why_down = f"the engine does not serve {base}, but {', '.join(models)}"
            return
        if not self._computes:
            try:
                await self._engine.generate_one_token(base)
            except (EngineDown, EngineSlow, EngineFailed) as error:
                self.why_down = f"the engine cannot generate: {error}"
                return
            self._computes = True
        self._last += 1
        self.epoch = self._last
        _log.info("engine answers (epoch %d)", self.epoch)
        on_change()

    def _end(self, why: str, on_change: Callable[[], None], *, gone: bool) -> None:
        """End the epoch. `gone`: the process is. One that only hung need not prove again that it computes."""
        self._computes = self._computes and not gone
        self.why_down = f"the engine does not answer: {why}"
        if self.epoch is None:
            return
        _log.warning("engine lost: %s", why)
        self.epoch = None
        self.restarts += 1
        on_change()
