"""Rows of a CSV or TSV file (RFC 4180), one at a time."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from kubetune_trainer.data import lines
from kubetune_trainer.errors import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
QUOTES = 'a field that holds quotes must stand in quotes, those inside it doubled ("")'


def numbered(path: Path, name: str, kind: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows, each with the line that it begins in, counted from 1. The first row holds the names.

    Args:
        path: of the file, plain or compressed.
        name: for messages.
        kind: .csv or .tsv.

    Raises:
        DataError: two names are the same; a row has more or fewer fields than names; quotes are wrong; or
            see `lines.numbered`. Names file and line.
        OSError: the file cannot be read.
    """
    csv.field_size_limit(lines.LONGEST)
    texts = (text for _, text in lines.numbered(path, name))
    rows = csv.reader(texts, delimiter=DELIMITERS[kind], strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for row in rows:
            begin, line = line, rows.line_num + 1
            if not row:  # a blank line
                continue
            if header is None:
                header = row
                _check(header, name, begin)
            elif len(row) != len(header):
                raise DataError(
                    f"{name}, line {begin}: has {len(row)} fields, but the first line names {len(header)}: "
                    f"mend the row; {QUOTES}"
                )
            else:
                yield begin, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DataError(f"{name}, line {line}: cannot be read ({error}): mend the row; {QUOTES}") from error


def _check(header: list[str], name: str, line: int) -> None:
    twice = [column for column, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(f"{name}, line {line}: several columns are called {twice[0]!r}: rename all but one")
