"""Which remote files a path or pattern means: the same as `data.read` finds in a folder of them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetune_trainer.data.read import files_of
from kubetune_trainer.errors import DataError
from kubetune_trainer.sources.names import check_places, choose_data, choose_model, fixed_folder
from tests.fixtures.runs import source

NAMES = [
    "a.jsonl",
    "b.txt",
    "c.bin",
    "sub/a.jsonl",
    "sub/deep/b.json",
    "sub/deep/er/c.txt",
    "other/x.jsonl",
    "sub.jsonl/in.txt",
    ".hidden/a.jsonl",
    "sub/.git/x.txt",
    "a[1].txt",
    "folder/.x.txt",
    "packed/a.jsonl.gz",
    "packed/b.txt.zst",
    "packed/c.parquet",
    "packed/d.json.gz",
    "packed/e.tar.gz",
]
PATTERNS = [
    "",
    "a.jsonl",
    "sub",
    "sub/",
    "*.jsonl",
    "*",
    "sub/*",
    "**",
    "**/*.txt",
    "sub/**",
    "sub/**/*.txt",
    "*/a.jsonl",
    "s*b/de*/*",
    "sub.jsonl",
    "a[1].txt",
    "**/deep",
    "s**b/*",
    "other/**/x.jsonl",
    "packed",
    "**/*.gz",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_same_as_of_a_mounted_folder(tmp_path: Path, pattern: str):
    same(tmp_path, NAMES, pattern)


part = st.sampled_from(["a", "ab", "b", "*", "a*", "*b", "**", "c.txt", "*.txt"])


@given(st.lists(part, min_size=1, max_size=4).map("/".join))
def test_any_pattern(tmp_path_factory: pytest.TempPathFactory, pattern: str):
    names = [f"{x}{y}{z}.txt" for x in ("a/", "ab/", "") for y in ("b/", "a/ab/", "") for z in ("c", "a")]
    same(tmp_path_factory.mktemp("names"), names, pattern)


def same(folder: Path, names: list[str], pattern: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    path = pattern.strip("/")
    try:
        found = [f.relative_to(folder).as_posix() for f in files_of(source(folder / path, root=folder))]
    except DataError:
        return
    # More may be downloaded than is read, but never less.
    assert set(found) <= set(choose_data(names, path, "source"))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("none.jsonl", "nothing is there"),
        ("c.bin", "must end in"),
        ("sub/deep/er/*.json", "nothing is there"),
    ],
)
def test_what_is_not_there_says_what_to_do(path: str, text: str):
    with pytest.raises(DataError, match=text):
        choose_data(NAMES, path, "source")


def test_of_a_model_only_what_we_load():
    names = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "pytorch_model.bin",
        "consolidated.00.pth",
        "consolidated.safetensors",
        "onnx/model.onnx",
        ".gitattributes",
        "README.md",
        "model.gguf",
    ]
    assert choose_model(names, "", "base") == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "README.md",
    ]
    assert choose_model([f"llama/{n}" for n in names], "llama", "base")[0] == "llama/config.json"
    with pytest.raises(DataError, match="convert it"):
        choose_model(["config.json", "pytorch_model.bin"], "", "base")
    with pytest.raises(DataError, match="nothing is there"):
        choose_model(names, "llama", "base")


@pytest.mark.parametrize(
    "names",
    [
        ["../a"],
        ["a/../b"],
        ["/etc/passwd"],
        ["a//b"],
        ["a/./b"],
        ["a\nb"],
        ["a\0b"],
        ["a" * 256],
        ["a", "a/b"],
    ],
)
def test_names_that_are_no_places_of_their_own(names: list[str]):
    with pytest.raises(DataError, match="rename"):
        check_places(names, "source")


def test_folder_before_a_pattern():
    cases = {"a/b": "a/b", "a/*/b": "a", "*": "", "a/b*/c": "a", "": ""}
    assert {path: fixed_folder(path) for path in cases} == cases
