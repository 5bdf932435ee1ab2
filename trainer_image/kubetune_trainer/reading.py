"""Reading what a user put there: whatever a library makes of a broken file ends the run with a message."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from kubetune_trainer.errors import InvalidSpec, StorageError, known

LONGEST = 300
"""Characters of a library's message that are passed on."""
_ADVICE = ("trust_remote_code=True", "You can inspect the", "raise an issue")
"""In sentences of a library's message that whoever runs a job cannot follow."""
_DISK = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN}
"""What a volume says that fails, whatever lies on it."""


@contextmanager
def reading(what: str, remedy: str) -> Iterator[None]:
    """Around calls that only read a user's files: what goes wrong there is wrong with the files.

    Args:
        what: they are, for messages.
        remedy: what to do.

    Raises:
        InvalidSpec: anything went wrong that is not one of our own errors, memory that ran out or a device.
    """
    try:
        yield
    except BaseException as error:
        if not of_the_file(error):
            raise
        raise InvalidSpec(f"{what} cannot be used: {cause(error)}: {remedy}") from error


def of_the_file(error: BaseException) -> bool:
    """Whether an error while files were read tells something about the files.

    Raises:
        StorageError: it tells that the volume fails.
    """
    if isinstance(error, OSError) and error.errno in _DISK:
        raise StorageError(f"the volume of the files that are read fails: {error.strerror}") from error
    if known(error) or type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error):
        return False
    return isinstance(error, Exception) or panicked(error)


def panicked(error: BaseException) -> bool:
    """Whether a library in Rust gave up: pyo3's exception for it is no Exception, and not to be imported."""
    return type(error).__name__ == "PanicException"


def cause(error: BaseException) -> str:
    """What an error says, in one line, with its name where that is needed to understand it."""
    sentences = re.split(r"(?<=[.!?]) ", " ".join(str(error).split()))
    text = " ".join(s for s in sentences if not any(advice in s for advice in _ADVICE))
    if not text or " " not in text or isinstance(error, LookupError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
