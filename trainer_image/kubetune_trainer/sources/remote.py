"""What a scheme must tell about a source, so that the rest need not know schemes."""

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
    """Bytes; None where the server does not tell."""
    identity: str
    """Changes when the content does: an ETag, a hash. Empty where the server tells nothing of the kind."""
    validator: str | None = None
    """Value of If-Range: a strong ETag or a date."""
    checksum: Checksum | None = None
    """Where the listing tells one."""


@dataclass(frozen=True)
class Request:
    """What is asked for. Neither URL nor headers are ever shown: both may hold credentials."""

    url: str
    """Quoted."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent wherever redirects lead."""
    credentials: Mapping[str, str] = field(default_factory=dict)
    """Sent to the host of `url` alone."""


class Remote(Protocol):
    """A source of some scheme."""

    where: str
    """The source, for messages."""
    place: str
    """What its paths are relative to: part of the cache's key."""

    async def files(self) -> list[RemoteFile]:
        """What there is, of what the URI means and a run reads.

        Raises:
            DataError: nothing, or it may not be read.
            StorageError: the server fails for longer than is waited for.
        """
        ...

    def request(self, file: RemoteFile) -> Request:
        """How a file is asked for."""
        ...

    def is_same(self, file: RemoteFile, headers: Mapping[str, str]) -> bool:
        """Whether an answer is about the file as listed."""
        ...

    def checksum(self, file: RemoteFile, headers: Mapping[str, str]) -> Checksum | None:
        """What the whole file must hash to, by the listing or an answer."""
        ...
