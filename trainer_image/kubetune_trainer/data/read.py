"""Files of a source, and the records in them, each with its place so that an error can name it."""

import glob
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubetune.api.data import FIELDS
from kubetune.api.runspec import RunSource
from kubetune_trainer.data import json_list, lines, parquet, separated
from kubetune_trainer.data.endings import KNOWN, kind_of
from kubetune_trainer.data.objects import DECODER
from kubetune_trainer.errors import DataError, OutOfMemory

TEXT_PIECE = 32_768
"""Characters after which a .txt file is divided at the next empty line. This bounds memory, and a corpus in
one file becomes several documents, of which some can be held out."""
SEPARATOR = "<|endoftext|>"
"""A line that divides a .txt file into documents, as in TinyStories."""
BLANK = lines.LONGEST
"""Most characters of consecutive blank lines. Signals to stop are only looked at between records, and a
compressed file of a few KB can hold hours of blank lines."""
_JSON_FILE = (
    'a .json file must be a list of records, [{...}, ...], or one in an object, {"data": [...]}, or hold one '
    "record per line"
)


@dataclass(frozen=True, slots=True)
class Record:
    """One record and where it stands."""

    data: dict[str, Any]
    file: str
    """Path below the source's mount."""
    line: int
    """Line or row that it begins in, counted from 1."""
    unit: str = "line"
    """What `line` counts: lines, or rows of a table."""

    @property
    def where(self) -> str:
        """Its place, for messages."""
        return f"{self.file}, {self.unit} {self.line}"

    def error(self, problem: str) -> DataError:
        """An error about this record."""
        return DataError(f"{self.where}: {problem}")

    @contextmanager
    def named(self) -> Iterator[None]:
        """Put this record's place before the message of a DataError raised inside."""
        try:
            yield
        except DataError as error:
            raise self.error(str(error)) from error

    def place(self) -> "Record":
        """The same without its data, to be kept."""
        return Record({}, self.file, self.line, self.unit)


def files_of(source: RunSource) -> list[Path]:
    """Files of a source, sorted by path. A file that several links lead to is there once. Hidden files and
    folders are left out, such as those of a ConfigMap mount.

    Raises:
        DataError: nothing is there, or something lies outside the source's mount.
    """
    root = Path(source.root).resolve()
    # Only * is special in a data URI; the rest is taken literally.
    pattern = glob.escape(source.path).replace("[*]", "*")
    try:
        found = [Path(p) for p in glob.glob(pattern, recursive=True)]
    except RecursionError as error:  # for **, glob calls itself
        raise DataError(
            f"source {source.name}: folders in {source.uri} are nested too deep for a pattern: name the "
            "folder without one"
        ) from error
    if not found:
        raise DataError(
            f"source {source.name}: nothing is at {source.uri}: put the data there or correct the uri"
        )
    for path in found:
        _inside(path, root, source)
    if pattern == glob.escape(source.path) and found[0].is_file():
        if kind_of(found[0].name) is None:
            raise DataError(f"source {source.name}: {found[0].name} must end in {KNOWN}: rename it")
        return found
    seen: set[Path] = set()
    files = {f for path in found for f in (_below(path, root, source, seen) if path.is_dir() else [path])}
    files = {f for f in files if kind_of(f.name) and not _hidden(f, root)}
    if not files:
        raise DataError(
            f"source {source.name}: no file in {source.uri} ends in {KNOWN}: put one there or rename it"
        )
    once: dict[Path, Path] = {}
    for file in sorted(files):
        once.setdefault(_inside(file, root, source), file)
        if not file.is_file():
            raise DataError(f"source {source.name}: {file.name} is not a readable file: replace it")
    return [*once.values()]


def read_records(source: RunSource) -> Iterator[Record]:
    """Every record of a source, in the order of files and lines. A .txt file gives records of the text field.

    Raises:
        DataError: data is missing, unreadable or malformed. Names file and line, or row of a table.
        OutOfMemory: the part of a file that must be held at a time is too large. Names the file.
    """
    root = Path(source.root).resolve()
    for path in files_of(source):
        name = path.resolve().relative_to(root).as_posix() if not path.is_relative_to(source.root) else (
            path.relative_to(source.root).as_posix()
        )  # fmt: skip
        try:
            yield from _READERS[kind_of(path.name)](path, name, source)
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror or error}") from error
        except MemoryError as error:
            raise OutOfMemory(
                f"the process ran out of memory while it read {name}: divide its longest records or give the "
                "pod more memory"
            ) from error


