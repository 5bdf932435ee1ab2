"""CSV, TSV and lists of records within an object."""

import gzip
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from kubetune_trainer.data.read import read_records
from kubetune_trainer.errors import DataError
from tests.fixtures.runs import source

ROWS = [{"instruction": 'Say "hi",\nplease.', "output": "hi\t漢"}, {"instruction": "Q", "output": ""}]


def packed(path: Path, data: bytes) -> Path:
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = pyarrow.compress(data, codec="zstd", asbytes=True)
    path.write_bytes(data)
    return path


def read(path: Path, form: str = "alpaca", **more):
    return [(r.data, r.line) for r in read_records(source(path, form, **more))]


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize(("kind", "mark"), [("csv", ","), ("tsv", "\t")])
def test_rows(tmp_path: Path, kind: str, mark: str, ending: str):
    text = f'\ufeffinstruction{mark}output\r\n"Say ""hi"",\nplease."{mark}"hi\t漢"\r\n\r\nQ{mark}\r\n'
    path = packed(tmp_path / f"x.{kind}{ending}", text.encode())
    assert read(path) == [(ROWS[0], 2), (ROWS[1], 5)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,b,a\n1,2,3\n", "line 1: several columns are called 'a': rename all but one"),
        ("a,b\n1,2\n1\n", r"line 3: has 1 fields, but the first line names 2: mend the row"),
        ('a,b\n1,2\n"1" x,2\n', r"line 3: cannot be read \(.*\): mend the row; a field that holds quotes"),
        ('a,b\n1,2\n"1,2\n', r"line 3: cannot be read \(unexpected end of data\)"),
        ("a,b\n1,\xff\n".encode("latin-1"), "line 2: not UTF-8"),
    ],
)
def test_other_rows_name_the_line(tmp_path: Path, text: str | bytes, problem: str):
    path = packed(tmp_path / "x.csv", text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=rf"^x\.csv, {problem}"):
        read(path)


def test_rows_of_a_tsv_whose_quotes_mean_nothing_are_refused(tmp_path: Path):
    """Read as quotes, they would swallow rows."""
    path = packed(tmp_path / "x.tsv", b'text\tlabel\n"Great\t1\na "bad" film\t0\n')
    with pytest.raises(DataError, match=r"x.tsv, line 2: cannot be read"):
        read(path)


def test_columns_of_one_name_in_parquet(tmp_path: Path):
    table = pyarrow.table([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet, row 1: several columns are called 'text'"):
        read(tmp_path / "x.parquet", "text")


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    "wrapper",
    [
        {"data": ROWS},
        {"version": 1, "tags": ["a", "b"], "train": ROWS, "info": {"x": [1]}, "empty": []},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_in_an_object(tmp_path: Path, ending: str, wrapper: dict, indent: int | None):
    path = packed(tmp_path / f"x.json{ending}", json.dumps(wrapper, indent=indent).encode())
    found = read(path)
    assert [data for data, _ in found] == ROWS
    assert path.suffix != ".json" or indent is None or found[0][1] > 1


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_a_list_and_lines_in_json(tmp_path: Path, ending: str):
    assert [d for d, _ in read(packed(tmp_path / f"x.json{ending}", json.dumps(ROWS).encode()))] == ROWS
    text = "".join(json.dumps(r) + "\n" for r in ROWS)
    assert read(packed(tmp_path / f"y.json{ending}", text.encode())) == [(ROWS[0], 1), (ROWS[1], 2)]


@pytest.mark.parametrize("records", [1, 3])
def test_a_record_with_a_list_is_no_wrapper(tmp_path: Path, records: int):
    talk = {"sources": [{"url": "x"}], "turns": [{"role": "user", "content": "Q"}]}
    path = packed(tmp_path / "x.json", "\n".join([json.dumps(talk)] * records).encode())
    assert [d for d, _ in read(path, "messages", fields={"messages": "turns"})] == [talk] * records


def test_a_wrapper_that_is_longer_than_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("kubetune_trainer.data.json_list.LIKELY", 10)
    monkeypatch.setattr("kubetune_trainer.data.lines.PIECE", 7)
    path = packed(tmp_path / "x.json", json.dumps({"version": "1.0", "data": ROWS, "n": 2}).encode())
    assert [d for d, _ in read(path)] == ROWS
    path = packed(tmp_path / "y.json", json.dumps({"train": ROWS, "test": ROWS}).encode())
    with pytest.raises(DataError, match="'train' and 'test'"):
        read(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            json.dumps({"train": ROWS, "test": ROWS}),
            r"several lists of records, 'train' and 'test': put the one",
        ),
        (json.dumps({"data": [1, 2]}), "field 'instruction' is missing"),
        ('{"data": [{}], }', "a .json file must be a list"),
        ('{"data": [{}] "x": 1}', "a .json file must be a list"),
    ],
)
def test_other_objects(tmp_path: Path, text: str, problem: str):
    from kubetune_trainer.data.examples import read_examples
    from kubetune_trainer.signals import Stop

    with pytest.raises(DataError, match=f"x.json, line 1: .*{problem}"):
        list(read_examples(source(packed(tmp_path / "x.json", text.encode()), "alpaca"), Stop()))
