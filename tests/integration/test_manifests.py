"""What the real API server accepts and refuses, and what it says, by the real kubectl."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from kubetune.api.kinds import KINDS
from tests.fixtures.cluster import Cluster
from tests.fixtures.golden import Golden
from tests.fixtures.kstatus import kstatus
from tests.fixtures.manifests import FOLDER, GOOD, dump, load, merge, minimal

pytestmark = pytest.mark.integration
SPECS = {kind.name: kind.spec for kind in KINDS}
BAD = [
    (kind, case, patch) for kind, cases in load(FOLDER / "bad.yaml").items() for case, patch in cases.items()
]
EDITS = load(FOLDER / "edits.yaml")


def cases_of(table: dict[str, dict[str, Any]]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(kind, case, edit) for kind, cases in table.items() for case, edit in cases.items()]


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
    order = [f"{kind}: {case}" for kind, case, _ in cases_of(EDITS["refused"])]
    return Answers(FOLDER / "edits.golden.yaml", golden, order)


def refusal(done: subprocess.CompletedProcess[str]) -> list[str]:
    """kubectl's words, one per fault, in a stable order (the API server goes through maps at random)."""
    assert done.returncode != 0, f"was accepted: {done.stdout}"
    head, *faults = done.stderr.strip().split("\n* ")
    return [head.strip(), *sorted(" ".join(fault.split()) for fault in faults)]


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_manifest_is_stored_whole_with_the_defaults_of_the_models(
    crds: Cluster, namespace: str, path: Path
) -> None:
    # Client-side apply drops null, which a transformers config may hold.
    crds.apply(path.read_text(), f"--namespace={namespace}", "--server-side")
    manifest = load(path)
    stored = crds.get(manifest["kind"], manifest["metadata"]["name"], f"--namespace={namespace}")
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


@pytest.mark.parametrize(("kind", "case", "patch"), BAD, ids=ids)
def test_bad_manifest_is_refused_with_field_and_remedy(
    crds: Cluster, bad_answers: Answers, kind: str, case: str, patch: dict[str, Any]
) -> None:
    manifest = dump(merge(minimal(kind), patch))
    bad_answers.check(
        f"{kind}: {case}", refusal(crds.kubectl("apply", "--dry-run=server", "-f-", input=manifest))
    )


@pytest.mark.parametrize(("kind", "case", "edit"), cases_of(EDITS["refused"]), ids=ids)
def test_edit_of_an_immutable_block_is_refused(
    crds: Cluster, namespace: str, edit_answers: Answers, kind: str, case: str, edit: dict[str, Any]
) -> None:
    edit_answers.check(f"{kind}: {case}", refusal(edited(crds, namespace, kind, edit)))


@pytest.mark.parametrize(("kind", "case", "edit"), cases_of(EDITS["accepted"]), ids=ids)
def test_other_edit_is_accepted(
    crds: Cluster, namespace: str, kind: str, case: str, edit: dict[str, Any]
) -> None:
    done = edited(crds, namespace, kind, edit)
    assert done.returncode == 0, done.stderr


def edited(
    cluster: Cluster, namespace: str, kind: str, edit: dict[str, Any]
) -> subprocess.CompletedProcess[str]:
    """Create an object as it was before, then try to apply it as it is after the edit."""
    before = merge(minimal(kind), edit.get("before", {}))
    cluster.apply(dump(before), f"--namespace={namespace}")
    after = merge(before, edit["after"])
    return cluster.kubectl("apply", f"--namespace={namespace}", "--dry-run=server", "-f-", input=dump(after))


def contains(stored: Any, given: Any) -> bool:
    """Whether nothing that was given has been lost or changed."""
    if isinstance(given, dict):
        return isinstance(stored, dict) and all(
            key in stored and contains(stored[key], value) for key, value in given.items()
        )
    if isinstance(given, list):
        return isinstance(stored, list) and len(stored) == len(given) and all(map(contains, stored, given))
    return bool(stored == given)


@pytest.mark.parametrize(
    "path", sorted((FOLDER.parents[2] / "examples").rglob("*.yaml")), ids=lambda p: p.stem
)
def test_example_is_accepted(crds: Cluster, path: Path) -> None:
    if path.name != "kustomization.yaml":
        done = crds.kubectl("apply", "--dry-run=server", f"--filename={path}")
        assert done.returncode == 0, done.stderr


def test_tables_and_golden_files_agree(bad_answers: Answers, edit_answers: Answers) -> None:
    assert list(bad_answers.expected) == bad_answers.order
    assert list(edit_answers.expected) == edit_answers.order
