"""One run of the trainer in this process, and what it measured."""

import contextlib
import io
import time
from dataclasses import dataclass

from kubetune.api.progress import PlanStatus
from kubetune.api.runspec import RunSpec
from kubetune_trainer import run as runs
from kubetune_trainer.outcome import RunResult
from kubetune_trainer.progress import Progress
from kubetune_trainer.signals import Stop


@dataclass(frozen=True)
class Measured:
    before: dict[str, float]
    after: dict[str, float]
    plan: PlanStatus
    seconds: float


def carry_out(spec: RunSpec) -> Measured:
    outcome, started = RunResult(Progress()), time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        runs.run(spec, outcome, Stop())
    assert outcome.evaluation
    assert outcome.plan
    before, after = (
        {v.name: float(v.value) for v in values}
        for values in (outcome.evaluation.baseline, outcome.evaluation.tuned)
    )
    return Measured(before, after, outcome.plan, time.monotonic() - started)
