"""Writes files and folders so that a crash leaves the old or the new, never a half."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from kubetune_trainer.errors import StorageError

_checks: list[Callable[[], None]] = []


@contextmanager
def fenced(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before anything is renamed into its place or removed; its errors are passed on."""
    _checks.append(check)
    try:
        yield
    finally:
        _checks.remove(check)


def _check_fence() -> None:
    for check in _checks:
        check()


def _temporary_of(path: Path) -> Path:
    """Where to write a file or folder before it is renamed. No other trainer or process writes there."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def remove(path: Path) -> None:
    """Remove a folder as far as possible; a later call removes what is left."""
    _check_fence()
    shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove unfinished folders of killed trainers; `name` is how the names of finished ones begin."""
    for stale in folder.glob(f".{name}*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)


def leads_into(path: Path, root: Path) -> bool:
    """Whether a path, with all its links followed, lies in a folder."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # up to Python 3.12 links in a circle are a RuntimeError
        return False


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into a StorageError that names the place.

    Raises:
        StorageError: disk full, read-only, no permission, input/output error.
        Superseded: it failed because another trainer has taken the folder over.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        _check_fence()
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: Exception) -> StorageError:
    """The error to raise if a place cannot be written."""
    return StorageError(
        f"{path} cannot be written ({getattr(error, 'strerror', None) or error}): "
        "check free space and permissions of the output volume"
    )


@contextmanager
def folder_to_be(final: Path) -> Iterator[Path]:
    """A temporary folder to fill. Then it replaces `final`, complete or not at all.

    Raises:
        StorageError: it cannot be written.
        Superseded: another trainer has taken the folder over.
    """
    _check_fence()
    temporary = _temporary_of(final)
    try:
        with writing(final):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            _seal(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically and durably, mode 0644."""
    _check_fence()
    temporary = _temporary_of(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.chmod(0o644)
        sync(temporary)
        _check_fence()
        temporary.replace(path)
        sync(path.parent)


def _seal(temporary: Path, final: Path) -> None:
    """Make a finished folder durable and readable by everybody, then give it its name."""
    for path in temporary.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
        sync(path)
    temporary.chmod(0o755)
    sync(temporary)
    remove(final)
    temporary.rename(final)
    sync(final.parent)


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
