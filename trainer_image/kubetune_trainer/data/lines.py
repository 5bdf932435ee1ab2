"""Lines of a text file, plain or compressed, one at a time: a file of any size takes little memory."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kubetune_trainer.errors import DataError

LONGEST = 64 << 20
"""Bytes of a line of a compressed file at most: a few KB can hold a line that no memory holds."""


def numbered(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """The lines with their ends, counted from 1, without a byte order mark.

    Args:
        path: ends in .gz (one or several members) or .zst (one or several frames), or is plain text.
        name: for messages.

    Raises:
        DataError: a line is not UTF-8, or too long; the archive is damaged or incomplete. Names file and
            line.
        OSError: the file cannot be read.
    """
    unpack, number = _UNPACK.get(path.suffix), 0
    try:
        with unpack(path) if unpack else path.open("rb") as file:
            while line := file.readline(LONGEST + 1 if unpack else -1):
                number += 1
                if unpack and len(line) > LONGEST:
                    raise DataError(
                        f"{name}, line {number}: longer than {LONGEST >> 20} MiB once it is unpacked: divide "
                        "it, or unpack the file if that is meant"
                    )
                yield number, _text(line, name, number)
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(
            f"{name}, line {number + 1}: the archive is damaged or incomplete ({error}): make or copy it anew"
        ) from error


def _text(line: bytes, name: str, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}, line {number}: not UTF-8 (byte {error.start + 1}): save the file as UTF-8"
        ) from error


def _gzip(path: Path) -> io.BufferedIOBase:
    return gzip.open(path, "rb")


def _zstandard(path: Path) -> io.BufferedIOBase:
    """By Arrow, which tells a truncated file from one that ends, and is there for Parquet in any case."""
    import pyarrow  # takes a second

    source: Any = pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
    return io.BufferedReader(source)


_UNPACK: dict[str, Callable[[Path], io.BufferedIOBase]] = {".gz": _gzip, ".zst": _zstandard}
