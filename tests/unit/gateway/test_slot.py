"""The task of one alias, alone."""

import asyncio
import shutil
from pathlib import Path

import pytest

from kubetune.gateway.engine import EngineClient
from kubetune.gateway.loader import Loader
from kubetune.gateway.metrics import Metrics
from kubetune.gateway.slot import Slot
from kubetune.gateway.verify import Limits
from kubetune.gateway.watch import EngineWatch
from tests.fixtures.adapters import entry, write_adapter


@pytest.mark.parametrize("steps", range(5))
async def test_it_ends_when_told_to_though_news_arrives_in_the_same_moment(tmp_path: Path, steps: int):
    engine = EngineClient("http://127.0.0.1:1")
    loader = Loader(engine, EngineWatch(engine, poll_seconds=1), Metrics(), tmp_path / "cache", max_bytes=1)
    missing = entry("a", write_adapter(tmp_path / "a"), root=tmp_path)
    shutil.rmtree(missing.path)
    slot = Slot("a", loader)
    slot.want(missing, Limits(base_digest="sha256:" + "0" * 64, base_path=tmp_path, max_rank=16))
    task = asyncio.create_task(slot.run())
    async with asyncio.timeout(5):
        while slot.phase != "Failed":  # then it waits, for news or for the next try
            await asyncio.sleep(0.01)
    slot.engine_changed()
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=2)
    assert task.cancelled()
