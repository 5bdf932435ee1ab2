"""All aliases of this pod: the table comes in, the model that answers a name comes out."""

import asyncio
import logging
from pathlib import Path

from kubetune.api.table import GatewayState, Table
from kubetune.gateway.engine import EngineDown, EngineFailed, EngineSlow, ServedModel
from kubetune.gateway.errors import NotServed, ServiceUnavailable, UnknownModel
from kubetune.gateway.loader import Loader
from kubetune.gateway.options import GatewayOptions
from kubetune.gateway.prepare import remove, set_aside, unfinished
from kubetune.gateway.slot import Slot
from kubetune.gateway.table import tables
from kubetune.gateway.verify import Limits
from kubetune.gateway.versions import Version

_log = logging.getLogger(__name__)


class Fleet:
    """The base and its adapters."""

    def __init__(self, loader: Loader, options: GatewayOptions) -> None:
        self._loader = loader
        self._options = options
        self._table: Table | None = None
        self._table_digest: str | None = None
        self._base: Version | None = None
        self._slots: dict[str, Slot] = {}
        self._synced_epoch: int | None = None
        self._swept_epoch: int | None = None
        self._sweeper: asyncio.Task[None] | None = None

    # For requests.

    def lookup(self, model: str) -> Version:
        """The version that answers for a name.

        Raises:
            UnknownModel: the table has no such name.
            NotServed: its adapter was refused for good.
            ServiceUnavailable: the table has the name, but nothing answers for it now.
        """
        if self._table is None or self._base is None:
            raise ServiceUnavailable("The gateway is starting.")
        slot = self._slots.get(model)
        if model != self._base.alias and (slot is None or slot.state is None):
            raise UnknownModel(model, [v.alias for v in self.serving])
        if self._loader.watch.epoch is None:
            raise ServiceUnavailable(
                f"The model `{model}` is not available now: {self._loader.watch.why_down}."
            )
        if slot is None:
            return self._base
        if slot.refused_for_good:
            raise NotServed(f"The adapter `{model}` is not served: {slot.why_not}.")
        if slot.serving is None:
            raise ServiceUnavailable(f"The adapter `{model}` is not loaded: {slot.why_not}.")
        return slot.serving

    @property
    def serving(self) -> list[Version]:
        """What answers now, the base first."""
        if self._loader.watch.epoch is None or self._base is None:
            return []
        return [self._base, *(s.serving for _, s in sorted(self._slots.items()) if s.serving)]

    @property
    def base_name(self) -> str | None:
        """Name of the base, once the table is known."""
        return self._base.alias if self._base else None

    def suspect_engine(self) -> None:
        """Note that a request failed as if the engine were gone."""
        self._loader.watch.suspect()

    # For the operator and the kubelet.

    @property
    def ready(self) -> bool:
        """Whether everything that can be served is served, in the engine process that answers now.

        Once that is reached, adapters that come later do not take the pod out of service.
        """
        epoch = self._loader.watch.epoch
        if epoch is not None and epoch != self._synced_epoch and self._settled:
            self._synced_epoch = epoch
            _log.info("serving %s", ", ".join(v.engine_name for v in self.serving))
        return epoch is not None and epoch == self._synced_epoch

    @property
    def _settled(self) -> bool:
        return self._table is not None and all(slot.settled for slot in self._slots.values())

    @property
    def state(self) -> GatewayState:
        """The answer to GET /state."""
        return GatewayState(
            table_digest=self._table_digest,
            engine_ready=self._loader.watch.epoch is not None,
            message=None if self._loader.watch.epoch is not None else self._loader.watch.why_down,
            adapters=[state for _, slot in sorted(self._slots.items()) if (state := slot.state)],
        )

    def update_gauges(self) -> None:
        """Bring the gauges up to date; called when they are read."""
        metrics, states = self._loader.metrics, self.state.adapters
        for phase in ("Pending", "Loading", "Loaded", "Failed"):
            metrics.adapters.labels(phase).set(sum(s.phase == phase for s in states))
        versions = [v for slot in self._slots.values() for v in slot.versions]
        metrics.loaded.set(len(versions))
        metrics.active.set(sum(v.requests.count > 0 for v in versions))
        metrics.engine_up.set(self._loader.watch.epoch is not None)
        metrics.engine_restarts.set(self._loader.watch.restarts)

    # The tasks.

    async def run(self) -> None:
        """Follow the table and the engine, for ever.

        Raises:
            ExceptionGroup: something unforeseen. The process should end; the kubelet starts it again.
        """
        await asyncio.to_thread(remove, unfinished(self._options.cache))
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._follow_table())
            self._group.create_task(
                self._loader.watch.run(
                    base=lambda: self.base_name,
                    loaded=lambda: {name for slot in self._slots.values() for name in slot.loaded_names},
                    on_change=self._engine_changed,
                    on_models=self._see_models,
                )
            )

    async def _follow_table(self) -> None:
        async for table, digest in tables(self._options.table):
            self._apply(table, digest)

    def _apply(self, table: Table, digest: str) -> None:
        _log.info(
            "table %s: %s",
            digest[:15],
            ", ".join(a.loaded_name for a in table.adapters) or "no adapters",
        )
        self._table, self._table_digest = table, digest
        if self._base is None or self._base.alias != table.base_model.name:
            self._base = Version(table.base_model.name, table.base_model.name)
        limits = Limits(
            base_digest=table.base_model.digest,
            base_path=Path(table.base_model.path),
            max_rank=min(table.max_lora_rank, self._options.max_lora_rank or table.max_lora_rank),
        )
        wanted = {a.name: a for a in table.adapters}
        for name, slot in self._slots.items():
            slot.want(wanted.get(name), limits)
        for name in wanted.keys() - self._slots.keys():
            self._slots[name] = slot = Slot(name, self._loader)
            slot.want(wanted[name], limits)
            self._group.create_task(self._keep(slot), name=f"slot {name}")
        self._loader.watch.suspect()  # the base may be known only now

    async def _keep(self, slot: Slot) -> None:
        while slot.wanted:  # it may be wanted again at the moment when it ends
            await slot.run()
        del self._slots[slot.name]
        self._loader.metrics.forget(slot.name)

    def _engine_changed(self) -> None:
        self._loader.loaded_digests.clear()
        for slot in self._slots.values():
            slot.engine_changed()

    def _see_models(self, models: dict[str, ServedModel]) -> None:
        if not self.ready or not self._settled:
            return
        if self._swept_epoch != self._loader.watch.epoch:
            self._swept_epoch = self._loader.watch.epoch
            stale = set_aside(
                self._options.cache, {name for slot in self._slots.values() for name in slot.copies}
            )
            self._group.create_task(asyncio.to_thread(remove, stale))
        strangers = {m.name for m in models.values() if m.is_adapter}
        strangers -= {name for slot in self._slots.values() for name in slot.names}
        if strangers and (self._sweeper is None or self._sweeper.done()):
            self._sweeper = self._group.create_task(self._unload(strangers))

    async def _unload(self, strangers: set[str]) -> None:
        """Unload from the engine what an earlier gateway process or a failed unload left there."""
        for name in strangers:
            try:
                await self._loader.engine.unload(name)
                _log.info("unloaded %s, which no adapter of the table needs", name)
            except (EngineDown, EngineFailed, EngineSlow) as error:
                _log.warning("cannot unload %s, will try again: %s", name, error)
