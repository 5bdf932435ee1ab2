"""Each of examples/states comes to the phase and the reason that its first line says."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dev.kubectl import Kubectl, wait_for
from kubetune.api.meta import API_VERSION
from tests.e2e import observe

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]

FOLDER = Path("examples/states")
STATES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "data.yaml")


@pytest.fixture(scope="module")
def applied(kubectl: Kubectl) -> Kubectl:
    """All of them at once, as the README there says."""
    kubectl("apply", "-f", str(FOLDER / "data.yaml"))
    kubectl("apply", "-f", str(FOLDER))
    return kubectl


@pytest.mark.parametrize("path", STATES, ids=lambda path: path.stem)
def test_it_comes_to_what_its_first_line_says(applied: Kubectl, path: Path) -> None:
    promise = path.read_text().splitlines()[0].removeprefix("# ").partition(":")[0]
    phase, _, reason = promise.partition(", ")
    for document in YAML(typ="safe").load_all(path):
        assert document["apiVersion"] == API_VERSION
        name = f"{document['kind'].lower()}/{document['metadata']['name']}"

        def reached(name: str = name) -> bool | None:
            status = observe.status(applied, name)
            return (status.get("phase") == phase and (not reason or reason in reasons(status))) or None

        try:
            wait_for(f"{name} coming to {promise}", reached, timeout=180)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {json.dumps(observe.status(applied, name), indent=1)}") from error
        if reason:
            # Whoever asks is told, in words.
            assert reason in applied("describe", name)


def reasons(status: dict[str, Any]) -> set[str]:
    """Every reason that a status gives."""
    failure = status.get("failure", {}).get("reason", "")
    return {failure, *(condition["reason"] for condition in status["conditions"])}
