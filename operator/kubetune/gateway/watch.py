"""Watches the engine, and tells one process of it from the next: a new process has no adapters.

An epoch is the life of one engine process as seen from here. It begins when the engine answers, lists the
base and has generated a token; it ends when the engine is gone, or lists no longer what was loaded.
"""

import asyncio
import logging
from collections.abc import Callable, Set
from contextlib import suppress

from kubetune.gateway.engine import Engine, EngineDown, EngineFailed, EngineSlow, Model

_log = logging.getLogger(__name__)
_ANSWER_SECONDS = 3.0
_BAD_ANSWERS = 5
"""So many answers too late or wrong in a row mean that the engine hangs."""


class EngineWatch:
    """The engine's epoch, kept up to date by `run`."""

    def __init__(self, engine: Engine, *, poll_seconds: float) -> None:
        self._engine = engine
        self._poll_seconds = poll_seconds
        self._doubt = asyncio.Event()
        self._bad = 0
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
        on_models: Callable[[dict[str, Model]], None],
    ) -> None:
        """Poll for ever.

        base: name of the base, once the table is known. loaded: names that must be listed in this epoch.
        on_change: the epoch began or ended. on_models: a fresh listing, in the midst of an epoch.
        """
        while True:
            expected = loaded()
            try:
                models = await self._engine.models(within=_ANSWER_SECONDS)
                self._bad = 0
            except (EngineSlow, EngineFailed) as error:
                self._bad += 1
                if self._bad >= _BAD_ANSWERS:
                    self._end(str(error), on_change)
            except EngineDown as error:
                self._end(str(error), on_change)
            else:
                # What was loaded before the listing and still is after it, must be in it.
                if self.epoch is not None and not (expected & loaded()) <= models.keys():
                    self._end("the engine has restarted", on_change)
                if self.epoch is None:
                    await self._try_begin(base(), models, on_change)
                else:
                    on_models(models)
            self._doubt.clear()
            with suppress(TimeoutError):  # the usual case: no doubt arose, time for the next look
                async with asyncio.timeout(self._poll_seconds):
                    await self._doubt.wait()

    async def _try_begin(
        self, base: str | None, models: dict[str, Model], on_change: Callable[[], None]
    ) -> None:
        if base is None:
            return
        if base not in models:
            self.why_down = f"the engine does not serve {base}, but {', '.join(models)}"
            return
        try:
            await self._engine.generate_one_token(base)
        except (EngineDown, EngineSlow, EngineFailed) as error:
            self.why_down = f"the engine cannot generate: {error}"
            return
        self._last += 1
        self.epoch = self._last
        _log.info("engine answers (epoch %d)", self.epoch)
        on_change()

    def _end(self, why: str, on_change: Callable[[], None]) -> None:
        self.why_down = f"the engine does not answer: {why}"
        if self.epoch is None:
            return
        _log.warning("engine lost: %s", why)
        self.epoch = None
        self.restarts += 1
        on_change()
