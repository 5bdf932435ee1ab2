"""Rows of a Parquet file, a few at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kubetune_trainer.data.lines import LONGEST
from kubetune_trainer.errors import DataError

ROWS = 256
"""Most rows held as Python objects at a time."""
FEW = 32
"""So few rows at a time are read about as fast as more."""
MEMORY = 128 << 20
"""Bytes that they may take in Arrow's form; a single row may take more."""
BUFFER = 1 << 20
"""Bytes of a column that are read at a time; a row group may be larger than the memory."""
PACKED = 100
"""No text compresses this well: a column that does may hold very large values."""


def numbered(
    path: Path, name: str, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows as JSON would have them, counted from 1; an absent value is None.

    Args:
        path: of the file.
        name: for messages.
        columns: those that are needed; None: all but dates and times.

    Raises:
        DataError: the file is damaged or incomplete, or holds what Arrow cannot read, such as text that is
            not UTF-8; or a cell is too long. Names file and row.
        OSError: the file cannot be read.
    """
    import pyarrow  # imported here because it takes a second
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        # Without pre-buffering, a row group is read page by page.
        with ParquetFile(str(path), pre_buffer=False, buffer_size=BUFFER) as file:
            _check_names(file.schema_arrow.names, name)
            if columns is None:
                columns = _timeless(file.schema_arrow)
            with ParquetFile(
                str(path),
                metadata=file.metadata,
                pre_buffer=False,
                buffer_size=BUFFER,
                read_dictionary=_texts(file),
            ) as repeated:
                for group in range(file.num_row_groups):
                    rows = _at_once(file, repeated, group, columns)
                    for batch in file.iter_batches(
                        rows, row_groups=[group], columns=columns, use_threads=False
                    ):
                        _check_cells(batch, name, number)
                        for row in _objects(batch):
                            number += 1
                            yield number, row
    except MemoryError:  # Arrow's is an ArrowException, too
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        problem = " ".join(str(error).split())
        raise DataError(
            f"{name}, row {number + 1}: cannot be read ({problem}): make or copy it anew"
        ) from error


def _check_names(names: Sequence[str], file: str) -> None:
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise DataError(f"{file}, row 1: several columns are called {twice!r}: rename all but one")


def _timeless(schema: Any) -> list[str] | None:
    """The columns but dates and times, or None if that is all. No format needs these, and Python cannot hold
    every zone and year."""
    from pyarrow import types

    timeless = [field.name for field in schema if not types.is_temporal(field.type)]
    return None if len(timeless) == len(schema) else timeless


def _texts(file: Any) -> list[str]:
    columns = [file.schema.column(i) for i in range(len(file.schema))]
    return [
        c.path
        for c in columns
        if c.physical_type == "BYTE_ARRAY" and c.logical_type.type in ("NONE", "STRING")
    ]


def _at_once(file: Any, repeated: Any, number: int, columns: Sequence[str] | None) -> int:
    """How many rows of a row group fit into the memory.

    Args:
        file: as it is read.
        repeated: the same file, opened so that dictionaries of values stay as they are.
        number: of the row group.
        columns: those that are needed; None: all.
    """
    group = file.metadata.row_group(number)
    chunks = [group.column(i) for i in range(group.num_columns)]
    if columns is not None:
        chunks = [c for c in chunks if any(f"{c.path_in_schema}.".startswith(f"{name}.") for name in columns)]
    whole = sum(c.total_uncompressed_size for c in chunks)
    row = whole  # at most, unless values are repeated in it
    if whole * FEW > MEMORY and whole <= PACKED * sum(c.total_compressed_size for c in chunks):
        rows = max(group.num_rows, 1)
        times = max(c.num_values / rows for c in chunks)
        first = next(repeated.iter_batches(1, row_groups=[number], columns=columns, use_threads=False), None)
        row = int(max(whole / rows, sum(map(_longest, first.columns)) * times if first else 0))
    return min(max(MEMORY // max(row, 1), 1), ROWS)


def _longest(array: Any) -> int:
    """Bytes of the longest text in an array's dictionaries; of a struct, the sum over its fields."""
    from pyarrow import compute, types

    kind = array.type
    if types.is_dictionary(kind):
        texts = array.dictionary
        if not (types.is_string(texts.type) or types.is_binary(texts.type)):
            return 0
        return compute.max(compute.binary_length(texts)).as_py() or 0
    if types.is_struct(kind):
        return sum(_longest(array.field(i)) for i in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        return _longest(array.values)
    return 0


def _check_cells(batch: Any, name: str, number: int) -> None:
    """Refuse cells that are too long, before they become Python objects."""
    from pyarrow import types

    if batch.nbytes <= LONGEST:
        return
    for i in range(len(batch)):
        for field, column in zip(batch.schema, batch.columns, strict=True):
            cell = column.slice(i, 1)
            if types.is_dictionary(field.type):
                cell = cell.dictionary_decode()
            if cell.nbytes > LONGEST:
                raise DataError(
                    f"{name}, row {number + i + 1}: column {field.name!r} holds more than "
                    f"{LONGEST >> 20} MiB: divide it into several rows"
                )


def _objects(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows; one by one if they cannot be converted together, so that an error can name its row."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        for i in range(len(batch)):
            yield from batch.slice(i, 1).to_pylist()
