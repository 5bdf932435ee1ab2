"""Whatever a file holds, reading it gives records or a DataError that names file and line."""

import json
import random
from pathlib import Path
from typing import get_args

import pyarrow
import pytest
from pyarrow import parquet

from kubetune.api.data import Format
from kubetune_trainer.data.examples import read_examples
from kubetune_trainer.errors import DataError
from kubetune_trainer.signals import Stop
from tests.fixtures.runs import source

GOOD = [
    {"instruction": "Q", "input": "I", "output": "A", "context": "C", "response": "R"},
    {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}], "name": "N"},
                  {"role": "assistant", "content": "A", "weight": 0, "train": False, "thinking": "T",
                   "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}]},
                  {"role": "tool", "content": "3", "tool_call_id": "c"},
                  {"role": "assistant", "content": "B", "weight": 1}],
     "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {}}}}]},
    {"conversations": [{"from": "human", "value": "Q", "weight": None},
                       {"from": "gpt", "value": "A", "train": True}]},
    {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "system": "S"},
    {"prompt": "P", "completion": "C", "inputs": "I", "targets": "T", "answer": "A"},
    {"text": "Ünï 漢 🙂", "text_pair": "P", "label": 1},
]  # fmt: skip
ODD = [None, True, 0, -1.5, 10**30, "", "\ud800", [], {}, [[]], {"role": []}, "x" * 300]


def mutated(rng: random.Random) -> bytes:
    """A record of some format with a value or some bytes changed."""
    record = json.loads(json.dumps(rng.choice(GOOD)))
    if rng.random() < 0.7:
        place = record
        while True:
            key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.7:
                place = place[key]
                continue
            place[key] = rng.choice(ODD)
            break
    line = bytearray(json.dumps(record, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass"))
    for _ in range(rng.choice([0, 0, 1, 3])):
        line[rng.randrange(len(line))] = rng.randrange(256)
    return bytes(line)


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_records_or_a_named_error(tmp_path: Path, suffix: str):
    rng = random.Random(0)
    path = tmp_path / f"x.{suffix}"
    forms = get_args(Format)
    read, refused = 0, []
    for _ in range(5000):
        line = mutated(rng)
        path.write_bytes(line if suffix == "jsonl" else b"[" + line + b"]")
        try:
            read += len(list(read_examples(source(path, rng.choice(forms)), Stop())))
        except DataError as error:
            refused.append(str(error))
    assert read > 200
    assert len(refused) > 200
    assert [r for r in refused if f"x.{suffix}, line " not in r] == []


@pytest.mark.parametrize(
    "ending", ["jsonl.gz", "jsonl.zst", "txt.gz", "txt.zst", "csv", "tsv.gz", "json", "json.zst", "parquet"]
)
def test_damaged_archives_and_tables(tmp_path: Path, ending: str):
    """Any bytes changed, left out or doubled: what can be read is, and then a named error, if any."""
    rng = random.Random(0)
    path = tmp_path / f"x.{ending}"
    if ending == "parquet":
        talks = [{"text": f"t {i} " * 9, "label": i, "messages": GOOD[1]["messages"]} for i in range(200)]
        parquet.write_table(pyarrow.Table.from_pylist(talks), path, row_group_size=50)
    else:
        lines = [b'{"text":"%d %d"}' % (i, rng.randrange(10**9)) for i in range(500)]
        plain = b"\n".join([*lines, b""])
        if ending.startswith("json") and not ending.startswith("jsonl"):
            plain = b'{"n": 1, "data": [' + b",\n".join(lines) + b"]}"
        if ending.startswith(("csv", "tsv")):
            plain = b"text\n" + b"".join(b'"%d ""%d"""\n' % (i, rng.randrange(10**9)) for i in range(500))
        kind = {"gz": "gzip", "zst": "zstd"}.get(ending.rpartition(".")[2])
        path.write_bytes(plain)
        if kind:
            with pyarrow.CompressedOutputStream(str(path), kind) as stream:
                stream.write(plain)
    whole = path.read_bytes()
    unit = "row" if ending == "parquet" else "line"
    read, refused = 0, []
    rounds = 1000 if ending in ("jsonl.gz", "txt.zst", "parquet") else 300
    for i in range(rounds):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(200, len(data)))
            data[at] = rng.randrange(256)
        if i % 5 == 0:
            del data[rng.randrange(len(data)) :]
        if i % 7 == 0:
            data += data[: rng.randrange(50)]
        path.write_bytes(data)
        try:
            form = rng.choice(["text", "messages", "classification"]) if ending == "parquet" else "text"
            read += len(list(read_examples(source(path, form), Stop())))
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > rounds / 5
    assert [r for r in refused if not r.startswith(f"x.{ending}, {unit} ")] == []


@pytest.mark.parametrize("line", ["[" * 100_000, '{"text": ' + "9" * 5000 + "}"], ids=["deep", "long"])
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_what_python_cannot_take(tmp_path: Path, suffix: str, line: str):
    path = tmp_path / f"x.{suffix}"
    path.write_text(line if suffix == "jsonl" else f"[{line}]")
    with pytest.raises(DataError, match=f"x.{suffix}, line 1: "):
        list(read_examples(source(path), Stop()))
