"""Reads the desired table from its mount and notices when the kubelet replaces it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from pydantic import ValidationError

from kubetune.api.table import Table, table_digest

_log = logging.getLogger(__name__)


async def tables(path: Path, *, poll_seconds: float = 0.2) -> AsyncIterator[tuple[Table, str]]:
    """Every valid table that the file holds, and its digest, one after the other, for ever.

    A table that cannot be read is reported once and passed over; the one before it stays in force.
    """
    seen: tuple[int, int, int] | None = None
    while True:
        mark = _mark(path)
        if mark is not None and mark != seen:
            seen = mark
            try:
                text = await asyncio.to_thread(path.read_bytes)
                # The operator may be newer: an upgrade leaves serving pods as they are.
                yield Table.model_validate_json(text, extra="ignore"), table_digest(text)
            except ValidationError as error:
                _log.error("the table is malformed and is passed over: %s", error)
            except FileNotFoundError:
                seen = None  # in the midst of a swap
        await asyncio.sleep(poll_seconds)


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Tells one file from the next; the kubelet swaps a link above it. None while it is not mounted."""
    try:
        info = path.stat()
    except FileNotFoundError:
        return None
    return info.st_ino, info.st_mtime_ns, info.st_size
