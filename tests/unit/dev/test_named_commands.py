"""What documents, messages and comments advise to run exists."""

import re
from pathlib import Path

import pytest

from dev.cluster import requirements
from dev.cluster.paths import REPOSITORY
from dev.cluster.report import ClusterError

pytestmark = pytest.mark.unit

# A command stands in backticks, in brackets or on a line of its own; "make sure" does not.
NAMED = re.compile(r"(?:^|[`(])make ((?:-\w+ )*)([a-z][a-z-]*)((?: [A-Z_]+=[^\s`)]*)*)", re.MULTILINE)
TEXTS = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "dev/**/*.py",
        "tests/**/*.py",
        "benchmarks/*",
        "Makefile",
        "charts/**/*",
    )
    for path in REPOSITORY.glob(pattern)
    if path.is_file() and path != Path(__file__)
)


def test_every_make_target_and_variable_that_is_named_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    named = [(path.name, *found) for path in TEXTS for found in NAMED.findall(path.read_text())]
    assert len(named) > 15
    for where, _, target, variables in named:
        assert target in targets, f"{where}: make {target}"
        for variable in variables.split():
            name = variable.partition("=")[0]
            assert re.search(rf"\b{name}\b", makefile), f"{where}: make {target} {variable}"


def test_a_machine_without_linux_is_sent_to_where_the_readme_tells_of_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    with pytest.raises(ClusterError, match=r"README\.md says at the end of `See it work`"):
        requirements.for_size("full")
    section = (REPOSITORY / "README.md").read_text().split("## See it work")[1].split("\n## ")[0]
    assert "kind load docker-image" in section.strip().splitlines()[-1]
