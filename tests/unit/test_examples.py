"""The examples say what they mean to show."""

from typing import Any

import pytest
from ruamel.yaml import YAML

from dev.cluster.paths import REPOSITORY
from kubetune.api.kinds import KINDS
from kubetune.api.meta import API_VERSION

pytestmark = pytest.mark.unit

SPECS = {kind.name: kind.spec for kind in KINDS}
OURS = [
    pytest.param(document, id=path.stem)
    for path in sorted((REPOSITORY / "examples").rglob("*.yaml"))
    for document in YAML(typ="safe").load_all(path)
    if document.get("apiVersion") == API_VERSION
]


@pytest.mark.parametrize("manifest", OURS)
def test_every_example_is_valid_and_its_score_is_better_when_it_is_higher(manifest: dict[str, Any]) -> None:
    """SCORE is the first metric; of a loss nobody expects that less is more."""
    spec = SPECS[manifest["kind"]].model_validate(manifest["spec"])
    evaluation = getattr(spec, "evaluation", None)
    better = {"exact-match", "rouge-l", "accuracy", "f1", "reward"}
    if evaluation and evaluation.metrics and better & {*evaluation.metrics}:
        assert evaluation.metrics[0] in better
