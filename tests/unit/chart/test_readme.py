"""What README.md tells a new user to run leads to a served adapter."""

import json
import re
import shlex
from itertools import pairwise
from typing import Any

import pytest

from dev.cluster.paths import REPOSITORY
from kubetune.api.adapterset import AdapterSetSpec
from kubetune.desired.adapterset_engine import on_gpu
from tests.fixtures.helm import CHART, Helm, documents
from tests.fixtures.manifests import load, merge

pytestmark = pytest.mark.unit

BLOCKS = re.findall(
    r"^```(\w*)\n(.*?)^```$", (REPOSITORY / "README.md").read_text(), re.MULTILINE | re.DOTALL
)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    if not language
    for line in block.replace("\\\n", "").splitlines()
    if line
]


def commands(*words: str) -> list[list[str]]:
    found = [command for command in COMMANDS if command[: len(words)] == list(words)]
    assert found, f"README.md has no {' '.join(words)}"
    return found


def after(command: list[str], *flags: str) -> list[str]:
    return [value for flag, value in pairwise(command) if flag in flags]


def test_the_images_that_are_installed_are_those_that_are_built_and_can_serve_without_a_gpu(
    helm: Helm,
) -> None:
    built = {after(command, "-t")[0]: command for command in commands("docker", "build")}
    [install] = commands("helm", "install")
    done = helm(
        "template", "kubetune", str(CHART), *(f"--set={v}" for v in after(install, "--set")),
        values={"crds": {"install": False}},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [operator] = [d for d in documents(done.stdout) if d["kind"] == "Deployment"]
    [container] = operator["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    used = {container["image"], environment["KUBETUNE_TRAINER_IMAGE"], environment["KUBETUNE_ENGINE_IMAGE"]}
    assert used == built.keys() == {command[2] for command in commands("docker", "push")}
    engine = built[environment["KUBETUNE_ENGINE_IMAGE"] or ""]
    assert after(engine, "--build-arg") == ["DEPENDENCIES=engine"], "only that one holds a vLLM for CPUs"
    assert not on_gpu(quickstart_set().engine)


def quickstart_set(change: dict[str, Any] | None = None) -> AdapterSetSpec:
    manifest = load(REPOSITORY / "examples/quickstart/adapterset.yaml")
    return AdapterSetSpec.model_validate(merge(manifest, change or {})["spec"])


def test_the_patch_for_the_stock_engine_asks_for_a_gpu() -> None:
    [patch] = commands("kubectl", "patch", "adapterset/stdlib")
    assert on_gpu(quickstart_set(json.loads(after(patch, "--patch")[0])).engine)


def test_no_wait_ends_by_kubectls_default_of_30_seconds() -> None:
    for command in commands("kubectl", "wait"):
        assert [word for word in command if word.startswith("--timeout=")], command


def test_every_file_that_is_applied_is_there() -> None:
    for command in commands("kubectl", "apply"):
        for path in after(command, "-f", "-k"):
            assert (REPOSITORY / path).exists(), path
