"""HTTP requests of a source: redirects hop by hop, statuses as errors that say what to do, retries.

Redirects are followed here and not by the library, because each hop is checked, and credentials are only sent
to the host that they are for. A proxy is used if the environment names one. Names are checked before it is
asked; the addresses that they resolve to are for the proxy to check.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
from yarl import URL

from kubetune_trainer.errors import DataError, StorageError
from kubetune_trainer.log import say
from kubetune_trainer.sources.guard import GuardedResolver, check_host
from kubetune_trainer.sources.remote import Request
from kubetune_trainer.sources.secret import AUTHORITY, Secret

T = TypeVar("T")
REDIRECTS = 5
TRIES = 6
"""Failures in a row, without a byte received in between."""
BACKOFF = 1.0
"""Seconds before the second try; doubled each time, up to LONGEST."""
LONGEST = 30.0
CONNECT_SECONDS, SILENCE_SECONDS = 20.0, 60.0
FAREWELL_SECONDS = 0.25
ERROR_BYTES = 65_536
_REDIRECTING = {301, 302, 303, 307, 308}
_PASSING = {408, 425, 429, 500, 502, 503, 504}


class Passing(Exception):
    """A failure that may be gone at the next try."""

    def __init__(self, problem: str, seconds: float | None = None) -> None:
        super().__init__(problem)
        self.seconds = seconds
        """Seconds after which the server asks for the next try."""


class Changed(Exception):
    """A file is no longer the one that was listed."""


class Explain(Protocol):
    """A scheme's own words about an answer that is an error."""

    def __call__(self, status: int, headers: Mapping[str, str], body: bytes) -> str:
        """What the server says and what to do; empty if it says no more than the status."""
        ...


