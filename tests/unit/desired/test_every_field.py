"""No field of the API is accepted and does nothing: change it, and something that is made changes.

Every field that some good manifest sets is changed to another good value or left out; then a child or the run
spec must differ.
"""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from kubetune.api.adapterset import AdapterSetSpec
from kubetune.api.kinds import KINDS
from kubetune.api.status import ResolvedBase
from kubetune.desired import adapterset
from kubetune.desired.adapterset_engine import engine_limits
from kubetune.desired.job import Turn, config_map, job
from kubetune.desired.reclaim import reclaim_job
from kubetune.desired.runspec import base_model, former_adapter, parse_spec, reward_model, run_spec
from tests.fixtures.manifests import GOOD, load
from tests.fixtures.schemas import NODES
from tests.unit.desired import test_adapterset_golden, test_jobs_golden

pytestmark = pytest.mark.unit

Object = dict[str, Any]
Path = tuple[str | int, ...]
META = {"namespace": "team", "uid": "11111111-2222-3333-4444-555555555555"}
SPECS = {kind.name: kind.spec for kind in KINDS}
DECIDED = {
    # What the reconcilers decide with, each with tests of its own.
    "suspend", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "output.reclaimPolicy",
    # What is resolved before children are made, likewise (test_adapterset_resolve).
    "adapters[].source.jobRef.name", "adapters[].source.jobSelector.matchLabels[]", "adapters[].source.uri",
    "adapters[].digest", "adapters[].name",
    # There is but one value.
    "engine.type", "quantization.type",
}  # fmt: skip


def rendered(resource: Object) -> str:
    """All that is made of a resource."""
    resource = {**resource, "metadata": {**resource["metadata"], **META}}
    if resource["kind"] == "AdapterSet":
        return json.dumps(served(resource), sort_keys=True)
    return json.dumps(trained(resource), sort_keys=True)


def trained(resource: Object) -> list[Object]:
    settings = test_jobs_golden.SETTINGS
    spec = parse_spec(resource)
    base = getattr(spec, "base_model", None) or getattr(getattr(spec, "model", None), "from_", None)
    start, judge = getattr(spec, "adapter", None), getattr(getattr(spec, "reward", None), "model", None)
    run = run_spec(
        resource,
        spec,
        base_model(*_of(base)) if base else None,
        former_adapter(*_of(start)) if start else None,
        reward_model(*_of(judge)) if judge else None,
    )
    text = run.canonical()
    described = config_map(resource, text, settings)
    return [
        {"run": text},
        job(resource, run, described["metadata"]["name"], Turn(1), settings),
        reclaim_job(resource, settings),
    ]


def _of(source: Any) -> tuple[Any, ...]:
    """URI, digest and Secret of a source; a job's artifact lies where its name says."""
    if source.job_ref:
        return f"pvc://{source.job_ref.kind.lower()}/{source.job_ref.name}", None
    if not source.uri:
        raise ValueError("comes from nowhere")
    return source.uri, source.digest, source.secret_ref


def served(resource: Object) -> list[Object]:
    spec = AdapterSetSpec.model_validate(resource["spec"])
    where = spec.base_model
    named = where.job_ref and f"pvc://{where.job_ref.kind.lower()}/{where.job_ref.name}"
    base = ResolvedBase(uri=where.uri or named or "", digest=where.digest)
    limits = engine_limits(
        spec.engine, adapters=len(spec.adapters), ranks=[], needed=["c"], existing=["c"], running=None
    )
    settings = test_adapterset_golden.SETTINGS
    budget = adapterset.disruption_budget(resource, spec)
    return [
        adapterset.table(spec, base, [], limits.max_lora_rank).wire(),
        adapterset.service(resource, spec),
        adapterset.deployment(resource, spec, base, limits, spec.replicas, settings),
        *([budget] if budget else []),
    ]


def places(value: Any, at: Path = ()) -> Iterator[Path]:
    """Every plain value in a spec."""
    if not isinstance(value, dict | list):
        yield at
        return
    for step, child in value.items() if isinstance(value, dict) else enumerate(value):
        yield from places(child, (*at, step))


def schema_path(kind: str, at: Path) -> str | None:
    """The schema's path of a place; None below what has no schema."""
    paths = dict(NODES[kind])
    path = "spec"
    for step in at:
        as_field, as_item = f"{path}.{step}", f"{path}[]"
        path = as_field if as_field in paths else as_item
        if path not in paths:
            return None
    return path.removeprefix("spec.")


def others(node: Object, value: Any) -> Iterator[Any]:
    """Other values of a field."""
    yield from (choice for choice in node.get("enum", ()) if choice != value)
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1, value * 2, value / 2 if isinstance(value, float) else value // 2)
    elif isinstance(value, str):
        yield from (f"{value}x", f"x{value}", f"{value[:-1]}0", f"{value[:-1]}1", re.sub(r"\d+", "7", value))
        yield from ("metadata.uid", "10%", "7", "sha256:" + "7" * 64)


def changed(spec: Object, at: Path, node: Object) -> Iterator[Object]:
    """A spec with another value in a place, or none."""
    *way, last = at

    def copied() -> tuple[Object, Any]:
        whole = copy.deepcopy(spec)
        parent: Any = whole
        for step in way:
            parent = parent[step]
        return whole, parent

    _, parent = copied()
    for other in others(node, parent[last]):
        whole, parent = copied()
        parent[last] = other
        yield whole
    whole, parent = copied()
    del parent[last]
    yield whole


def effects() -> dict[tuple[str, str], bool]:
    """By kind and path: whether a change of it has shown in any good manifest."""
    found: dict[tuple[str, str], bool] = {}
    for path in GOOD:
        manifest = load(path)
        kind = manifest["kind"]
        nodes = dict(NODES[kind])
        before = rendered(manifest)
        for at in places(manifest["spec"]):
            name = schema_path(kind, at)
            if name is None or found.get((kind, name)):
                continue
            found[kind, name] = any(
                _shows(manifest, spec, before)
                for spec in changed(manifest["spec"], at, nodes[f"spec.{name}"])
            )
    return found


def _shows(manifest: Object, spec: Object, before: str) -> bool:
    try:
        SPECS[manifest["kind"]].model_validate(spec)
        return rendered({**manifest, "spec": spec}) != before
    except ValueError:
        return False  # It is no good manifest any more.


EFFECTS = effects()


def fields(kind: str) -> Iterator[tuple[str, tuple[frozenset[str], str]]]:
    """Path of each plain field, and which field of which block it is: some blocks stand in several places."""
    nodes = dict(NODES[kind])
    for path, node in nodes.items():
        parent, _, name = path.removesuffix("[]").rpartition(".")
        if path.startswith("spec.") and not {"properties", "items", "additionalProperties"} & node.keys():
            yield path.removeprefix("spec."), (frozenset(nodes[parent].get("properties", ())), name)


def test_every_field_is_set_by_a_good_manifest() -> None:
    every = [(kind, path, field) for kind in NODES for path, field in fields(kind)]
    tried = {field for kind, path, field in every if (kind, path) in EFFECTS}
    assert {(kind, path) for kind, path, field in every if field not in tried} == set()


def test_no_field_does_nothing() -> None:
    idle = {(kind, path) for (kind, path), shows in EFFECTS.items() if not shows}
    assert {(kind, path) for kind, path in idle if path not in DECIDED} == set()
    assert {path for _, path in idle} == DECIDED, "the rest has an effect by now"
