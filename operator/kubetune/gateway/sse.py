"""Server-sent events, as far as a proxy must know them: an event is lines, ended by a blank line."""

import json
from collections.abc import Callable
from typing import Any

_END = b"\n\n"


class EventRewriter:
    """Rewrites the JSON object in each `data:` line of a stream that arrives in arbitrary pieces."""

    def __init__(self, rewrite: Callable[[dict[str, Any]], None]) -> None:
        self._rewrite = rewrite
        self._rest = b""

    def feed(self, piece: bytes) -> bytes:
        """The events that are complete now, rewritten; the rest is kept for the next piece."""
        done, end, rest = (self._rest + piece).rpartition(_END)
        self._rest = rest
        return b"".join(self._line(line) for line in (done + end).splitlines(keepends=True))

    def flush(self) -> bytes:
        """What is left when the stream ends without a blank line."""
        rest, self._rest = self._rest, b""
        return self._line(rest) if rest else b""

    def _line(self, line: bytes) -> bytes:
        if not line.startswith(b"data:"):
            return line
        try:
            event = json.loads(line[5:])
        except ValueError:
            return line  # "[DONE]"
        if not isinstance(event, dict):
            return line
        self._rewrite(event)
        return event_bytes(event)[:-1]  # the blank line follows by itself


def event_bytes(event: dict[str, Any]) -> bytes:
    """One event."""
    return b"data: " + json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + _END
