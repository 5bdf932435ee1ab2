"""tests/golden/adapterset/X.in.yaml -> X.out.yaml: the children, byte for byte."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from kubetune.api.adapterset import AdapterSetSpec
from kubetune.api.status import AdapterSetStatus
from kubetune.controller.adapterset_gather import observed_claim
from kubetune.desired.adapterset import ServingSettings
from kubetune.desired.adapterset_keep import TEMPLATE_ANNOTATION
from kubetune.desired.adapterset_plan import Dependencies, plan
from kubetune.desired.adapterset_resolve import resolve, upcoming
from kubetune.references.job import referenced_job
from tests.fixtures.golden import Golden, as_yaml

GOLDEN = Path(__file__).parents[2] / "golden" / "adapterset"
SETTINGS = ServingSettings(
    gateway_image="kubetune/operator:1", engine_image="kubetune/engine:1", image_pull_policy="IfNotPresent"
)


@pytest.mark.parametrize("case", sorted(p.name.removesuffix(".in.yaml") for p in GOLDEN.glob("*.in.yaml")))
def test_children(case: str, golden: Golden):
    documents = list(YAML(typ="safe").load_all((GOLDEN / f"{case}.in.yaml").read_text()))
    golden.check(GOLDEN / f"{case}.out.yaml", as_yaml(children(documents)))


def children(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is built from an AdapterSet, jobs, claims and, if there is one, the Deployment that exists."""
    by_kind = {kind: [d for d in documents if d["kind"] == kind] for kind in {d["kind"] for d in documents}}
    [resource] = by_kind["AdapterSet"]
    spec = AdapterSetSpec.model_validate(resource["spec"])
    jobs = [referenced_job(k, d) for k in ("PretrainJob", "FineTuneJob") for d in by_kind.get(k, [])]
    claims = {d["metadata"]["name"]: observed_claim(d) for d in by_kind.get("PersistentVolumeClaim", [])}
    previous = AdapterSetStatus.model_validate(resource.get("status", {}))
    resolution = resolve(spec, previous, jobs, claims)
    assert resolution.base is not None
    needs = Dependencies(resolution, upcoming(spec, jobs), claims)
    [deployment] = by_kind.get("Deployment", [None])
    planned = plan(resource, spec, resolution.base, needs, deployment, SETTINGS)
    # Not twice in the file. That the reason stays the same is what lets an upgrade pass serving pods by.
    annotations = planned.deployment["metadata"]["annotations"]
    noted = json.loads(annotations[TEMPLATE_ANNOTATION])
    assert noted["template"] == planned.deployment["spec"]["template"]
    annotations[TEMPLATE_ANNOTATION] = json.dumps(noted | {"template": "the one below"})
    budget = [planned.disruption_budget] if planned.disruption_budget else []
    return [planned.config_map, planned.service, planned.deployment, *budget]
