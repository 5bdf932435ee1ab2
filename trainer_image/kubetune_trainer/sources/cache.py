"""Folders of downloaded files: complete or absent, each made once for all who share the cache.

    <key>            the files of a source, as a run reads them
    .<key>.partial   parts, kept for whoever continues
    .<key>.lock      held by the run that downloads

The key is a hash of the place that the paths are relative to, and of each file's path, size and identity. So
another version of the files is another folder, and only who may list a source knows its key.
"""

import asyncio
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kubetune_trainer.errors import StorageError
from kubetune_trainer.files import sync
from kubetune_trainer.log import say
from kubetune_trainer.sources.remote import RemoteFile

POLL_SECONDS = 0.5
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn a failure to write into a StorageError that says what to do.

    Raises:
        StorageError: disk full, read-only, no permission, input/output error.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"the cache {path.parent} cannot be written ({error.strerror or error}): check its free space "
            "and "
            "permissions, or name a claim with room in compute.cache"
        ) from error


@dataclass(frozen=True)
class Entry:
    """The place of a source's files in a cache."""

    folder: Path
    """Where they are once they are complete."""
    files: Sequence[RemoteFile]

    @property
    def partial(self) -> Path:
        """Folder of the files until all are complete."""
        return self.folder.with_name(f".{self.folder.name}.partial")

    def part(self, file: RemoteFile) -> Path:
        """Where a file is until it is complete."""
        return self.partial / "parts" / hashlib.sha256(file.path.encode()).hexdigest()[:32]

    def whole(self, file: RemoteFile) -> Path:
        """Where a complete file is until all are."""
        return self.partial / "files" / file.path

    def is_complete(self) -> bool:
        """Whether all files are there, with the listed sizes."""
        return self.folder.is_dir() and all(self._has(self.folder / f.path, f) for f in self.files)

    def missing(self) -> list[RemoteFile]:
        """Files that no attempt has completed yet."""
        return [f for f in self.files if not self._has(self.whole(f), f)]

    def _has(self, path: Path, file: RemoteFile) -> bool:
        return path.is_file() and file.size in (None, path.stat().st_size)

    def prepare(self) -> int:
        """Make the folders, and check the free space. Returns the bytes that earlier attempts left.

        Raises:
            StorageError: there is not enough space, or the folder cannot be written.
        """
        with storing(self.partial):
            (self.partial / "parts").mkdir(parents=True, exist_ok=True)
            (self.partial / "files").mkdir(exist_ok=True)
            there = sum(p.stat().st_size for p in self.partial.rglob("*") if p.is_file())
            free = shutil.disk_usage(self.partial).free
        needed = sum(f.size or 0 for f in self.files) - there
        if needed > free:
            raise StorageError(
                f"the cache {self.folder.parent} has {free:,} bytes free, and {needed:,} more are needed: "
                "name a claim "
                "with room in compute.cache"
            )
        return there

    def keep(self, file: RemoteFile) -> None:
        """Move a complete part to its place among the whole files."""
        whole = self.whole(file)
        with storing(whole):
            whole.parent.mkdir(parents=True, exist_ok=True)
            self.part(file).replace(whole)

    def complete(self) -> None:
        """Make the files durable and move them to their final folder, once all are there."""
        files = self.partial / "files"
        with storing(self.folder):
            for path in (files, *files.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)
                sync(path)
            if self.folder.exists():  # somebody took files out of it
                shutil.rmtree(self.folder)
            files.rename(self.folder)
            sync(self.folder.parent)
        shutil.rmtree(self.partial, ignore_errors=True)

    @asynccontextmanager
    async def alone(self, where: str) -> AsyncIterator[None]:
        """Hold the lock inside, after waiting for its holder. The system frees it when the process ends."""
        path = self.folder.with_name(f".{self.folder.name}.lock")
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("w")
        with handle:
            waits = False
            while not _try(handle.fileno(), path):
                if not waits:
                    say("download", text=f"{where}: another run is downloading it; waiting for that")
                waits = True
                await asyncio.sleep(POLL_SECONDS)
            yield


def entry(cache: Path, place: str, files: Sequence[RemoteFile]) -> Entry:
    """The entry of some files.

    Args:
        cache: its folder.
        place: what their paths are relative to.
        files: as listed.
    """
    listed = [place, sorted([f.path, f.size, f.identity] for f in files)]
    key = hashlib.sha256(json.dumps(listed, ensure_ascii=False).encode()).hexdigest()[:32]
    return Entry(cache / key, files)


def link(root: Path, folder: Path) -> None:
    """Make a source's root a link to its folder in the cache."""
    # Processes of one run may share the folder.
    temporary = root.with_name(f".{root.name}.{os.getpid()}.link")
    with storing(root):
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.resolve(), target_is_directory=True)
        temporary.replace(root)


def _try(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise StorageError(
            f"the file system of the cache {path.parent} has no locks ({error.strerror}): use another one, "
            "or leave "
            "compute.cache out"
        ) from error
    return True
