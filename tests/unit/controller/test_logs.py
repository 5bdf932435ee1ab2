"""One JSON object per line, which names the resource that it is about."""

import asyncio
import json
import logging
import sys

from kubetune.controller import logs


def line(message: str, *arguments: object, exc_info: object = None) -> dict[str, str]:
    record = logging.LogRecord("kubetune.x", logging.WARNING, __file__, 1, message, arguments, exc_info)  # type: ignore[arg-type]
    text = logs.JsonFormatter().format(record)
    assert "\n" not in text
    return dict(json.loads(text))


def test_a_line():
    found = line("%d lines\nof »text«", 2)
    assert (found["level"], found["logger"], found["message"]) == (
        "warning",
        "kubetune.x",
        "2 lines\nof »text«",
    )
    assert found["time"].endswith("+00:00")
    assert "resource" not in found


def test_a_traceback_stays_on_its_line():
    try:
        raise ValueError("odd")
    except ValueError:
        assert "ValueError: odd" in line("failed", exc_info=sys.exc_info())["traceback"]


async def test_each_task_names_its_own_resource():
    async def work(name: str) -> str:
        logs.resource.set(name)
        await asyncio.sleep(0)
        return line("x")["resource"]

    assert await asyncio.gather(*(asyncio.create_task(work(name)) for name in "ab")) == ["a", "b"]
