"""From an artifact on a shared volume to a verified copy in the cache. Blocking; run it in a thread."""

import shutil
import tempfile
from pathlib import Path

from kubetune.api.table import TableAdapter
from kubetune.gateway.fetch import copy_folder, resolve
from kubetune.gateway.refused import Reason, Refused
from kubetune.gateway.verify import Limits, verify

TEMPORARY = ".copying-"


def prepare(adapter: TableAdapter, limits: Limits, cache: Path, *, max_bytes: int) -> Path:
    """The folder in the cache (which exists) that holds the adapter, verified; an earlier copy, again.

    Raises:
        Refused: it must not be served.
    """
    try:
        return _prepare(adapter, limits, cache, max_bytes)
    except OSError as error:
        raise Refused(Reason.STORAGE_ERROR, f"cannot copy the files: {error}") from error


def _prepare(adapter: TableAdapter, limits: Limits, cache: Path, max_bytes: int) -> Path:
    target = cache / adapter.loaded_name
    if target.is_dir():
        try:
            verify(target, adapter, limits)
        except Refused:
            shutil.rmtree(target)  # fetched anew below, judged anew
        else:
            return target
    source = resolve(adapter.path, adapter.root)
    copy = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=cache))
    try:
        copy_folder(source, copy, max_bytes=max_bytes)
        verify(copy, adapter, limits)
        copy.chmod(0o755)
        copy.replace(target)
    except BaseException:
        shutil.rmtree(copy)
        raise
    return target


def set_aside(cache: Path, keep: set[str]) -> list[Path]:
    """Rename the copies that nobody needs, so that nobody takes them up again; returns what to `remove`."""
    stale = [e for e in cache.iterdir() if e.name not in keep and not e.name.startswith(TEMPORARY)]
    return [entry.rename(entry.with_name(f"{TEMPORARY}{entry.name}")) for entry in stale]


def unfinished(cache: Path) -> list[Path]:
    """What a gateway process left half done when it was killed. Ask before the first copy; `remove` it."""
    cache.mkdir(parents=True, exist_ok=True)
    return list(cache.glob(f"{TEMPORARY}*"))


def remove(folders: list[Path]) -> None:
    """Delete folders."""
    for folder in folders:
        shutil.rmtree(folder)
