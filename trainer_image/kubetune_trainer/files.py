"""Writing so that a crash leaves the old or the new, never half of something."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from kubetune_trainer.errors import StorageError


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
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"{path} cannot be written ({getattr(error, 'strerror', None) or error}): "
            "check free space and permissions of the output volume"
        ) from error


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically and durably, mode 0644."""
    # Processes of one run may share the folder.
    temporary = path.with_name(f".{path.name}.{os.environ.get('RANK', 0)}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.chmod(0o644)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)


def seal(temporary: Path, final: Path) -> None:
    """Make a finished folder durable and readable by everybody, then give it its name."""
    with writing(final):
        for path in temporary.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
            sync(path)
        temporary.chmod(0o755)
        sync(temporary)
        temporary.rename(final)
        sync(final.parent)


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
