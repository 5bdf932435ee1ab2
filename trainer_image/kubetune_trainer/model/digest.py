"""Checks by its digest that a folder is the right one."""

from pathlib import Path

from kubetune.artifacts.digest import UnsafePath, folder_digest
from kubetune_trainer.errors import BaseModelMismatch, DataError
from kubetune_trainer.files import leads_into


def checked_digest(what: str, path: str, root: str | None, expected: str | None) -> str:
    """Digest of a folder: the base model's, or an adapter's.

    Args:
        what: name of the folder's content in messages.
        path: the folder.
        root: of the volume that it must lie in.
        expected: the digest that it must have.

    Raises:
        DataError: there is no such folder.
        BaseModelMismatch: it is not the one that was asked for, leads out of the volume, or holds anything
            but plain files.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"the {what}'s folder {folder.name} does not exist: put the {what.split()[-1]} there")
    if root is not None and not leads_into(folder, Path(root)):
        raise BaseModelMismatch(f"the {what}'s folder leads out of its volume by a symbolic link")
    try:
        found = folder_digest(folder)
    except UnsafePath as error:
        raise BaseModelMismatch(f"the {what}'s folder must hold plain files only: {error}") from error
    if expected is not None and found != expected:
        raise BaseModelMismatch(
            f"the {what} has digest {found}, not {expected}: its files changed"
            "; name the right folder or digest"
        )
    return found
