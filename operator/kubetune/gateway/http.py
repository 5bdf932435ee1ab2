"""The server's side of HTTP: every answer has OpenAI's form, whatever was sent."""

import asyncio
import zlib
from collections.abc import Callable
from typing import Any

from aiohttp import web

from kubetune.gateway.errors import BadRequest, Internal, TooLarge, Undecodable

_SETTINGS: dict[str, Any] = {"access_log": None, "auto_decompress": False}
_DECODERS: dict[str, tuple[int, ...]] = {  # zlib's windows; what is called deflate comes in two forms
    "gzip": (31,),
    "x-gzip": (31,),
    "deflate": (15, -15),
}


class _Protocol(web.RequestHandler):
    """Answers what is not HTTP, and unforeseen errors."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """In OpenAI's form; the superclass logs, and gives up where an answer has begun."""
        super().handle_error(request, status, exc, message)
        error = Internal() if status >= 500 else BadRequest(f"The request is not valid HTTP: {message}")
        response = error.response()
        response.force_close()
        return response


class Runner(web.AppRunner):
    """Runs an application whose handlers get bodies as they were sent, and are cancelled when clients go."""

    def __init__(self, app: web.Application) -> None:
        super().__init__(app, handler_cancellation=True, **_SETTINGS)

    @property
    def server(self) -> Callable[[], web.RequestHandler] | None:  # type: ignore[override]
        """What makes a protocol for each connection."""
        server, loop = super().server, asyncio.get_running_loop()
        if server is None:
            return None
        return lambda: _Protocol(server, loop=loop, **_SETTINGS)


async def expect(request: web.Request) -> None:
    """Tell a client that waits for it to send its body; other expectations are left unmet."""
    if request.headers["Expect"].lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer has not begun


async def read_body(request: web.Request, *, max_bytes: int) -> bytes:
    """The body, decoded.

    Raises:
        BadRequest: it is not what it claims to be, or ends too early.
        Undecodable: it is encoded in a way that is not known here.
        TooLarge: it exceeds the limit, decoded or not.
    """
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise TooLarge(f"The request is too large: at most {max_bytes} bytes.") from error
    except (web.RequestPayloadError, ConnectionError, ValueError) as error:
        raise BadRequest(f"The body cannot be read: {error}") from error
    named = request.headers.getall("Content-Encoding", [])
    for encoding in reversed([e.strip().lower() for line in named for e in line.split(",")]):
        if encoding not in ("", "identity"):
            body = _decode(body, encoding, max_bytes)
    return body


def _decode(body: bytes, encoding: str, max_bytes: int) -> bytes:
    if encoding not in _DECODERS:
        raise Undecodable(f"Content-Encoding {encoding} is not known: send gzip, deflate or none.")
    problem: Exception | None = None
    for window in _DECODERS[encoding]:
        decoder = zlib.decompressobj(window)
        try:
            decoded = decoder.decompress(body, max_bytes + 1)
        except zlib.error as error:
            problem = error
            continue
        if len(decoded) > max_bytes:
            raise TooLarge(f"The request is too large: at most {max_bytes} bytes.")
        if decoder.eof and not decoder.unused_data:
            return decoded
    raise BadRequest(
        f"The body is not the {encoding} that its Content-Encoding says: {problem or 'it is cut'}"
    )
