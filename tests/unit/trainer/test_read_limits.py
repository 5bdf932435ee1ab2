"""Files that no memory holds, or that take for ever: small ones, compressed or with a hole."""

import gzip
import inspect
import os
import random
import sys
from datetime import datetime
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from kubetune.api.exitcodes import Reason
from kubetune_trainer.data import lines, read
from kubetune_trainer.data import parquet as rows
from kubetune_trainer.data.examples import read_examples
from kubetune_trainer.data.read import files_of, read_records
from kubetune_trainer.errors import DataError, OutOfMemory
from kubetune_trainer.signals import Stop
from tests.fixtures.runs import source


@pytest.mark.parametrize(
    ("name", "begin", "message"),
    [
        ("a.jsonl", b'{"text":"a"}\n', "a.jsonl, line 2: longer than 4 MiB: divide it"),
        ("a.json", b'{"text":"a"}\n', "a.json, line 2: longer than 4 MiB: divide it"),
        ("a.json", b'[{"text":"a"},\n{"text":"', "a.json, line 2: no record ends within 4 MiB"),
        ("a.txt", b"a\n", "a.txt, line 2: longer than 4 MiB: divide it"),
    ],
)
def test_a_file_with_a_hole_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, begin: bytes, message: str
):
    monkeypatch.setattr(lines, "LONGEST", 4 << 20)
    (tmp_path / name).write_bytes(begin)
    os.truncate(tmp_path / name, 1 << 30)
    with pytest.raises(DataError, match=message):
        list(read_records(source(tmp_path / name)))


def test_a_list_longer_than_a_line_may_be_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lines, "LONGEST", 1 << 20)
    monkeypatch.setattr(lines, "PIECE", 1000)
    texts = [f"漢{i} " * 300 for i in range(2000)]
    (tmp_path / "a.json").write_text("[" + ",".join(f'{{"text":"{t}"}}' for t in texts) + "]", "utf-8")
    assert [r.data["text"] for r in read_records(source(tmp_path / "a.json"))] == texts


def test_blank_lines_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(read, "BLANK", 1 << 20)
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"text":"a"}\n' + b"\n" * ((1 << 20) + 1))
    with pytest.raises(DataError, match=r"line 1048578: more than 1 MiB of blank lines"):
        list(read_records(source(path)))
    path.write_bytes(gzip.compress((b'{"text":"a"}\n' + b"\n" * 900_000) * 2))
    assert len(list(read_records(source(path)))) == 2


@pytest.mark.parametrize("packed", [True, False])
def test_few_large_cells_are_read_at_a_time(tmp_path: Path, packed: bool):
    long = "a" * (5 << 20) if packed else random.Random(0).randbytes(5 << 19).hex()
    cells = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 256, pyarrow.int32()), [long])
    path = tmp_path / "a.parquet"
    for kept in (True, False):  # whether Arrow repeats the value, or Python would
        parquet.write_table(
            pyarrow.table({"text": cells}), path, store_schema=kept, dictionary_pagesize_limit=1 << 30
        )
        reader = rows.numbered(path, "a.parquet")
        before = pyarrow.total_allocated_bytes()
        assert next(reader) == (1, {"text": long})
        assert pyarrow.total_allocated_bytes() - before < 200 << 20, "of the 1.3 GB that they unpack to"
        held = reader.gi_frame.f_locals["batch"]
        assert len(held) <= 128 // 5
        reader.close()


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_cell_that_is_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dictionary: bool
):
    monkeypatch.setattr(rows, "LONGEST", 1 << 20, raising=False)
    texts = pyarrow.array(["x", "a" * ((1 << 20) + 1)])
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": texts.dictionary_encode() if dictionary else texts}), path)
    with pytest.raises(DataError, match=r"a.parquet, row 2: column 'text' holds more than 1 MiB"):
        list(read_records(source(path)))
    talks = pyarrow.array([[{"role": "user", "content": "a" * (1 << 19)}] * 3])
    parquet.write_table(pyarrow.table({"messages": talks}), path)
    with pytest.raises(DataError, match=r"a.parquet, row 1: column 'messages' holds more than 1 MiB"):
        list(read_records(source(path, "messages")))


def test_times_that_nobody_needs_do_no_harm(tmp_path: Path):
    nowhere = pyarrow.array([1], pyarrow.timestamp("us", tz="Mars/Phobos"))
    never = pyarrow.array([2**60], pyarrow.timestamp("us", tz="UTC"))
    record = {"text": ["t"], "label": [1]}
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table(record | {"a": nowhere, "b": never}), path)
    [(_, example, _)] = read_examples(source(path, "classification"), Stop())
    assert (example.text, example.label) == ("t", "1")
    parquet.write_table(pyarrow.table({"text": nowhere}), path)
    with pytest.raises(DataError, match=r"a.parquet, row 1: cannot be read .*Mars/Phobos"):
        list(read_records(source(path)))
    parquet.write_table(pyarrow.table({"text": [datetime(2026, 1, 1)]}), path)
    with pytest.raises(DataError, match=r"a.parquet, row 1: field 'text' is "):
        list(read_examples(source(path), Stop()))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_memory_that_runs_out_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    def no_memory(*_: object) -> None:
        raise pyarrow.ArrowMemoryError("malloc of size 9 failed") if "parquet" in name else MemoryError

    (tmp_path / name).write_text('{"text":"a"}')
    if name == "a.parquet":
        parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / name)
    monkeypatch.setattr(lines, "_text", no_memory)
    monkeypatch.setattr(rows, "_objects", no_memory)
    with pytest.raises(OutOfMemory, match=f"ran out of memory while it read {name}") as caught:
        list(read_records(source(tmp_path / name)))
    assert caught.value.reason is Reason.OUT_OF_MEMORY


def test_folders_may_be_nested_deeper_than_calls(tmp_path: Path):
    folder = tmp_path / Path(*"d" * 150)
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    whole, by_pattern = source(tmp_path, root=tmp_path), source(tmp_path / "**/*.txt", root=tmp_path)
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        assert [f.name for f in files_of(whole)] == ["a.txt"]
        with pytest.raises(DataError, match="nested too deep for a pattern"):
            files_of(by_pattern)
    finally:
        sys.setrecursionlimit(usual)


def test_folders_may_be_nested_deeper_than_a_path_is_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = "d" * 200
    monkeypatch.chdir(tmp_path)
    for _ in range(25):
        os.mkdir(name)
        os.chdir(name)
    with pytest.raises(DataError, match=f"folder {name} cannot be read: File name too long"):
        files_of(source(tmp_path, root=tmp_path))
