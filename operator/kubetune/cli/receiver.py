"""The progress receiver of a replica: its certificate and its port."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar
from urllib.parse import urlsplit

from aiohttp import web

from kubetune.controller.client import Client
from kubetune.controller.errors import Conflict, Unavailable
from kubetune.controller.options import OperatorOptions
from kubetune.progress import identity, server
from kubetune.progress.certificates import Identity
from kubetune.progress.listen import Listener
from kubetune.progress.review import Reviewer
from kubetune.progress.writer import Writer

log = logging.getLogger(__name__)

T = TypeVar("T")
RETRY_SECONDS = 2.0


class AuthorityReplaced(Exception):
    """Trainers were given another authority than the one that the receivers have now."""


class Receiver:
    """Receives progress over TLS."""

    def __init__(self, client: Client, options: OperatorOptions) -> None:
        self.reviewer = Reviewer(client, options.watch_namespaces)
        self._client = client
        self._options = options
        self._names = _names(options.progress_url)
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._presented: Identity | None = None
        self._listener: Listener | None = None

    async def prepare(self) -> str:
        """Take up the certificate, made if need be; returns the authority that trainers must trust."""
        known = self._presented
        presented = await _patiently(
            lambda: identity.ensure(self._client, self._options.namespace, self._names, known)
        )
        identity.load(self._tls, presented)
        self._presented = presented
        return presented.authority

    async def listen(self, stack: AsyncExitStack) -> None:
        """Open the port."""
        runner = server.runner(server.application(self.reviewer, Writer(self._client)))
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        assert runner.server, "it is set up"
        self._listener = Listener(self._options.progress_port, runner.server, self._tls)

    async def serve(self) -> None:
        """Take posts for ever, once the port is open."""
        assert self._listener, "it listens first"
        await self._listener.run()

    async def renew(self) -> None:
        """Go on taking up the certificate for ever.

        Raises:
            AuthorityReplaced: the process should end, and the next one give trainers the new one.
        """
        begun_with = self._presented
        assert begun_with is not None, "it is prepared first"
        authority = begun_with.authority
        while authority == begun_with.authority:
            await asyncio.sleep(identity.CHECK_SECONDS)
            authority = await self.prepare()
        raise AuthorityReplaced(f"the authority in Secret {identity.SECRET} is another now")


async def listen(stack: AsyncExitStack, app: web.Application, port: int) -> None:
    """Serve a plain-HTTP application until the stack is closed."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, port=port).start()


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Call until the API server answers."""
    while True:
        try:
            return await call()
        except (Unavailable, Conflict) as error:
            log.warning("%s; again in %.0f s", error.message, RETRY_SECONDS)
            await asyncio.sleep(RETRY_SECONDS)


def _names(url: str) -> list[str]:
    """DNS names of the receiver inside a cluster, of its URL `https://<service>.<namespace>.svc:<port>`."""
    host = urlsplit(url).hostname or "localhost"
    return [host, f"{host}.cluster.local"] if host.endswith(".svc") else [host]