def _below(folder: Path, root: Path, source: RunSource, seen: set[Path]) -> Iterator[Path]:
    """What lies below a folder, also by way of links, which may form a circle. Folders can be nested too deep
    for recursion."""
    folders = [(folder, _inside(folder, root, source))]
    while folders:
        folder, real = folders.pop()
        if real in seen:
            continue
        seen.add(real)
        try:
            inside = [(path, path.is_dir()) for path in folder.iterdir() if not path.name.startswith(".")]
        except OSError as error:
            raise DataError(
                f"source {source.name}: folder {folder.name} cannot be read: {error.strerror}"
            ) from error
        for path, is_folder in inside:
            if is_folder:
                # Resolving every path from its root would take minutes for deeply nested folders.
                link = path.is_symlink()
                folders.append((path, _inside(path, root, source) if link else real / path.name))
        yield from (path for path, is_folder in inside if not is_folder)


def _hidden(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts if path.is_relative_to(root) else path.parts[-1:]
    return any(part.startswith(".") for part in parts)


def _inside(path: Path, root: Path, source: RunSource) -> Path:
    """The real path.

    Raises:
        DataError: it lies outside the volume.
    """
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:  # up to Python 3.12 links in a circle are a RuntimeError
        raise DataError(
            f"source {source.name}: {path.name} is a symbolic link that leads nowhere: "
            "put the file itself there"
        ) from error
    if not real.is_relative_to(root):
        raise DataError(
            f"source {source.name}: {path.name} leads out of its volume by a symbolic link: "
            "put the file itself there"
        )
    return real


def _json_lines(path: Path, name: str, source: RunSource) -> Iterator[Record]:
    blank = 0
    for number, line in lines.numbered(path, name):
        if line.strip():
            blank = 0
            try:
                data = DECODER.decode(line)
            except json.JSONDecodeError as error:
                what, todo = "not JSON", "mend or remove the line"
                if kind_of(path.name) == ".json":  # it may be valid JSON, but in no form that is read
                    what, todo = "no record by itself", _JSON_FILE
                raise DataError(
                    f"{name}, line {number}: {what} ({error.msg} at column {error.colno}): {todo}"
                ) from error
            except (ValueError, RecursionError) as error:  # a key twice; thousands of digits; too deep
                raise DataError(
                    f"{name}, line {number}: cannot be read ({error}): mend or remove the line"
                ) from error
            yield _record(data, name, number)
        else:
            blank += len(line)
            if blank > BLANK:
                raise DataError(
                    f"{name}, line {number}: more than {BLANK >> 20} MiB of blank lines in a row: remove "
                    "them, or make the file anew"
                )


def _json(path: Path, name: str, source: RunSource) -> Iterator[Record]:
    """A list of records, alone or in an object, or else JSON Lines with the extension .json."""
    own = {(source.fields or {}).get(field, field) for field in FIELDS[source.format]}
    listed = json_list.numbered(path, name, own | {source.text_field})
    if listed is None:
        yield from _json_lines(path, name, source)
        return
    for line, value in listed:
        yield _record(value, name, line)


def _text(path: Path, name: str, source: RunSource) -> Iterator[Record]:
    piece: list[str] = []
    size, start = 0, 1
    for number, line in lines.numbered(path, name):
        divider = line.strip() == SEPARATOR
        if not divider:
            piece.append(line)
            size += len(line)
        if divider or (size >= TEXT_PIECE and not line.strip()) or size >= 2 * TEXT_PIECE:
            yield Record({source.text_field: _plain(piece, name, start)}, name, start)
            piece, size, start = [], 0, number + 1
    yield Record({source.text_field: _plain(piece, name, start)}, name, start)


def _plain(piece: list[str], name: str, start: int) -> str:
    text = "".join(piece)
    at = text.find("\0")
    if at >= 0:  # English text in UTF-16 is also valid UTF-8, with a NUL beside every letter
        line = start + text.count("\n", 0, at)
        raise DataError(
            f"{name}, line {line}: holds NUL characters: it is not plain UTF-8 text: save it as UTF-8"
        )
    return text.strip("\n")


def _parquet(path: Path, name: str, source: RunSource) -> Iterator[Record]:
    columns = [source.text_field] if source.format == "text" else None
    for number, row in parquet.numbered(path, name, columns):
        yield Record(row, name, number, "row")


def _separated(path: Path, name: str, source: RunSource) -> Iterator[Record]:
    for line, row in separated.numbered(path, name, kind_of(path.name) or ""):
        yield Record(row, name, line)


def _record(data: object, name: str, line: int) -> Record:
    if not isinstance(data, dict):
        raise DataError(f"{name}, line {line}: a record must be an object {{...}}, not {type(data).__name__}")
    return Record(data, name, line)


_READERS: dict[str | None, Callable[[Path, str, RunSource], Iterator[Record]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _separated,
    ".tsv": _separated,
    ".txt": _text,
    ".parquet": _parquet,
}
