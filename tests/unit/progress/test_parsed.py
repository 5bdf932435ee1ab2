"""What is kept of a post, and what is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetune.api.progress import MAX_METRICS, ProgressUpdate
from kubetune.progress.server import parsed


def metrics(*given: Any) -> list[tuple[str, str]]:
    update = parsed(json.dumps({"trainerStatus": {"metrics": given}}).encode())
    return [(metric.name, metric.value) for metric in update.trainer_status.metrics]


def test_a_whole_update_comes_through():
    checkpoint = {"step": 7, "time": "t", "uri": "pvc://x", "digest": "sha256:00"}
    numbers = {"progressPercentage": 3, "estimatedRemainingSeconds": 9, "lastUpdatedTime": "t"}
    sent = {
        "trainerStatus": {**numbers, "metrics": [{"name": "loss", "value": "1.5"}]},
        "lastCheckpoint": checkpoint,
    }
    assert parsed(json.dumps(sent).encode()).wire() == sent


def test_the_post_of_another_trainer_comes_through():
    # As transformers.integrations.KubeflowCallback sends it, and a field that a newer one might send.
    sent = {
        "trainerStatus": {
            "lastUpdatedTime": "2026-11-24T03:00:00.123456+00:00",
            "progressPercentage": 12,
            "metrics": [{"name": "grad_norm", "value": "0.25"}, {"name": "eval/loss", "value": "1e-05"}],
            "mood": "good",
        },
        "jobSet": {},
    }
    status = parsed(json.dumps(sent).encode()).trainer_status
    assert (status.progress_percentage, len(status.metrics)) == (12, 2)


@pytest.mark.parametrize(
    "value", ["nan", "NaN", "inf", "-Infinity", "", "much", "1,5", 1.5, None, {}, "9" * 64]
)
def test_a_metric_that_is_no_finite_number_is_dropped(value: Any):
    assert metrics({"name": "a", "value": value}, {"name": "b", "value": "1"}) == [("b", "1")]


@pytest.mark.parametrize(
    "given", [{}, {"name": "", "value": "1"}, {"name": "n" * 64, "value": "1"}, "a", None, 7, []]
)
def test_a_metric_of_another_form_is_dropped(given: Any):
    assert metrics(given, {"name": "b", "value": "1"}) == [("b", "1")]


def test_of_two_metrics_of_a_name_the_last_is_kept():
    assert metrics({"name": "a", "value": "1"}, {"name": "a", "value": "2"}) == [("a", "2")]


def test_no_more_metrics_are_kept_than_the_api_takes():
    assert len(metrics(*({"name": f"m{n}", "value": "1"} for n in range(200)))) == MAX_METRICS


@pytest.mark.parametrize(
    "body",
    [
        "", "x", "null", "[]", "{}", '{"trainerStatus": []}', '{"trainerStatus": null}', "\xff",
        '{"trainerStatus": {"metrics": {}}}',
        '{"trainerStatus": {"progressPercentage": 101}}',
        '{"trainerStatus": {"progressPercentage": -1}}',
        '{"trainerStatus": {"progressPercentage": NaN}}',
        '{"trainerStatus": {"progressPercentage": 1.5}}',
        '{"trainerStatus": {"estimatedRemainingSeconds": -1}}',
        '{"trainerStatus": {}, "lastCheckpoint": {"step": 1}}',
    ],
)  # fmt: skip
def test_a_body_of_another_form_is_refused(body: str):
    with pytest.raises(ValueError):
        parsed(body.encode("latin-1"))


def test_a_body_as_deep_as_a_body_can_be_is_refused():
    with pytest.raises((ValueError, RecursionError)):
        parsed(b"[" * 60_000)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.fixed_dictionaries({"trainerStatus": st.fixed_dictionaries({"metrics": JSON}) | JSON}) | JSON)
def test_anything_else_is_refused_or_kept_in_a_form_that_can_be_stored(body: Any):
    try:
        update = parsed(json.dumps(body).encode())
    except ValueError:
        return
    assert ProgressUpdate.model_validate(update.wire()) == update
