"""Compressed files and tables: the same records as of plain lines, and errors that name the place."""

import json
import resource
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from kubetune_trainer.data import lines
from kubetune_trainer.data import parquet as rows
from kubetune_trainer.data.examples import read_examples
from kubetune_trainer.data.read import files_of, read_records
from kubetune_trainer.errors import DataError
from kubetune_trainer.signals import Stop
from tests.fixtures.runs import source

TALK = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


def packed(data: bytes, ending: str, times: int = 1) -> bytes:
    """One archive of the data that often."""
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, {"gz": "gzip", "zst": "zstd"}[ending]) as stream:
        for _ in range(times):
            stream.write(data)
    return sink.getvalue().to_pybytes()


def table(path: Path, records: list[dict], **options) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(records), path, **options)
    return path


def texts(path: Path, **more) -> list[tuple[str, int]]:
    return [(r.data["text"], r.line) for r in read_records(source(path, **more))]


@pytest.mark.parametrize("ending", ["gz", "zst"])
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '\ufeff{"text":"x"}\n\n{"text":"漢"}', [("x", 1), ("漢", 3)]),
        ("a.txt", "one\n<|endoftext|>\ntwo\n", [("one", 1), ("two", 3)]),
        ("a.txt", "", [("", 1)]),
    ],
)
def test_the_same_records_as_of_a_plain_file(
    tmp_path: Path, ending: str, name: str, content: str, expected: list
):
    path = tmp_path / f"{name}.{ending}"
    path.write_bytes(packed(content.encode(), ending))
    assert texts(path) == expected
    # Several members or frames follow each other, as parallel compressors and `cat` leave them.
    path.write_bytes(b"".join(packed(bytes([b]), ending) for b in content.encode()))
    assert texts(path) == expected


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_what_is_wrong_in_an_archive_names_file_and_line(tmp_path: Path, ending: str):
    path = tmp_path / f"a.jsonl.{ending}"
    good = packed(b"".join(b'{"text":"%d"}\n' % i for i in range(1000)), ending)
    for data, message in [
        (good[:-1], "line [0-9]+: the archive is damaged or incomplete"),
        (good[: len(good) // 2], "line [0-9]+: the archive is damaged or incomplete"),
        (good[:3], "line 1: the archive is damaged or incomplete"),
        (b'{"text":"x"}\n', "line 1: the archive is damaged or incomplete"),
        (packed(b'{"text":"x"}\n{"text":\n', ending), "line 2: not JSON"),
        (packed(b'{"text":"x"}\n{"text":"\xff"}\n', ending), "line 2: not UTF-8"),
    ]:
        path.write_bytes(data)
        with pytest.raises(DataError, match=f"{path.name}, {message}"):
            texts(path)


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_line_that_no_memory_holds_is_refused_before_it_is_unpacked(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lines, "LONGEST", 4 << 20)
    path = tmp_path / f"a.txt.{ending}"
    bomb = packed(b"a" * (1 << 20), ending, times=512)
    assert len(bomb) < 1 << 20
    path.write_bytes(packed(b"fine\n", ending) + bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="line 2: longer than 4 MiB once it is unpacked"):
        texts(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10, "KiB"
    path.write_bytes(packed(b"a" * ((4 << 20) - 1) + b"\n" + b"b", ending))
    assert [len(text) for text, _ in texts(path)] == [(4 << 20) - 1, 1], "the longest line that is taken"


def test_a_table_has_rows(tmp_path: Path):
    path = table(tmp_path / "a.parquet", [{"text": f"t{i}", "more": i} for i in range(600)])
    assert texts(path) == [(f"t{i}", i + 1) for i in range(600)]
    first = next(read_records(source(path)))
    assert first.data == {"text": "t0"}, "what is not needed is not read"
    body = table(tmp_path / "b.parquet", [{"body": "x"}])
    assert [r.data["body"] for r in read_records(source(body, text_field="body"))] == ["x"]


@pytest.mark.parametrize(
    ("form", "record"),
    [
        ("messages", {"messages": TALK, "id": 7}),
        ("alpaca", {"instruction": "Q", "input": None, "output": "A"}),
        ("preference", {"prompt": "P", "chosen": "C", "rejected": "R"}),
        ("classification", {"text": "T", "text_pair": None, "label": 1}),
    ],
)
def test_a_row_is_the_example_that_the_same_json_is(tmp_path: Path, form: str, record: dict):
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    table(tmp_path / "a.parquet", [record, record])
    [(_, wanted, _)] = read_examples(source(tmp_path / "a.jsonl", form), Stop())
    assert [e for _, e, _ in read_examples(source(tmp_path / "a.parquet", form), Stop())] == [wanted, wanted]


def test_what_is_wrong_in_a_table_names_file_and_row(tmp_path: Path):
    path = table(tmp_path / "a.parquet", [{"text": "x"}, {"text": None}])
    assert len(list(read_examples(source(path), Stop()))) == 1, "what is null is left out"
    table(path, [{"text": 1}])
    with pytest.raises(DataError, match=r"a.parquet, row 1: field 'text' is "):
        list(read_examples(source(path), Stop()))
    table(path, [{"body": "x"}])
    with pytest.raises(DataError, match=r"a.parquet, row 1: field 'text' is missing"):
        list(read_examples(source(path), Stop()))
    latin = pyarrow.array([b"fine", b"l\xe9gende"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": latin}), path)
    with pytest.raises(DataError, match=r"a.parquet, row 2: cannot be read .*utf-8"):
        list(read_examples(source(path), Stop()))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a.parquet, row 1: cannot be read .*: make or copy it anew"):
        list(read_examples(source(path), Stop()))


def test_a_row_group_larger_than_the_memory_is_read_a_part_at_a_time(tmp_path: Path):
    document = "word " * 2000
    table(tmp_path / "a.parquet", [{"text": f"{i} {document}"} for i in range(20_000)], use_dictionary=False)
    reader = rows.numbered(tmp_path / "a.parquet", "a.parquet")
    next(reader)
    pyarrow.default_memory_pool().release_unused()
    assert pyarrow.total_allocated_bytes() < 40 << 20, "of the 200 MB that it holds"
    assert sum(1 for _ in reader) == 19_999


def test_files_of_a_folder(tmp_path: Path):
    for name in ("a.jsonl.gz", "b.txt.zst", "c.parquet", "d.json.gz", "e.gz", "f.jsonl", "g.parquet.gz"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in files_of(source(tmp_path, root=tmp_path))] == [
        "a.jsonl.gz", "b.txt.zst", "c.parquet", "d.json.gz", "f.jsonl",
    ]  # fmt: skip
