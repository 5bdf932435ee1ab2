"""From an artifact on a shared volume to a verified copy in the cache. Blocking; run it in a thread."""

import re
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote

from kubetune.api.table import AdapterReason, TableAdapter
from kubetune.artifacts.digest import FileDigest
from kubetune.gateway.fetch import copy_folder, resolve
from kubetune.gateway.refused import AdapterRefused
from kubetune.gateway.verify import Limits, verify

TEMPORARY = ".copying-"
_DRAWN = re.compile(rf"{re.escape(TEMPORARY)}[^/']+")
LIST = ".files"
"""File in a copy: the lines of its source's digest. The copy itself only holds files that are read."""


def prepare(adapter: TableAdapter, limits: Limits, cache: Path, *, max_bytes: int) -> Path:
    """The folder in the cache with an adapter's verified copy. An earlier copy is verified again.

    The cache must exist.

    Raises:
        AdapterRefused: it must not be served.
    """
    try:
        return _prepare(adapter, limits, cache, max_bytes)
    except OSError as error:
        # The copy's name is random: without this, the same fault at the next try would look like a new one.
        told = _DRAWN.sub("<copy>", str(error))
        raise AdapterRefused(AdapterReason.STORAGE_ERROR, f"cannot copy the files: {told}") from error


def _prepare(adapter: TableAdapter, limits: Limits, cache: Path, max_bytes: int) -> Path:
    target = cache / folder_name(adapter.loaded_name)
    if target.is_dir():
        try:
            verify(target, _listed(target), adapter, limits)
        except AdapterRefused:
            shutil.rmtree(target)  # copied and verified again below
        else:
            return target
    source = resolve(adapter.path, adapter.root)
    copy = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=cache))
    try:
        files = copy_folder(source, copy, root=Path(adapter.root), max_bytes=max_bytes)
        (copy / LIST).write_text("".join(f.line for f in files), encoding="utf-8")
        verify(copy, files, adapter, limits)
        copy.chmod(0o755)
        copy.replace(target)
    except BaseException:
        shutil.rmtree(copy)
        raise
    return target


def folder_name(loaded_name: str) -> str:
    """Folder of an adapter's copy. It is quoted, because the adapter's name may hold slashes."""
    return quote(loaded_name, safe="")


def _listed(copy: Path) -> list[FileDigest]:
    """The files of a copy's source, by the copy's list, which is trusted only if it has the right digest."""
    try:
        lines = (copy / LIST).read_text(encoding="utf-8").split("\n")[:-1]
        parts = [line.split("  ", 2) for line in lines]
        return [FileDigest(path, sha256, int(size)) for sha256, size, path in parts]
    except (OSError, ValueError) as error:
        raise AdapterRefused(
            AdapterReason.DIGEST_MISMATCH, f"the list of the copy is damaged: {error}"
        ) from error


def set_aside(cache: Path, keep: set[str]) -> list[Path]:
    """Rename the copies that nobody needs, so that nobody takes them up again; returns what to `remove`.

    keep: engine names.
    """
    kept = {folder_name(name) for name in keep}
    stale = [e for e in cache.iterdir() if e.name not in kept and not e.name.startswith(TEMPORARY)]
    return [entry.rename(entry.with_name(f"{TEMPORARY}{entry.name}")) for entry in stale]


def unfinished(cache: Path) -> list[Path]:
    """Folders that a killed gateway process left unfinished. Call before the first copy; `remove` them."""
    cache.mkdir(parents=True, exist_ok=True)
    return list(cache.glob(f"{TEMPORARY}*"))


def remove(folders: list[Path]) -> None:
    """Delete folders."""
    for folder in folders:
        shutil.rmtree(folder)
