"""Every CEL rule of the CRDs is tried both ways, and the models refuse what the API server refuses."""

import re
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import ValidationError

from kubetune.api.kinds import KINDS, Kind
from tests.fixtures.manifests import FOLDER, GOOD, load, merge, minimal
from tests.fixtures.schemas import NODES, values_at

pytestmark = pytest.mark.unit

SPECS = {kind.name: kind.spec for kind in KINDS}
BAD: dict[str, dict[str, Any]] = load(FOLDER / "bad.yaml")
ANSWERS: dict[str, list[str]] = load(FOLDER / "bad.golden.yaml") | load(FOLDER / "edits.golden.yaml")
LIFECYCLE = {"suspend", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"}
CHANGEABLE = {
    "PretrainJob": LIFECYCLE,
    "FineTuneJob": LIFECYCLE,
    "AdapterSet": {"engine", "gateway", "replicas", "adapters", "service", "podDisruptionBudget"},
}
PLACES = [
    (kind, path, node, rule)
    for kind, nodes in NODES.items()
    for path, node in nodes
    for rule in node.get("x-kubernetes-validations", [])
]
"""Every rule where it stands."""
RULES = sorted({(rule["rule"], rule["message"]) for *_, rule in PLACES})


def refused() -> set[tuple[str, str, str]]:
    """Kind, path and message of every fault that the API server has named."""
    out = set()
    for case, faults in ANSWERS.items():
        for fault in faults:
            path, _, rest = fault.split(" is invalid: ")[-1].partition(": Invalid value: ")
            messages = {message for _, message in RULES if rest.endswith(message)}
            out |= {(case.split(": ")[0], re.sub(r"\[[^]]*]", "[]", path), message) for message in messages}
    return out


def accepted() -> set[tuple[str, str]]:
    """Kind and path of every schema that some good manifest, its defaults filled in, has a value for."""
    out = set()
    for manifest in map(load, GOOD):
        kind = manifest["kind"]
        whole = manifest | {"spec": SPECS[kind].model_validate(manifest["spec"]).wire()}
        out |= {(kind, path) for path, _ in NODES[kind] if values_at(whole, path)}
    return out


REFUSED, ACCEPTED = refused(), accepted()


@pytest.mark.parametrize(("rule", "message"), RULES, ids=[f"rule{n}" for n in range(len(RULES))])
def test_every_rule_has_an_accepting_and_a_refusing_case(rule: str, message: str) -> None:
    """Transition rules are accepted by the edits of test_manifests, which leave other blocks as they are."""
    places = [place for place in PLACES if place[3]["rule"] == rule and place[3]["message"] == message]
    fields = {
        (kind, (path + entry.get("fieldPath", "")).lstrip("."), message) for kind, path, _, entry in places
    }
    assert {(kind, path) for kind, path, *_ in places} & ACCEPTED, f"no good manifest is judged by {rule}"
    assert fields & REFUSED, f"no bad manifest breaks {rule}"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_block_that_cannot_be_changed_has_a_rule(kind: Kind) -> None:
    def has_one_value(annotation: Any) -> bool:
        return get_origin(annotation) is Literal and len(get_args(annotation)) == 1

    fields = {field.alias for field in kind.spec.model_fields.values() if not has_one_value(field.annotation)}
    frozen = {
        rule["fieldPath"].lstrip(".")
        for name, path, _, rule in PLACES
        if name == kind.name and path == "spec" and "oldSelf" in rule["rule"]
    }
    assert frozen == fields - CHANGEABLE[kind.name]


# What spans several fields, names of objects and duplicates are judged by the API server alone; and pydantic
# reads a number written as text.
_OF_BLOCKS = tuple(
    rule["message"]
    for _, _, node, rule in PLACES
    if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields")
)
_LEFT_TO_THE_API_SERVER = re.compile(
    "metadata.name: |Duplicate value: |learningRate in body must be of type number"
)


@pytest.mark.parametrize(("kind", "case"), [(kind, case) for kind, cases in BAD.items() for case in cases])
def test_models_refuse_what_the_api_server_refuses(kind: str, case: str) -> None:
    faults = [fault for fault in ANSWERS[f"{kind}: {case}"] if not fault.endswith(" is invalid:")]
    ours = [
        fault
        for fault in faults
        if not fault.startswith("<nil>")
        and not fault.endswith(_OF_BLOCKS)
        and not _LEFT_TO_THE_API_SERVER.search(fault)
    ]
    spec = merge(minimal(kind), BAD[kind][case]).get("spec")
    if ours:
        with pytest.raises(ValidationError):
            SPECS[kind].model_validate(spec)
    else:
        SPECS[kind].model_validate(spec)
