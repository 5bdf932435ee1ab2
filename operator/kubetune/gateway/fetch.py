"""Copies an adapter from a shared volume to the pod, and nothing but plain files from inside that volume.

Whoever writes to the volume is not trusted: folders are walked by descriptor, so that none can be swapped
for a link between the check and the copy.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from kubetune.gateway.refused import Reason, Refused

# Formats that run code when they are read, and code itself.
UNSAFE_SUFFIXES = frozenset(
    ".bin .ckpt .dll .joblib .npy .npz .pickle .pkl .pt .pt2 .pth .py .pyc .sh .so".split()  # noqa: SIM905
)
MAX_FILES = 10_000
_CHUNK = 1 << 20


def resolve(path: str, root: str) -> Path:
    """The real path of an adapter's folder.

    Raises:
        Refused: NotFound, or UnsafeFile when it lies outside its volume.
    """
    try:
        real, volume = Path(path).resolve(), Path(root).resolve()
    except (OSError, RuntimeError) as error:  # up to Python 3.12 links in a circle are a RuntimeError
        raise Refused(Reason.UNSAFE_FILE, f"{path} is a link that leads nowhere: replace it") from error
    if not real.is_relative_to(volume):
        raise Refused(Reason.UNSAFE_FILE, f"{path} leads out of its volume: replace the link by a folder")
    if not volume.is_dir():
        raise Refused(
            Reason.NOT_FOUND, f"{root} is not mounted in this pod: the volume comes with the next rollout"
        )
    if not real.is_dir():
        raise Refused(
            Reason.NOT_FOUND, f"{path} is not a folder: check the uri and that the artifact still exists"
        )
    return real


def copy_folder(source: Path, target: Path, *, max_bytes: int) -> None:
    """Copy a folder of plain files to a new folder.

    Raises:
        Refused: UnsafeFile, TooLarge, or NotFound when a file vanishes on the way.
    """
    copied = 0
    try:
        for number, (relative, descriptor) in enumerate(_open_files(source)):
            with open(descriptor, "rb") as reader:
                copied += os.fstat(descriptor).st_size
                if copied > max_bytes or number >= MAX_FILES:
                    raise Refused(
                        Reason.TOO_LARGE,
                        f"more than {max_bytes} bytes or {MAX_FILES} files: serve a smaller artifact",
                    )
                to = target / relative
                to.parent.mkdir(parents=True, exist_ok=True)
                with to.open("xb") as writer:
                    shutil.copyfileobj(reader, writer, _CHUNK)
                to.chmod(0o644)
    except FileNotFoundError as error:
        raise Refused(Reason.NOT_FOUND, f"{error.filename} vanished while it was copied") from error


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
            info = (Path(folder) / name).lstat()
            seen.update(
                f"{folder}/{name} {info.st_ino} {info.st_size} {info.st_mtime_ns} {info.st_mode}\n".encode()
            )
    return seen.hexdigest()


def _open_files(source: Path) -> Iterator[tuple[Path, int]]:
    """Path below the folder and open descriptor of each file; whoever iterates closes it."""
    for folder, folders, files, at in os.fwalk(source, follow_symlinks=False):
        below = Path(folder).relative_to(source)
        for name in folders:
            if stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                raise _unsafe(below / name, "is a link")
        for name in files:
            if Path(name).suffix.lower() in UNSAFE_SUFFIXES:
                raise _unsafe(below / name, "may run code when it is read")
            if not stat.S_ISREG(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                raise _unsafe(below / name, "is not a regular file")
            yield below / name, os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)


def _unsafe(path: Path, why: str) -> Refused:
    return Refused(
        Reason.UNSAFE_FILE, f"{path} {why}: an adapter holds plain files and its weights as safetensors"
    )