class SourceClient:
    """Makes the requests for one source."""

    def __init__(self, where: str, secret: Secret, explain: Explain, *, redirects: int = REDIRECTS) -> None:
        self.where, self._secret, self._explain, self._redirects = where, secret, explain, redirects
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close its connections."""
        if self._session:
            await self._session.close()
            # A connection that was cut still says farewell, as TLS asks for, and its loop must not end before
            # (aiohttp's documentation, "Graceful shutdown").
            await asyncio.sleep(FAREWELL_SECONDS)

    @asynccontextmanager
    async def open(
        self, request: Request, method: str = "GET", *, expected: tuple[int, ...] = (200,), **extra: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer with one of the expected statuses, its body not yet read.

        Args:
            request: what is asked for.
            method: of HTTP.
            expected: statuses that are no error.
            extra: headers, with _ for -.

        Raises:
            DataError: another try would not help.
            Passing: another try may help.
        """
        headers = {"Accept-Encoding": "identity", **{k.replace("_", "-"): v for k, v in extra.items()}}
        try:
            response = await self._follow(request, method, headers | dict(request.headers))
            try:
                if response.status not in expected:
                    await self._fail(response)
                yield response
            finally:
                response.release() if response.method == "HEAD" else response.close()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._judged(error) from error

    async def read(self, request: Request, method: str = "GET") -> tuple[Mapping[str, str], bytes]:
        """Headers and body of a small answer, however many tries it takes."""

        async def once() -> tuple[Mapping[str, str], bytes]:
            async with self.open(request, method) as response:
                return response.headers, await response.read()

        return await self.insist(once)

    async def insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Try again with growing pauses.

        Raises:
            StorageError: it failed TRIES times.
        """
        for failures in range(1, TRIES + 1):
            try:
                return await work()
            except Passing as error:
                await self.pause(error, failures)
        raise AssertionError("pause has raised")

    async def pause(self, error: Passing, failures: int) -> None:
        """Wait before the next try.

        Raises:
            StorageError: that was the last one.
        """
        if failures >= TRIES:
            raise StorageError(
                f"{self.where}: {error}, {failures} times in a row: check the server"
            ) from error
        wanted = BACKOFF * 2 ** (failures - 1) * random.uniform(0.75, 1.25)
        seconds = min(LONGEST, max(wanted, error.seconds or 0))
        say("warning", text=f"{self.where}: {error}; try {failures + 1} of {TRIES} in {seconds:.0f} s")
        await asyncio.sleep(seconds)

    async def _follow(self, request: Request, method: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        url, credentials = URL(request.url, encoded=True), dict(request.credentials)
        for _ in range(self._redirects + 1):
            if url.user or url.password or url.scheme not in ("http", "https") or not url.host:
                raise DataError(
                    f"{self.where}: the server redirects to what is no plain address: correct the uri"
                )
            check_host(url.host, self.where)
            response = await self._open_session().request(
                method, url, headers=headers | credentials, allow_redirects=False, proxy=proxy_of(url)
            )
            target = response.headers.get("Location")
            if response.status not in _REDIRECTING or target is None or not self._redirects:
                return response
            response.close()
            following = url.join(URL(target, encoded=True))
            if url.scheme == "https" and following.scheme != "https":
                raise DataError(
                    f"{self.where}: {url.host} redirects from https to {following.scheme}, where anybody "
                    "could "
                    "change the data: correct the uri"
                )
            if following.origin() != url.origin():
                credentials = {}  # for good: a redirect back from there is not ours
            url = following
        raise DataError(f"{self.where}: more than {self._redirects} redirects: correct the uri")

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            authority = self._secret.file(AUTHORITY)
            try:
                context = ssl.create_default_context(cafile=authority)
            except (ssl.SSLError, OSError) as error:
                raise DataError(
                    f"{self.where}: key {AUTHORITY} of {self._secret} holds no PEM certificates: correct it"
                ) from error
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=GuardedResolver(self.where), use_dns_cache=False, ssl=context, limit=8
                ),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=CONNECT_SECONDS,
                    sock_connect=CONNECT_SECONDS,
                    sock_read=SILENCE_SECONDS,
                ),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "kubetune"},
            )
        return self._session

    async def _fail(self, response: aiohttp.ClientResponse) -> None:
        body = await response.content.read(ERROR_BYTES) if response.method != "HEAD" else b""
        status = response.status
        said = self._explain(status, response.headers, body)
        if status in _PASSING or status >= 500:
            after = response.headers.get("Retry-After", "")
            raise Passing(
                f"HTTP {status} from {response.url.host}", float(after) if after.isdecimal() else None
            )
        if status == 412:
            raise Changed
        raise DataError(f"{self.where}: {said or self._plainly(status, response.url.host or '')}")

    def _plainly(self, status: int, host: str) -> str:
        if status == 401 and self._secret.mounted:
            return f"{host} refuses the credentials: correct {self._secret}"
        if status == 401:
            return f"{host} asks for credentials: name a Secret in secretRef"
        if status == 403 and self._secret.mounted:
            return f"{host} forbids it: let the credentials of {self._secret} read it, or correct the uri"
        if status == 403:
            return f"{host} forbids it: name a Secret with credentials in secretRef, or correct the uri"
        if status in (404, 410):
            return f"nothing is there (HTTP {status} from {host}): correct the uri"
        return f"{host} answers with HTTP {status}: correct the uri"

    def _judged(self, error: Exception) -> Exception:
        """An error of the connection, without the URL that the library puts into some of its messages."""
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return Passing(
                f"the proxy {error.request_info.real_url.host} answers with HTTP {error.status}: let it "
                "through, or name the host in NO_PROXY"
            )
        if isinstance(error, aiohttp.ClientProxyConnectionError):
            return Passing(f"the proxy {error.host} cannot be reached: correct HTTPS_PROXY")
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return DataError(
                f"{self.where}: the certificate of {error.host} is not trusted ({error.certificate_error}): "
                "put "
                f"the authority's certificate into key {AUTHORITY} of a Secret and name it in secretRef"
            )
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return Passing(f"the name {error.host} cannot be resolved")
        if isinstance(error, aiohttp.ClientConnectorError):
            return Passing(f"{error.host} cannot be reached ({error.os_error.strerror or error.os_error})")
        if isinstance(error, TimeoutError):
            return Passing("the server is silent")
        if isinstance(error, aiohttp.InvalidURL):
            return DataError(f"{self.where}: the server redirects to what is no address: correct the uri")
        return Passing(f"the connection broke ({type(error).__name__})")


def proxy_of(url: URL) -> str | None:
    """The proxy for a host by HTTP_PROXY, HTTPS_PROXY and NO_PROXY; None: no proxy."""
    proxies = getproxies_environment()
    if proxy_bypass(url.authority, proxies):
        return None
    return proxies.get(url.scheme)


def no_words(status: int, headers: Mapping[str, str], body: bytes) -> str:
    """`Explain` for servers that say nothing of their own: always empty."""
    return ""
