"""The generated CRDs: up to date, small, structural, described."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dev.crds.__main__ import main
from dev.crds.generate import CHART, generated
from tests.fixtures.schemas import NODES

pytestmark = pytest.mark.unit

# kubectl apply stores the whole manifest in one annotation: that is what an annotation may hold.
LARGEST = 262_144
# JSON Schema keywords, by the type they have a meaning for.
KEYWORDS = {
    "string": {"maxLength", "minLength", "pattern", "format"},
    "array": {"items", "maxItems", "minItems", "uniqueItems", "x-kubernetes-list-type"},
    "object": {"properties", "required", "additionalProperties", "maxProperties", "minProperties"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "boolean": set(),
}
KEYWORDS["integer"] = KEYWORDS["number"]
UNSTRUCTURED = {"$ref", "$defs", "title", "const", "anyOf", "oneOf", "allOf"}

every_kind = pytest.mark.parametrize("kind", NODES)


def documents() -> dict[Path, Any]:
    manifests = {p: text for p, text in generated().items() if p.suffix == ".yaml"}
    return {path: YAML(typ="safe").load(text) for path, text in manifests.items()}


def test_files_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_check_names_stale_missing_and_superfluous_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(tmp_path)]
    assert main(root) == 0
    assert main([*root, "--check"]) == 0
    stale, missing, *_ = sorted(tmp_path.glob("crds/*.yaml"))
    stale.write_text("changed")
    missing.unlink()
    (tmp_path / "crds" / "old.yaml").write_text("of a kind that is gone")
    assert main([*root, "--check"]) == 1
    named = capsys.readouterr().err
    assert all(name in named for name in (stale.name, missing.name, "old.yaml", "make crds"))
    assert main(root) == 0
    assert main([*root, "--check"]) == 0


def test_each_fits_an_annotation() -> None:
    sizes = {p: len(text.encode()) for p, text in generated().items() if p.suffix == ".yaml"}
    assert {path: size for path, size in sizes.items() if size >= LARGEST} == {}


def test_only_the_copy_of_the_chart_is_kept_on_uninstall() -> None:
    for path, document in documents().items():
        expected = {"helm.sh/resource-policy": "keep"} if path.is_relative_to(CHART) else {}
        assert document["metadata"].get("annotations", {}) == expected


@every_kind
def test_every_keyword_has_a_meaning_for_its_type(kind: str) -> None:
    """A bound on the wrong type is silently ignored by the API server."""
    every = set().union(*KEYWORDS.values())
    typed = [(path, node) for path, node in NODES[kind] if not node.get("x-kubernetes-int-or-string")]
    assert {
        path: found for path, node in typed if (found := node.keys() & (every - KEYWORDS[node["type"]]))
    } == {}
    assert {path: found for path, node in NODES[kind] if (found := node.keys() & UNSTRUCTURED)} == {}


@every_kind
def test_every_field_is_described(kind: str) -> None:
    fields = [
        (path, node)
        for path, node in NODES[kind]
        if not path.endswith("[]") and path.startswith(("spec.", "status."))
    ]
    assert [path for path, node in fields if "description" not in node] == [
        "spec.model.config.model_type"
    ] * (kind == "PretrainJob")


@every_kind
def test_a_status_has_no_defaults_but_that_nobody_has_looked_at_it(kind: str) -> None:
    defaults = {p: node["default"] for p, node in NODES[kind] if p.startswith("status") and "default" in node}
    assert defaults == {"status": {"observedGeneration": -1}}
