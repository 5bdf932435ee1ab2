"""What the real API server accepts and refuses, and what kubectl says of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from kubetune.api.kinds import KINDS
from tests.fixtures.cluster import Cluster
from tests.fixtures.golden import Golden
from tests.fixtures.kstatus import kstatus
from tests.fixtures.manifests import FOLDER, GOOD, dump, load, merge, minimal
from tests.fixtures.refusals import path_of, said_by, said_of

pytestmark = pytest.mark.integration
SPECS = {kind.name: kind.spec for kind in KINDS}
BAD = [
    (kind, case, patch) for kind, cases in load(FOLDER / "bad.yaml").items() for case, patch in cases.items()
]
EDITS = load(FOLDER / "edits.yaml")


def cases_of(table: dict[str, dict[str, Any]]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(kind, case, edit) for kind, cases in table.items() for case, edit in cases.items()]


REFUSED = cases_of(EDITS["refused"])


def ids(case: Any) -> str | None:
    return case.replace(" ", "-") if isinstance(case, str) else ""


class Answers:
    """A golden file with one answer per case."""

    def __init__(self, path: Path, golden: Golden, order: list[str]) -> None:
        self.path, self.golden, self.order = path, golden, order
        self.expected: dict[str, list[str]] = load(path) if path.is_file() else {}

    def check(self, case: str, answer: list[str]) -> None:
        if self.golden.update:
            self.expected[case] = answer
            self.expected = {key: self.expected[key] for key in self.order if key in self.expected}
            self.path.write_text(dump(self.expected))
        assert answer == self.expected.get(case), "if the answer is good, run with --update-golden"


@pytest.fixture(scope="module")
def bad_answers(golden: Golden) -> Answers:
    return Answers(FOLDER / "bad.golden.yaml", golden, [f"{kind}: {case}" for kind, case, _ in BAD])


@pytest.fixture(scope="module")
def edit_answers(golden: Golden) -> Answers:
    order = [f"{kind}: {case}" for kind, case, _ in REFUSED]
    return Answers(FOLDER / "edits.golden.yaml", golden, order)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_manifest_is_stored_whole_with_the_defaults_of_the_models(
    crds: Cluster, namespace: str, path: Path
) -> None:
    # Client-side apply drops null, which a transformers config may hold.
    crds.apply(path.read_text(), f"--namespace={namespace}", "--server-side")
    manifest = load(path)
    stored = crds.api.get(f"{path_of(manifest['kind'], namespace)}/{manifest['metadata']['name']}")
    assert stored
    assert contains(stored["spec"], manifest["spec"])
    assert stored["spec"] == SPECS[manifest["kind"]].model_validate(manifest["spec"]).wire()


@pytest.mark.parametrize("kind", SPECS)
def test_a_resource_that_nobody_has_looked_at_is_in_progress(
    crds: Cluster, namespace: str, kind: str
) -> None:
    given = merge(minimal(kind), {"status": {"observedGeneration": 1}})
    crds.apply(dump(given), f"--namespace={namespace}")
    stored = crds.get(kind, given["metadata"]["name"], f"--namespace={namespace}")
    assert stored["status"] == {"observedGeneration": -1}
    assert kstatus(stored) == ("InProgress", "not observed yet")


def by_kubectl(table: list[tuple[str, str, dict[str, Any]]], kind: str, case: str) -> bool:
    """Whether it is the first case of its kind: only these ask kubectl itself, without --chaos=long."""
    return next(first for of, first, _ in table if of == kind) == case


@pytest.mark.parametrize(("kind", "case", "patch"), BAD, ids=ids)
def test_bad_manifest_is_refused_with_field_and_remedy(
    crds: Cluster, bad_answers: Answers, thorough: bool, kind: str, case: str, patch: dict[str, Any]
) -> None:
    manifest = merge(minimal(kind), patch)
    name = f"{kind}: {case}"
    if thorough or by_kubectl(BAD, kind, case) or not is_json(manifest):
        done = crds.kubectl("apply", "--dry-run=server", "-f-", input=dump(manifest))
        bad_answers.check(name, said_by(done))
    if is_json(manifest):
        query = "?dryRun=All&fieldValidation=Strict"
        bad_answers.check(name, said_of(*crds.api.call("POST", path_of(kind) + query, manifest)))


@pytest.mark.parametrize(("kind", "case", "edit"), REFUSED, ids=ids)
def test_edit_of_an_immutable_block_is_refused(
    crds: Cluster,
    namespace: str,
    edit_answers: Answers,
    thorough: bool,
    kind: str,
    case: str,
    edit: dict[str, Any],
) -> None:
    before = merge(minimal(kind), edit.get("before", {}))
    after = merge(before, edit["after"])
    if thorough or by_kubectl(REFUSED, kind, case):
        crds.apply(dump(before), f"--namespace={namespace}")
        words = ("apply", f"--namespace={namespace}", "--dry-run=server", "-f-")
        edit_answers.check(f"{kind}: {case}", said_by(crds.kubectl(*words, input=dump(after))))
    edit_answers.check(f"{kind}: {case}", said_of(*edited(crds, namespace, kind, before, after)))


@pytest.mark.parametrize(("kind", "case", "edit"), cases_of(EDITS["accepted"]), ids=ids)
def test_other_edit_is_accepted(
    crds: Cluster, namespace: str, kind: str, case: str, edit: dict[str, Any]
) -> None:
    before = merge(minimal(kind), edit.get("before", {}))
    code, answer = edited(crds, namespace, kind, before, merge(before, edit["after"]))
    assert code == 200, answer


def edited(
    cluster: Cluster, namespace: str, kind: str, before: dict[str, Any], after: dict[str, Any]
) -> tuple[int, Any]:
    """Create an object as it was before, then try to make it what it is after the edit."""
    cluster.api.create(path_of(kind, namespace), before)
    path = f"{path_of(kind, namespace)}/{before['metadata']['name']}"
    stored = cluster.api.get(path)
    assert stored
    meant = after | {"metadata": stored["metadata"]}
    return cluster.api.call("PUT", f"{path}?dryRun=All&fieldValidation=Strict", meant)


def is_json(manifest: Any) -> bool:
    """Whether it holds nothing that YAML has and JSON has not."""
    try:
        json.dumps(manifest, allow_nan=False)
    except ValueError:
        return False
    return True


def contains(stored: Any, given: Any) -> bool:
    """Whether nothing that was given has been lost or changed."""
    if isinstance(given, dict):
        return isinstance(stored, dict) and all(
            key in stored and contains(stored[key], value) for key, value in given.items()
        )
    if isinstance(given, list):
        return isinstance(stored, list) and len(stored) == len(given) and all(map(contains, stored, given))
    return bool(stored == given)


def test_examples_are_accepted(crds: Cluster) -> None:
    paths = sorted((FOLDER.parents[2] / "examples").rglob("*.yaml"))
    files = [f"--filename={path}" for path in paths if path.name != "kustomization.yaml"]
    done = crds.kubectl("apply", "--dry-run=server", *files)
    assert done.returncode == 0, done.stderr


def test_tables_and_golden_files_agree(bad_answers: Answers, edit_answers: Answers) -> None:
    assert list(bad_answers.expected) == bad_answers.order
    assert list(edit_answers.expected) == edit_answers.order
