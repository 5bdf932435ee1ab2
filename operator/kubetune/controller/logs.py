"""Structured logs: one JSON object per line."""

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime

resource: ContextVar[str | None] = ContextVar("resource", default=None)
"""The resource that a task works on: it is named in all that is logged meanwhile."""


class JsonFormatter(logging.Formatter):
    """A record as JSON: time, level, logger, message, the resource it is about, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (about := resource.get()) is not None:
            line["resource"] = about
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure() -> None:
    """Log to standard error; of the libraries, only what somebody should look at."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("kopf", "aiohttp.access", "kubernetes"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
