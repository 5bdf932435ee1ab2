"""Accepts connections for the receiver, and leaves the event loop time for its other work.

The receiver shares its event loop with the reconcilers, and every pod of the cluster can connect to it. So
one connection is accepted per turn of the loop, a peer has few at a time, all together are bounded, and each
ends after a while, however slowly it is written to.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable

log = logging.getLogger(__name__)

CONNECTIONS = 256
PER_PEER = 16
LIFETIME_SECONDS = 15.0
"""For handshake, request and answer together; a trainer gives up after 5."""
HANDSHAKE_SECONDS = 5.0
PAUSE_SECONDS = 1.0
"""After an error of the operating system, such as too many open files."""


class Listener:
    """Serves connections of a socket by a protocol each."""

    def __init__(self, port: int, protocol: Callable[[], asyncio.Protocol], tls: ssl.SSLContext) -> None:
        self._protocol = protocol
        self._tls = tls
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._peers: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self._socket = socket.create_server(("", port), family=family, backlog=128, dualstack_ipv6=both)
        self._socket.setblocking(False)

    async def run(self) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._slots.acquire()
                try:
                    connection, address = await loop.sock_accept(self._socket)
                except OSError as error:
                    self._slots.release()
                    log.warning("cannot accept connections: %s", error)
                    await asyncio.sleep(PAUSE_SECONDS)
                    continue
                task = loop.create_task(self._serve(connection, str(address[0])))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                # Accepting does not wait for anything while peers queue up: let the others have their turn.
                await asyncio.sleep(0)
        finally:
            for task in self._tasks:
                task.cancel()
            self._socket.close()

    async def _serve(self, connection: socket.socket, peer: str) -> None:
        """One connection, from its first byte to its last."""
        transport: asyncio.BaseTransport | None = None
        ended = asyncio.Event()
        self._peers[peer] += 1
        try:
            if self._peers[peer] > PER_PEER:
                return
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(LIFETIME_SECONDS):
                    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                        lambda: _Watched(self._protocol(), ended.set),
                        connection,
                        ssl=self._tls,
                        ssl_handshake_timeout=HANDSHAKE_SECONDS,
                    )
                    await ended.wait()
        finally:
            # First of all: whatever happens below, the place is free again.
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]
            self._slots.release()
            if not isinstance(transport, asyncio.Transport):
                connection.close()
            elif not ended.is_set():
                # Python 3.11.2 raises here if the TLS transport has ended.
                transport.abort()


class _Watched(asyncio.Protocol):
    """A protocol that also tells when its connection has ended."""

    def __init__(self, inner: asyncio.Protocol, ended: Callable[[], None]) -> None:
        self._inner = inner
        self._ended = ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
