"""A gateway in this process, before a double of the engine."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import uvloop

from kubetune.api.table import TableAdapter, TableBase
from kubetune.artifacts.digest import folder_digest
from kubetune.gateway.options import GatewayOptions
from kubetune.gateway.server import serve
from tests.fixtures.adapters import entry, write_adapter, write_base
from tests.fixtures.gateway import GatewayClient, TableMount, free_port
from tests.unit.gateway.engine_double import EngineDouble


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that gateways run on."""
    return {"uvloop": uvloop.new_event_loop}


@dataclass
class Bench:
    """Everything that a test turns."""

    folder: Path
    engine: EngineDouble
    mount: TableMount
    client: GatewayClient
    options: GatewayOptions
    task: "asyncio.Task[None] | None" = None

    def adapter(self, name: str, version: float = 1, **more) -> TableAdapter:
        """An adapter on the volume."""
        folder = self.folder / "volume" / f"{name}-{version}"
        return entry(name, write_adapter(folder, fill=version, **more), root=self.folder / "volume")

    def start(self) -> None:
        self.task = asyncio.create_task(serve(self.options))

    async def stop(self) -> None:
        """As SIGKILL: at once."""
        if self.task:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
            self.task = None

    async def restart(self) -> None:
        await self.stop()
        self.start()
        await self.listening()

    async def listening(self) -> None:
        for _ in range(500):
            with contextlib.suppress(aiohttp.ClientConnectionError):
                await self.client.state()
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the gateway does not listen")


@contextlib.asynccontextmanager
async def running_bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A gateway and a double of its engine, in the running loop."""
    (tmp_path / "volume").mkdir()
    base = write_base(tmp_path / "volume" / "base")
    engine = EngineDouble(free_port())
    await engine.start()
    mount = TableMount(tmp_path, TableBase(name="base", path=str(base), digest=folder_digest(base)))
    options = GatewayOptions(
        table=mount.path, cache=tmp_path / "cache", engine_url=engine.url, host="127.0.0.1",
        port=free_port(), admin_port=free_port(), max_body_bytes=10_000,
        poll_seconds=0.05, drain_delay_seconds=0.1, drain_seconds=5,
    )  # fmt: skip
    async with aiohttp.ClientSession() as session:
        client = GatewayClient(session, options.port, options.admin_port)
        bench = Bench(tmp_path, engine, mount, client, options)
        bench.start()
        await bench.listening()
        yield bench
        await bench.stop()
    await engine.kill()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running_bench(tmp_path) as bench:
        yield bench
