"""Lines of a text file, plain or compressed, one at a time: a file of any size takes little memory."""

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubetune_trainer.errors import DataError

LONGEST = 64 << 20
"""Most bytes of a line or of a table's cell. A file of a few KB, compressed or sparse, can hold a line that
is larger than the memory."""
PIECE = 1 << 20
"""Bytes read at a time of a file that is not read by lines."""


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
    number = 0
    with _opened(path, name, lambda: number + 1) as file:
        while line := file.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST:
                raise DataError(
                    f"{name}, line {number}: longer than {LONGEST >> 20} MiB"
                    f"{' once it is unpacked' if path.suffix in _UNPACK else ''}: divide it into several"
                )
            yield number, _text(line, name, number)


@contextmanager
def _opened(path: Path, name: str, line: Callable[[], int]) -> Iterator[io.BufferedIOBase]:
    """A file's bytes, unpacked. `line` gives the line being read, for errors."""
    unpack = _UNPACK.get(path.suffix)
    try:
        with unpack(path) if unpack else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(
            f"{name}, line {line()}: the archive is damaged or incomplete ({error}): make or copy it anew"
        ) from error


def pieces(path: Path, name: str) -> Iterator[str]:
    """The text of a file, plain or compressed, without a byte order mark, in pieces that may end anywhere.

    Raises:
        DataError: it is not UTF-8; the archive is damaged or incomplete. Names file and line.
        OSError: the file cannot be read.
    """
    decoder, line, size = codecs.getincrementaldecoder("utf-8-sig")(), 1, 0
    with _opened(path, name, lambda: line) as file:
        while True:
            data = file.read(PIECE)
            size += len(data)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                line += error.object.count(b"\n", 0, error.start)
                raise DataError(
                    f"{name}, line {line}: not UTF-8 (byte {size - len(error.object) + error.start + 1} of "
                    "the file): save the file as UTF-8"
                ) from error
            if text:
                yield text
            if not data:
                return
            line += text.count("\n")


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
    """Uses Arrow, which notices a truncated file and is installed for Parquet anyway."""
    import pyarrow  # imported here because it takes a second

    source: Any = pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
    return io.BufferedReader(source)


_UNPACK: dict[str, Callable[[Path], io.BufferedIOBase]] = {".gz": _gzip, ".zst": _zstandard}
