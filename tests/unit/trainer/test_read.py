import json
import os
from pathlib import Path

import pytest

from kubetune_trainer.data import lines, read
from kubetune_trainer.data.read import files_of, read_records
from kubetune_trainer.errors import DataError
from tests.fixtures.runs import source


def texts(path: Path, **more) -> list[tuple[str, int]]:
    return [(r.data["text"], r.line) for r in read_records(source(path, **more))]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '{"text":"x"}\n\n{"text":"y"}\n', [("x", 1), ("y", 3)]),
        ("a.jsonl", '{"text":"no newline at the end"}', [("no newline at the end", 1)]),
        ("a.jsonl", '\ufeff{"text":"byte order mark"}\n', [("byte order mark", 1)]),
        ("a.json", '[\n {"text":"x"},\n\n {"text":\n"y"}\n]\n', [("x", 2), ("y", 4)]),
        ("a.json", "[]", []),
        ("a.json", "\ufeff\n [\r\n]\t\n", []),
        ("a.json", '\n[{"text":"x"}\n,\n{"text":"y"}]\n \n', [("x", 2), ("y", 4)]),
        ("a.json", '{"text":"lines under the wrong ending"}\n', [("lines under the wrong ending", 1)]),
        ("a.txt", "one\ntwo\n", [("one\ntwo", 1)]),
        ("a.txt", "one\n<|endoftext|>\ntwo\n", [("one", 1), ("two", 3)]),
        ("a.txt", "", [("", 1)]),
    ],
)
def test_records_and_their_lines(tmp_path: Path, name: str, content: str, expected: list):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert texts(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text":"x"}\n{"text":\n', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", b'{"text":"x"}\n{"text":"\xff"}\n', "a.jsonl, line 2: not UTF-8"),
        ("a.jsonl", b'["x"]\n', "a.jsonl, line 1: a record must be an object"),
        ("a.jsonl", b'{"text":"x"}\n{"text":"y","text":"z"}\n', "line 2: .*the key 'text' twice"),
        ("a.json", b'[{"text":"x"},\n{"text":"y",\n"m":{"a":1,"a":1}}]', "line 2: .*the key 'a' twice"),
        ("a.json", b'{"data":\n[{"text":"y","text":"z"}]}', "line 1: .*the key 'text' twice"),
        ("a.json", b'[{"text":"x"},\n\n{"text" "y"}]', "a.json, line 3: not JSON"),
        ("a.json", b'[{"text":"x"},\n"y"]', "a.json, line 2: a record must be an object"),
        ("a.json", b'[{"text":"x"}', "a.json, line 1: not JSON"),
        ("a.json", b'[{"text":"x"}]\n[{"text":"y"}]', "a.json, line 2: something follows the list"),
        ("a.json", b'[{"text":"x"}] junk', "a.json, line 1: something follows the list"),
        (
            "a.json",
            b'[{"text":"x"}\n{"text":"y"}]',
            r"line 2: not JSON \(Expecting ',' or '\]' .* column 1\)",
        ),
        ("a.json", b'[{"text":"x"},\n,{"text":"y"}]', r"line 2: not JSON \(Expecting value at column 1\)"),
        ("a.json", b'[,{"text":"x"}]', r"line 1: not JSON \(Expecting value at column 2\)"),
        ("a.json", b'[{"text":"x"},\n]', "a.json, line [12]: not JSON"),
        ("a.json", b'[{"text":"x"},\n {"text":"\xff"}]', r"line 2: not UTF-8 \(byte 26 of the file\)"),
        ("a.json", b'[{"text":"\xe6', "a.json, line 1: not UTF-8"),
        ("a.json", b'{\n "data": ["x"]\n}', "line 1: no record .*must be a list of records"),
        ("a.txt", b"fine\nl\xe9gende\n", "a.txt, line 2: not UTF-8"),
        ("a.txt", "h\ni\n".encode("utf-16-le"), "a.txt, line 1: holds NUL characters: it is not plain UTF-8"),
        ("a.txt", b"a\n<|endoftext|>\nb\nc\0\n", "a.txt, line 4: holds NUL characters"),
    ],
)
def test_malformed_files_name_file_and_line(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        texts(tmp_path / name)


@pytest.mark.parametrize("piece", [1, 2, 7, 64])
def test_a_list_is_the_same_in_pieces_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
):
    monkeypatch.setattr(lines, "PIECE", piece)
    records = [{"text": "漢🙂" * n, "more": [{}, n]} for n in range(30)]
    whole = json.dumps(records, ensure_ascii=False, indent=1)
    (tmp_path / "a.json").write_text(whole, encoding="utf-8")
    at = [i for i, line in enumerate(whole.splitlines(), 1) if line == " {"]
    assert [(r.data, r.line) for r in read_records(source(tmp_path / "a.json"))] == [
        *zip(records, at, strict=True)
    ]
    (tmp_path / "a.json").write_text('[{"text": "x"}, {"text": "x"}, {"text" "x"}]')
    with pytest.raises(DataError, match=r"line 1: not JSON \(Expecting ':' delimiter at column 40\)"):
        texts(tmp_path / "a.json")


