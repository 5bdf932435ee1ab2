"""The claims that the demo makes, checked against what the jobs themselves measured. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any


class ClaimFailed(AssertionError):
    """The demo's story is not true this time."""


def metrics(job: Mapping[str, Any], side: str) -> dict[str, float]:
    """The evaluation of a job: `baseline` or `tuned`."""
    return {m["name"]: float(m["value"]) for m in job["status"]["evaluation"][side]}


def before_after(job: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Name, before, after of each metric."""
    before, after = metrics(job, "baseline"), metrics(job, "tuned")
    return [(name, before[name], after[name]) for name in after if name in before]


def require_lower_loss(job: Mapping[str, Any], margin: float) -> str:
    """Held-out loss fell by at least `margin` nats.

    Raises:
        ClaimFailed: it did not.
    """
    name = job["metadata"]["name"]
    before, after = metrics(job, "baseline")["loss"], metrics(job, "tuned")["loss"]
    said = f"{name}: held-out loss {before:.2f} -> {after:.2f}"
    if before - after < margin:
        raise ClaimFailed(f"{said}: it should have fallen by at least {margin}")
    return f"{said} (fell by {before - after:.2f}; at least {margin} is required)"


def require_better(worse: Mapping[str, Any], better: Mapping[str, Any], metric: str) -> str:
    """The second job scores higher than the first on the same held-out examples.

    Raises:
        ClaimFailed: it does not.
    """
    low, high = metrics(worse, "tuned")[metric], metrics(better, "tuned")[metric]
    said = f"{metric}: {worse['metadata']['name']} {low:.0%} -> {better['metadata']['name']} {high:.0%}"
    if high <= low:
        raise ClaimFailed(f"{said}: the later version should score higher")
    return said


def require_version(job: Mapping[str, Any], answered: Sequence[str | None]) -> None:
    """Every answer came from the artifact of this job.

    Raises:
        ClaimFailed: one did not.
    """
    digest = job["status"]["artifact"]["digest"]
    if others := {version for version in answered if version != digest}:
        name = job["metadata"]["name"]
        raise ClaimFailed(f"{name}: its version is {digest}, but {others} answered")
