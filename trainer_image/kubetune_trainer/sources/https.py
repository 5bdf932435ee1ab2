"""https://host/path: one file. It is resumed if the server tells its version (ETag or Last-Modified)."""

import base64
import re
from collections.abc import Mapping
from functools import partial
from pathlib import PurePosixPath

from yarl import URL

from kubetune_trainer.errors import DataError
from kubetune_trainer.sources.client import SourceClient, no_words
from kubetune_trainer.sources.names import choose_data
from kubetune_trainer.sources.remote import Checksum, RemoteFile, Request
from kubetune_trainer.sources.secret import AUTHORITY, Secret

_WEB_PAGES = ("text/html", "application/xhtml+xml")
_DIGEST = re.compile(r"\b(sha-256|sha-512)=:?([A-Za-z0-9+/=]+):?", re.IGNORECASE)


class Https:
    """A file on a web server."""

    def __init__(self, uri: str, where: str, secret: Secret) -> None:
        self.where, self.place = where, uri
        self._uri, self._secret = uri, secret
        self._name = PurePosixPath(URL(uri).path).name
        self.client = SourceClient(where, secret, no_words)

    async def files(self) -> list[RemoteFile]:
        """The file, found by a request for its first byte: not every server answers HEAD, or like GET."""
        choose_data([self._name], self._name, self.where)
        found = await self.client.insist(partial(self._look, Range="bytes=0-0"))
        # An empty file has no first byte, and the answer that says so tells no version.
        return [found or await self.client.insist(self._look) or RemoteFile(self._name, 0, "")]

    def request(self, file: RemoteFile | None = None) -> Request:
        """The request for the file."""
        return Request(str(URL(self._uri)), credentials=self._credentials())

    def is_same(self, file: RemoteFile, headers: Mapping[str, str]) -> bool:
        """Whether the server tells the same version."""
        return _identity(headers) == file.identity

    def checksum(self, file: RemoteFile, headers: Mapping[str, str]) -> Checksum | None:
        """The checksum that the server told at first."""
        return file.checksum

    async def _look(self, **extra: str) -> RemoteFile | None:
        async with self.client.open(self.request(), expected=(200, 206, 416), **extra) as response:
            headers = response.headers
            if response.status == 416:
                return None
            if headers.get("Content-Encoding", "identity") != "identity":
                raise DataError(
                    f"{self.where}: the server sends it compressed ({headers['Content-Encoding']}): "
                    "have it serve the plain file"
                )
            if headers.get("Content-Type", "").partition(";")[0].strip().lower() in _WEB_PAGES:
                raise DataError(
                    f"{self.where}: the server answers with a web page, such as a login form: correct the "
                    "uri, or "
                    "name a Secret with credentials in secretRef"
                )
            total = headers.get("Content-Range", "").rpartition("/")[2]
            if response.status == 200:
                total = headers.get("Content-Length", "")
            etag, date = headers.get("ETag"), headers.get("Last-Modified")
            return RemoteFile(
                path=self._name,
                size=int(total) if total.isdecimal() else None,
                identity=_identity(headers),
                validator=etag if etag and not etag.startswith("W/") else date,
                checksum=_checksum(headers),
            )

    def _credentials(self) -> dict[str, str]:
        self._secret.require_one_of("token", "username", AUTHORITY)
        if token := self._secret.get("token"):
            return {"Authorization": f"Bearer {token}"}
        if user := self._secret.get("username"):
            password = self._secret.need("password", "username")
            return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
        return {}


def _identity(headers: Mapping[str, str]) -> str:
    return headers.get("ETag") or headers.get("Last-Modified") or ""


def _checksum(headers: Mapping[str, str]) -> Checksum | None:
    """Checksum of the whole file, if the server tells one (RFC 9530, or its predecessor)."""
    for name, value in _DIGEST.findall(headers.get("Repr-Digest", "") + "," + headers.get("Digest", "")):
        try:
            digest = base64.b64decode(value, validate=True).hex()
        except ValueError:
            continue
        return Checksum("sha256" if name.lower() == "sha-256" else "sha512", digest)
    return None
