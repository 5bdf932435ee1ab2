"""tests/golden/jobs/X.in.yaml -> X.out.yaml: the children of a training job, byte for byte."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from kubetune.api.kinds import NAME_LENGTH
from kubetune.api.source import AdapterStart, BaseSource, RewardModel
from kubetune.api.status import JobStatus
from kubetune.desired.job import TrainingSettings, Turn, config_map, config_map_of, job, job_name
from kubetune.desired.runspec import base_model, former_adapter, parse_spec, reward_model, run_spec
from tests.fixtures.golden import Golden, as_yaml

GOLDEN = Path(__file__).parents[2] / "golden" / "jobs"
CASES = sorted(path.name.removesuffix(".in.yaml") for path in GOLDEN.glob("*.in.yaml"))
SETTINGS = TrainingSettings(
    image="kubetune/trainer:1",
    image_pull_policy="IfNotPresent",
    progress_url="https://kubetune.kubetune-system.svc:8443",
    progress_ca="-----BEGIN CERTIFICATE-----\n...\n-----END CERTIFICATE-----\n",
    operator_image="kubetune/operator:1",
)


@pytest.mark.parametrize("case", CASES)
def test_children(case: str, golden: Golden):
    golden.check(GOLDEN / f"{case}.out.yaml", dump(children(load(case))))


def test_the_order_of_sources_does_not_make_another_run():
    [resource, *_] = load("finetune-everything")
    before = children([resource])
    resource["spec"]["data"]["sources"].reverse()
    assert children([resource]) == before


def test_an_attempts_job_tells_which_run_spec_it_mounts():
    described, child = children(load("pretrain-minimal"))
    assert config_map_of(child) == described["metadata"]["name"]


def test_the_name_of_an_attempt_fits_a_label_with_its_index():
    [resource] = load("pretrain-minimal")
    resource["metadata"]["name"] = "n" * NAME_LENGTH
    assert len(f"{job_name(resource, 1)}-0") <= 63


def test_attempts_and_namesakes_have_names_of_their_own():
    [resource] = load("pretrain-minimal")
    again = {**resource, "metadata": {**resource["metadata"], "uid": "22222222-2222-3333-4444-555555555555"}}
    names = [job_name(r, attempt) for r in (resource, again) for attempt in (1, 2, 3)]
    assert len(set(names)) == len(names)
    assert names == [job_name(r, attempt) for r in (resource, again) for attempt in (1, 2, 3)]


def load(case: str) -> list[dict[str, Any]]:
    return [*YAML(typ="safe").load_all((GOLDEN / f"{case}.in.yaml").read_text())]


def children(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is built from a job, the job of its base, and which attempt it is."""
    resource, *rest = documents
    base_job = next((d for d in rest if "status" in d), None)
    turn = Turn(**next((d for d in rest if "attempt" in d), {"attempt": 1}))
    source = resource["spec"].get("baseModel") or resource["spec"]["model"].get("from", {})
    base = None
    if "uri" in source:
        typed = BaseSource.model_validate(source)
        base = base_model(typed.uri or "", typed.digest, typed.secret_ref)
    if base_job:
        artifact = JobStatus.model_validate(base_job["status"]).artifact
        assert artifact
        base = base_model(artifact.uri, artifact.digest)
    adapter = None
    if "adapter" in resource["spec"]:
        start = AdapterStart.model_validate(resource["spec"]["adapter"])
        adapter = former_adapter(start.uri or "", start.digest, start.secret_ref)
    reward = None
    if judge := resource["spec"].get("reward", {}).get("model"):
        model = RewardModel.model_validate(judge)
        reward = reward_model(model.uri or "", model.digest, model.secret_ref)
    run = run_spec(resource, parse_spec(resource), base, adapter, reward)
    described = config_map(resource, run.canonical(), SETTINGS)
    name = described["metadata"]["name"]
    return [described, job(resource, run, name, turn, SETTINGS)]


def dump(objects: list[dict[str, Any]]) -> str:
    """Documents as YAML, the run spec as something that a reviewer can read."""
    described, child = objects
    run = json.loads(described["data"]["run.json"])
    return as_yaml([{**described, "data": {**described["data"], "run.json": run}}, child])
