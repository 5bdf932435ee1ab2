"""Puts the alias in the place of the engine's name, in JSON and in streams of server-sent events.

Quotes inside a JSON string are escaped, so the bytes `"model":"NAME"` are always a key and its value. Nothing
is parsed unless the engine's name stands elsewhere, as in its error messages.
"""

import json
from typing import Any

_END = b"\n\n"


class Renamer:
    """Renames in one answer. Pieces of a stream may be cut anywhere."""

    def __init__(self, engine_name: str, alias: str) -> None:
        self._engine_name, self._alias = engine_name, alias
        self._name = engine_name.encode()
        self._old, self._new = (b'"model":' + json.dumps(n).encode() for n in (engine_name, alias))
        self._nothing = engine_name == alias
        self._rest = b""

    def whole(self, text: bytes) -> bytes:
        """Rename in a whole JSON text."""
        if self._nothing:
            return text
        text = text.replace(self._old, self._new)
        return self._parsed(text) if self._name in text else text

    def feed(self, piece: bytes) -> bytes:
        """The events that are complete now; the rest is kept for the next piece."""
        if self._nothing:
            return piece
        done, end, self._rest = (self._rest + piece).rpartition(_END)
        return self._events(done + end)

    def flush(self) -> bytes:
        """What is left when the stream ends without a blank line."""
        rest, self._rest = self._rest, b""
        return self._events(rest)

    def _events(self, events: bytes) -> bytes:
        events = events.replace(self._old, self._new)
        if self._name not in events:
            return events
        return b"".join(self._line(line) for line in events.splitlines(keepends=True))

    def _line(self, line: bytes) -> bytes:
        if not line.startswith(b"data:") or self._name not in line:
            return line
        return b"data: " + self._parsed(line[5:].strip()) + b"\n"

    def _parsed(self, text: bytes) -> bytes:
        try:
            answer = json.loads(text)
        except ValueError:
            return text
        if isinstance(answer, dict):
            self._rename(answer)
        return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")

    def _rename(self, answer: dict[str, Any]) -> None:
        if answer.get("model") == self._engine_name:
            answer["model"] = self._alias
        error = answer.get("error")
        if isinstance(error, dict) and isinstance(error.get("message"), str):
            error["message"] = error["message"].replace(self._engine_name, self._alias)


def event_bytes(event: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + _END
