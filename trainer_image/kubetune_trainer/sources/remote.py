"""What a scheme must provide for a source, so that all other code need not know schemes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True)
class Checksum:
    """What the content must hash to."""

    algorithm: Literal["sha256", "sha512", "md5", "git"]
    """git: SHA-1 over `blob <size>\\0` and the content."""
    hex: str


@dataclass(frozen=True)
class RemoteFile:
    """One file, as listed."""

    path: str
    """Where it goes below the folder of the source."""
    size: int | None
    """Bytes; None: the server does not tell."""
    identity: str
    """Changes when the content does: an ETag, a hash. Empty: the server tells nothing of the kind."""
    validator: str | None = None
    """Value of If-Range: a strong ETag or a date."""
    checksum: Checksum | None = None
    """By the listing, if it tells one."""


@dataclass(frozen=True)
class Request:
    """A request. Neither URL nor headers are ever shown, because both may hold credentials."""

    url: str
    """Quoted."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent to every host that redirects lead to."""
    credentials: Mapping[str, str] = field(default_factory=dict)
    """Only sent to the host of `url`."""


class Remote(Protocol):
    """A source of some scheme."""

    where: str
    """The source, for messages."""
    place: str
    """What its paths are relative to: part of the cache's key."""

    async def files(self) -> list[RemoteFile]:
        """The files that the URI means and that a run reads.

        Raises:
            DataError: there are none, or they may not be read.
            StorageError: the server fails for too long.
        """
        ...

    def request(self, file: RemoteFile) -> Request:
        """The request for a file."""
        ...

    def is_same(self, file: RemoteFile, headers: Mapping[str, str]) -> bool:
        """Whether an answer is about the file as listed."""
        ...

    def checksum(self, file: RemoteFile, headers: Mapping[str, str]) -> Checksum | None:
        """What the whole file must hash to, by the listing or an answer."""
        ...
