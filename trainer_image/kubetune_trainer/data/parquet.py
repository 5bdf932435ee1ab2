"""Rows of a Parquet file, some at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kubetune_trainer.data.lines import LONGEST
from kubetune_trainer.errors import DataError

ROWS = 256
"""Rows held as Python objects at a time, at most."""
FEW = 32
"""As many at a time are about as fast."""
MEMORY = 128 << 20
"""Bytes that they may take before they are Python objects; a single row may take more."""
BUFFER = 1 << 20
"""Bytes read of a column at a time; a row group may be larger than the memory."""
PACKED = 100
"""No text is this many times as large as it is compressed: such a column can hold anything anywhere."""


def numbered(
    path: Path, name: str, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows as JSON would have them, counted from 1; what is absent is None.

    Args:
        path: of the file.
        name: for messages.
        columns: those that are needed; None for all but dates and times.

    Raises:
        DataError: the file is damaged or incomplete, or holds what Arrow cannot read, such as text that is
            not UTF-8; or a cell is too long. Names file and row.
        OSError: the file cannot be read.
    """
    import pyarrow  # takes a second
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        # Without pre-buffering a row group is read page by page.
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
    """No format has a use for dates and times, and Python knows neither every zone nor every year."""
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
        repeated: the same file, read without repeating what a dictionary of it holds once.
        number: of the row group.
        columns: that are needed; None for all.
    """
    group = file.metadata.row_group(number)
    chunks = [group.column(i) for i in range(group.num_columns)]
    if columns is not None:
        chunks = [c for c in chunks if any(f"{c.path_in_schema}.".startswith(f"{name}.") for name in columns)]
    whole = sum(c.total_uncompressed_size for c in chunks)
    row = whole  # at most, unless values are repeated within it
    if whole * FEW > MEMORY and whole <= PACKED * sum(c.total_compressed_size for c in chunks):
        rows = max(group.num_rows, 1)
        times = max(c.num_values / rows for c in chunks)
        first = next(repeated.iter_batches(1, row_groups=[number], columns=columns, use_threads=False), None)
        row = int(max(whole / rows, sum(map(_longest, first.columns)) * times if first else 0))
    return min(max(MEMORY // max(row, 1), 1), ROWS)


def _longest(array: Any) -> int:
    """Bytes of the longest text in the dictionaries of an array, those of its parts added up."""
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
    """Refuse what is too long, before it becomes Python objects."""
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
    """One by one where not all can be had, so that it is known which."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        for i in range(len(batch)):
            yield from batch.slice(i, 1).to_pylist()
