"""Rows of a Parquet file, some at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kubetune_trainer.errors import DataError

ROWS = 256
"""Rows held as Python objects at a time."""
BUFFER = 1 << 20
"""Bytes read of a column at a time; a row group may be larger than the memory."""


def numbered(
    path: Path, name: str, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows as JSON would have them, counted from 1; what is absent is None.

    Args:
        path: of the file.
        name: for messages.
        columns: those that are needed; None for all.

    Raises:
        DataError: the file is damaged or incomplete, or holds what Arrow cannot read, such as text that is
            not UTF-8. Names file and row.
        OSError: the file cannot be read.
    """
    import pyarrow  # takes a second
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        # Without pre-buffering a row group is read page by page.
        with ParquetFile(str(path), pre_buffer=False, buffer_size=BUFFER) as file:
            for batch in file.iter_batches(ROWS, columns=columns, use_threads=False):
                for row in _objects(batch):
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        problem = " ".join(str(error).split())
        raise DataError(
            f"{name}, row {number + 1}: cannot be read ({problem}): make or copy it anew"
        ) from error


def _objects(batch: Any) -> Iterator[dict[str, Any]]:
    """One by one where not all can be had, so that it is known which."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        for i in range(len(batch)):
            yield from batch.slice(i, 1).to_pylist()
