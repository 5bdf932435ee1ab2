"""English and Python text that is on every machine: the corpus and the instruction pairs of the quickstart.

Run as `python stdlib_data.py <folder>`. Writes, from CPython's own standard library:

    corpus/topics.jsonl      the language reference that `help()` shows      {"text"}
    corpus/docstrings.jsonl  every docstring                                 {"text"}
    corpus/sources.jsonl     every source file                               {"text"}
    pairs/kind.jsonl         "What is ThreadPool?" -> "A class. Make an instance of it."    (Alpaca)
    pairs/scope.jsonl        "What is _spawn?" -> "Private. It may change at any time."      (Alpaca)
"""

import ast
import hashlib
import json
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

SKIPPED = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "turtledemo",
    "pydoc_data",
}
QUESTION = "What is {name}?"
KINDS = {
    "function": "A function. Call it.",
    "class": "A class. Make an instance of it.",
    "exception": "An exception. Raise it or catch it.",
    "constant": "A constant. Read it.",
}
SCOPES = {
    "public": "Public. Use it.",
    "private": "Private. It may change at any time.",
    "special": "Special. Python itself uses it.",
}
LARGEST_CLASS = 1500
"""Names per answer, so that giving the same answer to everything is not a good one."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Source and syntax tree of every module of the standard library, sorted by path."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if SKIPPED.isdisjoint(path.relative_to(root).parts):
            try:
                source = path.read_text(encoding="utf-8")
                yield source, ast.parse(source)
            except (UnicodeDecodeError, SyntaxError) as error:
                print(f"skipped {path.name}: {error}", file=sys.stderr)


def documented(tree: ast.Module) -> Iterator[str]:
    """Every docstring of a module's functions and classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (
            doc := ast.get_docstring(node)
        ):
            yield doc


def named(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Every name that a module defines, and its kind."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, "function"
            case ast.ClassDef(name=name):
                yield name, "exception" if re.search(r"(Error|Exception|Warning)$", name) else "class"
            case ast.Assign(targets=[ast.Name(id=name)]) if re.fullmatch(r"[A-Z][A-Z0-9_]{2,}", name):
                yield name, "constant"


def scope(name: str) -> str:
    """Who may use a name, by Python's convention."""
    if re.fullmatch(r"__\w+__", name):
        return "special"
    return "private" if name.startswith("_") else "public"


def write(path: Path, records: Iterable[dict[str, str]]) -> None:
    """Write JSON Lines and say how much it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path}: {len(lines):,} records, {path.stat().st_size / 1e6:.1f} MB")


def balanced(labelled: Iterable[tuple[str, str]], answers: dict[str, str]) -> list[dict[str, str]]:
    """Alpaca records of names and their labels, with at most `LARGEST_CLASS` of each label."""
    room = dict.fromkeys(answers, LARGEST_CLASS)
    records = []
    for name, label in labelled:
        if room[label] > 0:
            room[label] -= 1
            records.append({"instruction": QUESTION.format(name=name), "output": answers[label]})
    return records


def main(folder: Path) -> None:
    """Write the corpus and the pairs below a folder."""
    sources: list[str] = []
    docstrings: list[str] = []
    kinds: dict[str, str] = {}
    for source, tree in modules():
        sources.append(source)
        docstrings.extend(documented(tree))
        kinds.update(named(tree))
    write(folder / "corpus/topics.jsonl", ({"text": text} for text in topics.values()))
    write(folder / "corpus/docstrings.jsonl", ({"text": text} for text in docstrings))
    write(folder / "corpus/sources.jsonl", ({"text": text} for text in sources))
    # By hash: a class that is cut to size keeps names of every module.
    names = sorted(kinds, key=lambda name: hashlib.sha256(name.encode()).digest())
    write(folder / "pairs/kind.jsonl", balanced(((name, kinds[name]) for name in names), KINDS))
    write(folder / "pairs/scope.jsonl", balanced(((name, scope(name)) for name in names), SCOPES))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
