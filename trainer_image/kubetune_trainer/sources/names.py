"""Which files of a listing a path or pattern means, as when `data.read` reads a mounted folder."""

import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

from kubetune_trainer.data.endings import KNOWN, kind_of
from kubetune_trainer.errors import DataError

# Never loaded: formats that can run code, and other frameworks' weights.
_OTHER_WEIGHTS = {
    ".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".pb", ".pickle", ".pkl",
    ".pt", ".pth", ".tflite",
}  # fmt: skip
_TABLES = (
    ".parquet", ".arrow", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".csv", ".csv.gz", ".tsv",
    ".tsv.gz", ".txt", ".txt.gz", ".zip",
)  # fmt: skip
_NO_TABLES = {
    "config.json", "dataset_dict.json", "dataset_info.json", "dataset_infos.json", "dummy_data.zip",
    "requirements.txt",
}  # fmt: skip
"""Files about a data set whose names end like those of tables."""
Choose = Callable[[Iterable[str], str, str], list[str]]
"""(names, path, where) -> those that are meant."""


def fixed_folder(path: str) -> str:
    """The folders before the first * of a pattern; the whole of a path without one."""
    parts = path.split("/")
    first = next((i for i, part in enumerate(parts) if "*" in part), len(parts))
    return "/".join(parts[:first])


def choose_data(names: Iterable[str], path: str, where: str) -> list[str]:
    """The data files that a file, a folder or a pattern means.

    Args:
        names: paths of files.
        path: what is meant; empty for everything.
        where: the source, for messages.

    Raises:
        DataError: there are none.
    """
    names = list(names)
    if path in names:
        if kind_of(path) is None:
            raise DataError(f"{where}: {path} must end in {KNOWN}: rename it")
        return [path]
    meant = re.compile(f"({_expression(path)})(/.*)?" if path else ".*", re.DOTALL)
    below = len(PurePosixPath(fixed_folder(path)).parts)
    found = [n for n in names if meant.fullmatch(n)]
    if not found:
        raise DataError(f"{where}: nothing is there: put the data there or correct the uri")
    found = [
        n
        for n in found
        if kind_of(n) and not any(part.startswith(".") for part in PurePosixPath(n).parts[below:])
    ]
    if not found:
        raise DataError(f"{where}: no file there ends in {KNOWN}: put one there or rename it")
    return found


def choose_model(names: Iterable[str], path: str, where: str) -> list[str]:
    """The useful files of a model's folder.

    Raises:
        DataError: no weights are among them.
    """
    inside = [n for n in names if not path or n.startswith(f"{path}/")]
    if not inside:
        raise DataError(f"{where}: nothing is there: put the model there or correct the uri")
    below = len(PurePosixPath(path).parts)
    found = [
        n
        for n in inside
        if PurePosixPath(n).suffix not in _OTHER_WEIGHTS
        and not (n.endswith(".safetensors") and PurePosixPath(n).name.startswith("consolidated"))
        and not any(part.startswith(".") for part in PurePosixPath(n).parts[below:])
    ]
    if not any(n.endswith(".safetensors") for n in found):
        raise DataError(f"{where}: no *.safetensors are there: name a model in that format, or convert it")
    return found


def choose_tables(names: Iterable[str], path: str, where: str) -> list[str]:
    """A data set's tables, and README.md, which says what each of them is; never its code.

    Raises:
        DataError: there are no tables.
    """
    names = list(names)
    found = [n for n in names if n.endswith(_TABLES) and PurePosixPath(n).name not in _NO_TABLES]
    if not found:
        raise DataError(f"{where}: no tables are there, and code is never run: choose another task")
    return found + [n for n in names if n == "README.md"]


def check_places(names: Iterable[str], where: str) -> None:
    """Refuse names that cannot all be files below one folder.

    Raises:
        DataError: names one of them.
    """
    known = set(names)
    for name in known:
        parts = name.split("/")
        folders = {"/".join(parts[:i]) for i in range(1, len(parts))}
        if any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts) or not _is_plain(name):
            raise DataError(f"{where}: {name!r} is no path of a file: rename it or choose another uri")
        if taken := folders & known:
            raise DataError(f"{where}: {min(taken)!r} is both a file and a folder: rename one of them")


def _is_plain(name: str) -> bool:
    return not re.search(r"[\x00-\x1f\x7f]", name)


def _expression(path: str) -> str:
    """A regular expression of a pattern: * within one name, ** over any number of folders."""
    while path.endswith("/**"):
        path = path.removesuffix("/**")  # what lies below is meant anyway
    parts = path.split("/")
    out = ""
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if part == "**":
            out += ".*" if last else "([^/]+/)*"
        else:
            out += "[^/]*".join(map(re.escape, part.split("*"))) + ("" if last else "/")
    return out
