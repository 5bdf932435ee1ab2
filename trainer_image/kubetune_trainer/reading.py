"""Reads users' files so that whatever a library makes of a broken one ends the run with a message."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from kubetune_trainer.errors import InvalidSpec, StorageError, known

LONGEST = 300
"""Most characters of a library's message that are passed on."""
_ADVICE = ("trust_remote_code=True", "You can inspect the", "raise an issue")
"""Marks sentences in libraries' messages that the user of a job cannot follow."""
_DISK = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN}
"""Errors of a failing volume, whatever lies on it."""


@contextmanager
def reading(what: str, remedy: str) -> Iterator[None]:
    """Turn errors of calls that only read a user's files into an InvalidSpec: the files are to blame.

    Args:
        what: name of the files in messages.
        remedy: what to do.

    Raises:
        InvalidSpec: any error, except our own ones, lack of memory and failures of a device.
    """
    try:
        yield
    except BaseException as error:
        if not of_the_file(error):
            raise
        raise InvalidSpec(f"{what} cannot be used: {cause(error)}: {remedy}") from error


def of_the_file(error: BaseException) -> bool:
    """Whether an error while files were read is due to the files.

    Raises:
        StorageError: the error shows that the volume fails.
    """
    if isinstance(error, OSError) and error.errno in _DISK:
        raise StorageError(f"the volume of the files that are read fails: {error.strerror}") from error
    if known(error) or type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error):
        return False
    return isinstance(error, Exception) or panicked(error)


def panicked(error: BaseException) -> bool:
    """Whether a library in Rust gave up: pyo3's exception for it is no Exception and cannot be imported."""
    return type(error).__name__ == "PanicException"


def cause(error: BaseException) -> str:
    """What an error says, in one line, with its name where that is needed to understand it."""
    sentences = re.split(r"(?<=[.!?]) ", " ".join(str(error).split()))
    text = " ".join(s for s in sentences if not any(advice in s for advice in _ADVICE))
    if not text or " " not in text or isinstance(error, LookupError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