def test_a_string_may_hold_nul(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text":"a\\u0000"}')
    assert texts(tmp_path / "a.jsonl") == [("a\0", 1)]


def test_long_text_is_divided_at_empty_lines_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(read, "TEXT_PIECE", 20)
    content = "".join(f"line {i}\n" + "\n" * (i % 3 == 0) for i in range(30))
    (tmp_path / "a.txt").write_text(content)
    found = texts(tmp_path / "a.txt")
    assert len(found) > 5
    assert [line for text, _ in found for line in text.split()] == content.split()
    by_line = content.splitlines()
    assert all(by_line[start - 1] in text for text, start in found)


def test_text_without_empty_lines_is_divided_at_a_line_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(read, "TEXT_PIECE", 20)
    (tmp_path / "a.txt").write_text("word word\n" * 30)
    assert max(len(text) for text, _ in texts(tmp_path / "a.txt")) <= 50


def test_folders_globs_and_hidden_files(tmp_path: Path):
    for name in (
        "b/x.jsonl",
        "a.txt",
        "b/deep/y.json",
        "..data/a.txt",
        ".hidden.txt",
        "readme.md",
        "b/[1].jsonl",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}))

    def found(pattern: str) -> list[str]:
        files = files_of(source(tmp_path / pattern, root=tmp_path))
        return [f.relative_to(tmp_path).as_posix() for f in files]

    assert found(".") == ["a.txt", "b/[1].jsonl", "b/deep/y.json", "b/x.jsonl"]
    assert found("b") == ["b/[1].jsonl", "b/deep/y.json", "b/x.jsonl"]
    assert found("b/*.jsonl") == ["b/[1].jsonl", "b/x.jsonl"]
    assert found("**/*.json") == ["b/deep/y.json"]
    assert found("b/[1].jsonl") == ["b/[1].jsonl"], "only * is special"


def test_a_configmap_mount_reads_through_its_links(tmp_path: Path):
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..2026/train.jsonl").write_text('{"text":"x"}')
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "train.jsonl").symlink_to("..data/train.jsonl")
    assert texts(tmp_path / "train.jsonl") == [("x", 1)]
    assert files_of(source(tmp_path, root=tmp_path)) == [tmp_path / "train.jsonl"]


def test_links_within_the_volume_are_followed_and_each_file_is_read_once(tmp_path: Path):
    for name in ("parts/a.txt", "more/b.txt", "more/deep/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "parts/more").symlink_to("../more")
    (tmp_path / "parts/again.txt").symlink_to("a.txt")
    (tmp_path / "more/deep/round").symlink_to("../../parts")
    assert [text for text, _ in texts(tmp_path / "parts", root=tmp_path)] == [
        "parts/a.txt", "more/b.txt", "more/deep/c.txt",
    ]  # fmt: skip
    (tmp_path / "more/deep/round").unlink()
    assert [text for text, _ in texts(tmp_path / "parts/**", root=tmp_path)] == [
        "parts/a.txt", "more/b.txt", "more/deep/c.txt",
    ]  # fmt: skip


ODD = {
    # name: (what it is, what is said)
    "dangling.txt": (lambda path: path.symlink_to("nothing.txt"), "not a readable file"),
    "itself.jsonl": (lambda path: path.symlink_to("itself.jsonl"), "leads nowhere"),
    "round": (lambda path: path.symlink_to("round"), "leads nowhere"),
    "pipe.txt": (os.mkfifo, "not a readable file"),
    "environ.txt": (lambda path: path.symlink_to("/proc/self/environ"), "leads out of its volume"),
    "open.txt": (lambda path: path.symlink_to("/proc/self/fd/0"), "leads out of its volume"),
    "root": (lambda path: path.symlink_to("/proc/self/root"), "leads out of its volume"),
    "up": (lambda path: path.symlink_to(".."), "leads out of its volume"),
}


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("name", ODD)
def test_what_is_no_file_of_the_volume_is_an_error(tmp_path: Path, name: str, alone: bool):
    make, message = ODD[name]
    volume = tmp_path / "volume/data"
    volume.mkdir(parents=True)
    (volume / "good.txt").write_text("good")
    make(volume / name)
    if name == "round" and not alone:
        # It has no ending, and is no folder: nobody would take it for data.
        assert files_of(source(volume, root=volume)) == [volume / "good.txt"]
        return
    with pytest.raises(DataError, match=message):
        files_of(source(volume / name if alone else volume, root=volume))


@pytest.mark.parametrize("pattern", ["secret.txt", "linked/*.txt", "*", "linked", "."])
def test_nothing_outside_the_volume_is_read(tmp_path: Path, pattern: str):
    volume, outside = tmp_path / "volume", tmp_path / "outside"
    volume.mkdir()
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    (volume / "secret.txt").symlink_to(outside / "secret.txt")
    (volume / "linked").symlink_to(outside)
    with pytest.raises(DataError, match="leads out of its volume"):
        files_of(source(volume / pattern, root=volume))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.jsonl", "nothing is at"),
        ("empty", "ends in .jsonl, .json, .csv, .tsv, .txt or .par"),
        ("data.xml", "must end in"),
    ],
)
def test_missing_data(tmp_path: Path, name: str, message: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.xml").write_text("<a/>")
    with pytest.raises(DataError, match=message):
        files_of(source(tmp_path / name))
