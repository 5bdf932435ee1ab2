"""The demo's claims can fail."""

from typing import Any

import pytest

from dev.demo import facts

pytestmark = pytest.mark.unit


def job(name: str, before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    """A job whose evaluation measured this."""
    sides = {
        side: [{"name": metric, "value": f"{value:.6g}"} for metric, value in values.items()]
        for side, values in (("baseline", before), ("tuned", after))
    }
    return {"metadata": {"name": name}, "status": {"evaluation": sides}}


@pytest.mark.parametrize(
    ("before", "after", "claim"),
    [
        (5.0, 5.0, None),
        (5.0, 6.0, None),
        (5.0, 3.01, None),
        (5.0, 3.0, "kind: held-out loss 5.00 -> 3.00 (fell by 2.00; at least 2.0 is required)"),
        (5.0, 0.5, "kind: held-out loss 5.00 -> 0.50 (fell by 4.50; at least 2.0 is required)"),
    ],
    ids=["the same", "risen", "fallen too little", "just enough", "fallen"],
)
def test_the_loss_must_have_fallen_enough(before: float, after: float, claim: str | None) -> None:
    measured = job("kind", {"loss": before}, {"loss": after})
    if claim is None:
        with pytest.raises(facts.ClaimFailed, match=r"^kind: held-out loss .* at least 2\.0$"):
            facts.require_lower_loss(measured, 2.0)
    else:
        assert facts.require_lower_loss(measured, 2.0) == claim


@pytest.mark.parametrize("later", [0.5, 0.75])
def test_a_later_version_must_be_better(later: float) -> None:
    first = job("kind", {}, {"loss": 0.5, "exact-match": 0.75})
    second = job("kind-v2", {}, {"loss": 0.1, "exact-match": later})
    with pytest.raises(facts.ClaimFailed, match="the later version should score higher"):
        facts.require_better(first, second, "exact-match")
    better = job("kind-v2", {}, {"exact-match": 0.9})
    assert facts.require_better(first, better, "exact-match") == "exact-match: kind 75% -> kind-v2 90%"


def test_before_and_after_are_of_the_same_metric() -> None:
    measured = job("kind", {"loss": 5, "perplexity": 148}, {"exact-match": 0.9, "loss": 1, "perplexity": 2.7})
    assert facts.before_after(measured) == [("loss", 5.0, 1.0), ("perplexity", 148.0, 2.7)]


def test_every_answer_must_be_of_the_new_version() -> None:
    new = job("kind-v2", {}, {})
    new["status"]["artifact"] = {"digest": "sha256:new"}
    facts.require_version(new, ["sha256:new", "sha256:new"])
    for versions in (["sha256:new", "sha256:old"], [None]):
        with pytest.raises(facts.ClaimFailed, match=r"kind-v2: its version is sha256:new, but .* answered"):
            facts.require_version(new, versions)
