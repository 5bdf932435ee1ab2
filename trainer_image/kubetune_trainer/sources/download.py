"""Downloads one file: resumed where it broke off, and checked before it is used."""

import asyncio
import hashlib
import re
from pathlib import Path

from kubetune_trainer.errors import StorageError
from kubetune_trainer.signals import Stop
from kubetune_trainer.sources.cache import storing
from kubetune_trainer.sources.client import Changed, Passing, SourceClient
from kubetune_trainer.sources.meter import Meter
from kubetune_trainer.sources.remote import Checksum, Remote, RemoteFile

CHUNK = 1 << 20
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Download:
    """Brings one file to disk."""

    def __init__(
        self, remote: Remote, client: SourceClient, file: RemoteFile, part: Path, meter: Meter, stop: Stop
    ) -> None:
        self._remote, self._client, self._file = remote, client, file
        self._part, self._meter, self._stop = part, meter, stop
        self._checksum = file.checksum
        self._where = f"{remote.where} ({file.path})"

    async def run(self) -> None:
        """Download the missing rest of the file into `part`.

        Raises:
            DataError: it may not be read.
            StorageError: the server fails, or what it sends does not match its checksum.
            Changed: it is no longer the file that was listed.
        """
        for last in (False, True):
            await self._complete()
            if await asyncio.to_thread(self._is_right):
                return
            self._drop()
            if last:
                raise StorageError(
                    f"{self._where}: what arrives has another checksum than the server tells, twice: "
                    "see whether the server is well"
                )

    async def _complete(self) -> None:
        failures, furthest = 0, self._size()
        while True:
            try:
                await self._go_on(self._prepare())
            except Passing as error:
                failures = 1 if self._size() > furthest else failures + 1
                furthest = max(furthest, self._size())
                await self._client.pause(error, failures)
            else:
                return

    def _prepare(self) -> int:
        """Bytes to continue from. Without an identity nothing shows that they still fit, so it is 0."""
        have = self._size()
        keep = have if self._file.identity else 0
        if self._file.size is not None and have >= self._file.size:
            # One byte is asked for again: the answer tells whether it is still the same file.
            keep = min(keep, max(0, self._file.size - 1)) if have == self._file.size else 0
        if keep != have:
            with self._part.open("r+b") as part:
                part.truncate(keep)
            self._meter.have(keep - have)
        return keep

    async def _go_on(self, have: int) -> None:
        file, extra = self._file, {}
        if have:
            extra = {"Range": f"bytes={have}-"} | ({"If-Range": file.validator} if file.validator else {})
        expected = (200, 206, 416) if have else (200,)
        async with self._client.open(self._remote.request(file), expected=expected, **extra) as response:
            if response.status == 416 or not self._remote.is_same(file, response.headers):
                raise Changed
            self._checksum = self._remote.checksum(file, response.headers)
            if response.status == 206:
                found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
                if not found or int(found[1]) != have or found[3] not in ("*", str(file.size)):
                    self._drop()
                    raise Passing("the server sends another part of the file than was asked for")
            elif have:
                self._drop()  # the server sends the whole file
            with storing(self._part):
                self._part.touch()
            async for chunk in response.content.iter_chunked(CHUNK):
                # Unbuffered, so that received bytes stay, however this process ends.
                with storing(self._part), self._part.open("ab", buffering=0) as part:
                    rest = memoryview(chunk)
                    while rest:  # a write may be a short one
                        rest = rest[part.write(rest) :]
                self._meter.fetched(len(chunk))
        size = self._size()
        if file.size is not None and size > file.size:
            raise Changed
        if file.size is not None and size < file.size:
            raise Passing("the connection ended before the file did")

    def _is_right(self) -> bool:
        if self._checksum is None:
            return True
        return _hash(self._part, self._checksum, self._stop) == self._checksum.hex

    def _drop(self) -> None:
        self._meter.have(-self._size())
        self._part.unlink(missing_ok=True)

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0


def _hash(path: Path, checksum: Checksum, stop: Stop) -> str:
    name = "sha1" if checksum.algorithm == "git" else checksum.algorithm
    digest = hashlib.new(name, usedforsecurity=False)
    if checksum.algorithm == "git":
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            stop.check()
            digest.update(chunk)
    return digest.hexdigest()
