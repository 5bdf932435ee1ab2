"""Connections that come in masses, or slowly: real sockets, real TLS."""

import asyncio
import pkgutil
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from kubetune.controller.reconciler import utc_now
from kubetune.progress import identity, listen
from kubetune.progress.certificates import issue
from kubetune.progress.listen import PER_PEER, Listener
from tests.fixtures.gateway import free_port

pytestmark = pytest.mark.unit


ALL = 64


class Echo(asyncio.Protocol):
    """Answers a line with itself, and hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.line = b""

    def connection_lost(self, exc: Exception | None) -> None:
        self.line = b""

    def data_received(self, data: bytes) -> None:
        self.line += data
        if self.line.endswith(b"\n"):
            self.transport.write(self.line)
            self.transport.close()


@dataclass
class Server:
    port: int
    tls: ssl.SSLContext
    listener: Listener

    async def ask(self, peer: str = "127.0.0.1") -> bytes:
        """One exchange; empty if there was none."""
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=self.tls, local_addr=(peer, 0)
            )
        except (OSError, ssl.SSLError):
            return b""
        writer.write(b"hello\n")
        try:
            return await reader.read()
        except OSError:
            return b""
        finally:
            writer.transport.abort()

    async def silent(self, peer: str) -> socket.socket:
        """A connection over which nothing comes, not even a handshake."""
        client = socket.socket()
        client.setblocking(False)
        client.bind((peer, 0))
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.port))
        return client


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr(listen, "CONNECTIONS", ALL)
    made = issue(["localhost"], utc_now())
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    identity.load(tls, made)
    port = free_port()
    listener = Listener(port, Echo, tls)
    trusting = ssl.create_default_context(cadata=made.authority)
    trusting.check_hostname = False
    task = asyncio.create_task(listener.run())
    yield Server(port, trusting, listener)
    task.cancel()
    await asyncio.wait({task})


async def test_an_exchange(server: Server):
    assert await server.ask() == b"hello\n"
    assert await asyncio.gather(*[server.ask() for _ in range(PER_PEER)]) == [b"hello\n"] * PER_PEER


async def test_a_peer_has_few_connections_at_a_time(server: Server):
    clients = [await server.silent("127.0.0.9") for _ in range(3 * PER_PEER)]
    loop = asyncio.get_running_loop()

    async def is_closed(client: socket.socket) -> bool:
        try:
            return await asyncio.wait_for(loop.sock_recv(client, 1), 0.2) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    closed = await asyncio.gather(*map(is_closed, clients))
    assert closed == [False] * PER_PEER + [True] * 2 * PER_PEER
    assert await server.ask("127.0.0.9") == b""
    assert await server.ask("127.0.0.8") == b"hello\n"
    for client in clients:
        client.close()
    await asyncio.sleep(0.1)
    assert await server.ask("127.0.0.9") == b"hello\n"


async def test_all_together_are_bounded_and_none_lasts(monkeypatch: pytest.MonkeyPatch, server: Server):
    monkeypatch.setattr(listen, "LIFETIME_SECONDS", 1.0)
    clients = [await server.silent(f"127.0.1.{n // PER_PEER + 1}") for n in range(ALL)]
    slow = [await server.silent("127.0.2.1")]
    waiting = asyncio.create_task(server.ask("127.0.2.2"))
    await asyncio.sleep(0.3)
    # No room: it waits its turn, which comes when those who said nothing are cut off.
    assert not waiting.done()
    assert await asyncio.wait_for(waiting, 5) == b"hello\n"
    for client in (*clients, *slow):
        client.close()


async def test_a_flood_of_connections_leaves_others_their_turn(server: Server):
    """Those who share the event loop go on: that is where the reconcilers are."""
    turns = 0

    async def work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    flood = [asyncio.create_task(server.ask(f"127.0.3.{n % 250 + 1}")) for n in range(200)]
    worker = asyncio.create_task(work())
    assert await asyncio.gather(*flood) == [b"hello\n"] * 200
    worker.cancel()
    # A turn for each connection at least: accepting, handshakes and all.
    assert turns > 200


async def test_a_peer_may_come_again_for_ever(server: Server, monkeypatch: pytest.MonkeyPatch):
    kind = "asyncio.sslproto._SSLProtocolTransport"
    abort = pkgutil.resolve_name("asyncio.sslproto:_SSLProtocolTransport.abort")

    def as_in_python_3_11_2(transport: Any) -> None:
        if transport.is_closing() and transport.get_extra_info("sockname")[1] == server.port:
            raise AttributeError("'NoneType' object has no attribute '_abort'")
        abort(transport)

    monkeypatch.setattr(f"{kind}.abort", as_in_python_3_11_2)
    for number in range(2 * PER_PEER):
        assert await server.ask() == b"hello\n", f"connection {number}"
