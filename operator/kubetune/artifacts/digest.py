"""Digest of a folder: SHA-256 over the sorted lines `sha256  size  path` of its files.

It needs no manifest of ours, so it works for any model folder. It covers every file, those too that nobody
reads. A link to a file counts as that file, under the link's name.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"
"""Our manifest lies beside the files and is not part of what it describes."""


class UnsafePath(ValueError):
    """A file of the folder is a link that may not be followed, is no regular file, or has no proper name."""


@dataclass(frozen=True, order=True)
class FileDigest:
    """One file of a folder."""

    path: str
    """Relative, with forward slashes."""
    sha256: str
    """Hex."""
    size: int
    """Bytes."""

    @property
    def line(self) -> str:
        """The line that goes into the folder's digest."""
        return f"{self.sha256}  {self.size}  {self.path}\n"


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def proper_name(path: str) -> bool:
    """Whether a path can stand in a line of a digest."""
    try:
        return b"\n" not in path.encode()
    except UnicodeEncodeError:
        return False


def files_of(folder: Path, *, within: Path | None = None) -> list[FileDigest]:
    """Every regular file below a folder but its manifest, sorted by path.

    Args:
        folder: the folder.
        within: links to files are followed as long as they stay in this folder; None: links are refused.

    Raises:
        UnsafePath: it holds a link that may not be followed, a special file, or a name that is no UTF-8 or
            more than a line.
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    found = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if not proper_name(relative):
            raise UnsafePath(f"the file name {relative!a} is not one line of UTF-8: rename the file")
        if path.is_symlink() and not (
            path.is_file() and within and path.resolve().is_relative_to(within.resolve())
        ):
            raise UnsafePath(f"{relative} is a link that may not be followed: put the file itself there")
        if not (path.is_file() or path.is_dir()):
            raise UnsafePath(f"{relative} is not a regular file: remove it")
        if path.is_file() and relative != MANIFEST:
            found.append(FileDigest(relative, file_sha256(path), path.stat().st_size))
    return sorted(found)


def digest_of(files: Iterable[FileDigest]) -> str:
    """`sha256:...` of a set of files."""
    lines = "".join(sorted(f.line for f in files))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def folder_digest(folder: Path, *, within: Path | None = None) -> str:
    """`sha256:...` of a folder. Arguments and errors are those of `files_of`."""
    return digest_of(files_of(folder, within=within))
