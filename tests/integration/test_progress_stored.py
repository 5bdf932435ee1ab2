"""Whatever the receiver lets through, the API server stores: no post ends in an error, or in garbage."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dev.cluster.api import Api
from kubetune.api.kinds import PRETRAIN_JOB
from kubetune.api.meta import API_VERSION
from kubetune.progress.server import MAX_BODY_BYTES, parsed
from tests.fixtures.cluster import Cluster
from tests.fixtures.manifests import minimal

pytestmark = pytest.mark.integration

# What may be right comes often, or hardly anything would get through.
TEXTS = st.text(max_size=63) | st.text(max_size=80) | st.just("x" * 3000)
COUNTS = st.integers(0, 100) | st.integers(0, 2**53) | st.integers(-(2**70), 2**70) | st.floats() | st.none()
FIGURES = st.sampled_from(
    [
        "1.5",
        "-3e-5",
        "+.5",
        "7.",
        "9" * 63,
        "1_000",
        " 7",
        "٣",
        "1e999",
        "0x10",
        "nan",
        "a\0b",
        "\ud800",
        1,
        None,
    ]
)
NAMES = st.text(min_size=1, max_size=63) | TEXTS
METRICS = st.lists(st.fixed_dictionaries({"name": NAMES, "value": FIGURES}), max_size=80)
CHECKPOINTS = st.fixed_dictionaries({"step": COUNTS, "time": TEXTS, "uri": TEXTS, "digest": TEXTS})
UPDATES = st.fixed_dictionaries(
    {
        "trainerStatus": st.fixed_dictionaries(
            {},
            optional={
                "progressPercentage": COUNTS,
                "estimatedRemainingSeconds": COUNTS,
                "metrics": METRICS,
                "lastUpdatedTime": TEXTS,
            },
        )
    },
    optional={"lastCheckpoint": CHECKPOINTS},
)


@pytest.fixture(scope="module")
def job(crds: Cluster) -> tuple[Api, str]:
    api = Api(crds.kubeconfig)
    root = f"/apis/{API_VERSION}/namespaces/default/{PRETRAIN_JOB.plural}"
    api.create(root, minimal("PretrainJob") | {"metadata": {"name": "stored"}})
    return api, f"{root}/stored/status?dryRun=All&fieldValidation=Strict"


@settings(max_examples=100, derandomize=True, suppress_health_check=[*HealthCheck])
@given(update=UPDATES)
def test_what_is_let_through_can_be_stored(job: tuple[Api, str], update: dict[str, Any]) -> None:
    body = json.dumps(update).encode()
    if len(body) > MAX_BODY_BYTES:
        return
    try:
        status = parsed(body).wire()
    except ValueError:
        return
    api, path = job
    code, answer = api.call("PATCH", path, {"status": status})
    assert code == 200, answer
    stored = answer["status"]
    assert stored["trainerStatus"] == status["trainerStatus"]
    assert stored.get("lastCheckpoint") == status.get("lastCheckpoint")
