"""The table is read again when the kubelet swaps it."""

import asyncio
import json
import os
from pathlib import Path

from kubetune.api.table import Table, TableBase, table_digest
from kubetune.gateway.table import tables


def table(rank: int) -> Table:
    return Table(base_model=TableBase(name="base", path="/b"), max_lora_rank=rank)


def swap(mount: Path, number: int, text: str) -> None:
    """As the kubelet does it: a new folder, and one atomic rename of the link to it."""
    (mount / f"..v{number}").mkdir(parents=True)
    (mount / f"..v{number}" / "table.json").write_text(text)
    os.symlink(f"..v{number}", mount / "..tmp")
    os.rename(mount / "..tmp", mount / "..data")
    if not (mount / "table.json").is_symlink():
        os.symlink("..data/table.json", mount / "table.json")


async def test_every_swap_is_seen_and_a_malformed_table_is_passed_over(tmp_path: Path, caplog):
    seen = tables(tmp_path / "table.json", poll_seconds=0.01)
    first = asyncio.ensure_future(anext(seen))
    await asyncio.sleep(0.05)
    assert not first.done()
    swap(tmp_path, 1, table(1).canonical())
    assert await first == (table(1), table(1).digest())

    second = asyncio.ensure_future(anext(seen))
    swap(tmp_path, 2, '{"baseModel": 3}')
    await asyncio.sleep(0.05)
    assert not second.done()
    assert "malformed" in caplog.text
    swap(tmp_path, 3, table(3).canonical())
    assert await second == (table(3), table(3).digest())


async def test_what_a_newer_operator_adds_is_ignored_and_part_of_the_digest(tmp_path: Path):
    newer = json.dumps(table(1).wire() | {"mixes": [{"name": "m"}]})
    swap(tmp_path, 1, newer)
    read, digest = await anext(tables(tmp_path / "table.json", poll_seconds=0.01))
    assert read == table(1)
    assert digest == table_digest(newer.encode()) != table(1).digest()
