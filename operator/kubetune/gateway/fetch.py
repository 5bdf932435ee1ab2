"""Copies an adapter from a shared volume to the pod: only files that are read, only from inside the volume.

A folder may be as transformers' Trainer and the hub's cache leave it: files that nobody reads (optimizer
states, pickles, code) count for the digest, but are not copied. Whoever writes to the volume is not trusted:
folders are walked by descriptor, and an open file's descriptor tells where it lies, so that nothing can be
swapped for a link between the check and the copy.
"""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kubetune.api.table import AdapterReason
from kubetune.artifacts.digest import MANIFEST, FileDigest, proper_name
from kubetune.gateway.refused import AdapterRefused

READ = frozenset(
    {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "manifest.json",
        "tokenizer_config.json",
    }
)
"""Files of an adapter's folder, not of folders in it, that the gateway or the engine reads."""
MAX_FILES = 10_000
_HASHED_FACTOR = 16
"""Most bytes that are read for the digest, as a multiple of those that may be copied."""
_CHUNK = 1 << 20


def resolve(path: str, root: str) -> Path:
    """The real path of an adapter's folder.

    Raises:
        AdapterRefused: NotFound, or UnsafeFile when it lies outside its volume.
    """
    try:
        real, volume = Path(path).resolve(), Path(root).resolve()
    except (OSError, RuntimeError) as error:  # up to Python 3.12 links in a circle are a RuntimeError
        raise AdapterRefused(
            AdapterReason.UNSAFE_FILE, f"{path} is a link that leads nowhere: replace it"
        ) from error
    if not real.is_relative_to(volume):
        raise AdapterRefused(
            AdapterReason.UNSAFE_FILE, f"{path} leads out of its volume: replace the link by a folder"
        )
    if not volume.is_dir():
        raise AdapterRefused(
            AdapterReason.NOT_FOUND,
            f"{root} is not mounted in this pod: the volume comes with the next rollout",
        )
    if not real.is_dir():
        raise AdapterRefused(
            AdapterReason.NOT_FOUND,
            f"{path} is not a folder: check the uri and that the artifact still exists",
        )
    return real


def copy_folder(source: Path, target: Path, *, root: Path, max_bytes: int) -> list[FileDigest]:
    """Copy the files that are read to a new folder; returns all files of the source.

    Args:
        source: a real path.
        target: does not exist, or is empty.
        root: the volume. Links to files are followed as long as they stay in it.
        max_bytes: of the files that are copied.

    Raises:
        AdapterRefused: UnsafeFile, TooLarge, or NotFound when a file vanishes on the way.
    """
    target.mkdir(exist_ok=True)
    copied = hashed = 0
    found: list[FileDigest] = []
    try:
        for relative, descriptor in _open_files(source, root.resolve()):
            with open(descriptor, "rb") as reader:
                size, wanted = os.fstat(descriptor).st_size, relative in READ
                copied, hashed = copied + size * wanted, hashed + size
                if copied > max_bytes or hashed > max_bytes * _HASHED_FACTOR or len(found) >= MAX_FILES:
                    raise AdapterRefused(
                        AdapterReason.TOO_LARGE,
                        f"more than {max_bytes} bytes of weights, {max_bytes * _HASHED_FACTOR} in all, or "
                        f"{MAX_FILES} files: put the adapter into a folder of its own",
                    )
                if relative != MANIFEST:
                    found.append(
                        FileDigest(relative, hashlib.file_digest(reader, "sha256").hexdigest(), size)
                    )
                if wanted:
                    reader.seek(0)
                    with (target / relative).open("xb") as writer:
                        shutil.copyfileobj(reader, writer, _CHUNK)
                    (target / relative).chmod(0o644)
    except FileNotFoundError as error:
        raise AdapterRefused(
            AdapterReason.NOT_FOUND, f"{error.filename} vanished while it was copied"
        ) from error
    return sorted(found)


def fingerprint(source: Path) -> str | None:
    """A cheap mark of a folder's content (names, sizes, times), to tell whether it is worth another look.

    None when the folder is not there.
    """
    seen = hashlib.sha256()
    if not source.is_dir():
        return None
    for folder, folders, files in os.walk(source):
        folders.sort()
        for name in sorted(files):
            path = Path(folder) / name
            for info_of in (path.lstat, path.stat):  # the link, and what it leads to
                with suppress(OSError):  # it has just gone, or leads nowhere
                    info = info_of()
                    mark = f"{info.st_ino} {info.st_size} {info.st_mtime_ns} {info.st_mode}"
                    seen.update(f"{folder}/{name} {mark}\n".encode(errors="surrogateescape"))
    return seen.hexdigest()


def _open_files(source: Path, root: Path) -> Iterator[tuple[str, int]]:
    """Path below the folder and open descriptor of each file; the caller closes it."""
    for folder, folders, files, at in os.fwalk(source, follow_symlinks=False):
        below = Path(folder).relative_to(source)
        for name in folders:
            if stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                raise _unsafe(below / name, "is a link to a folder")
        for name in files:
            path = _name(below / name)
            yield path, _open_file(below / name, at, root)


def _open_file(path: Path, folder: int, root: Path) -> int:
    try:
        if not stat.S_ISREG(os.stat(path.name, dir_fd=folder).st_mode):
            raise _unsafe(path, "is not a regular file")
        descriptor = os.open(path.name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP or stat.S_ISLNK(
            os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode
        ):
            raise _unsafe(path, "is a link that leads nowhere") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _unsafe(path, "is not a regular file")
        if not Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_relative_to(root):
            raise _unsafe(path, "leads out of its volume")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _name(path: Path) -> str:
    name = path.as_posix()
    if not proper_name(name):
        raise _unsafe(ascii(name), "has a name that is not one line of UTF-8 text")
    return name


def _unsafe(path: Path | str, why: str) -> AdapterRefused:
    return AdapterRefused(AdapterReason.UNSAFE_FILE, f"{path} {why}: put plain files there")
