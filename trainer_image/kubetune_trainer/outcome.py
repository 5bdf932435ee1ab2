"""What is known about a run so far. The termination message, the manifest's report and report.html are made
from it."""

from dataclasses import asdict, dataclass, field
from typing import Any

from kubetune.api.exitcodes import Reason
from kubetune.api.progress import (
    ArtifactStatus,
    DataStatus,
    EvaluationStatus,
    PlanStatus,
    TerminationMessage,
    TrainerStatus,
)
from kubetune_trainer.data.examples import SourceFacts
from kubetune_trainer.progress import Progress


@dataclass
class RunResult:
    """Filled in as the run goes."""

    progress: Progress
    plan: PlanStatus | None = None
    data: DataStatus | None = None
    evaluation: EvaluationStatus | None = None
    artifact: ArtifactStatus | None = None
    sources: list[SourceFacts] = field(default_factory=list)
    final: TrainerStatus | None = None
    """Final numbers of an earlier attempt that finished the run."""

    def message(self, reason: Reason, text: str = "") -> TerminationMessage:
        """The termination message."""
        return TerminationMessage(
            reason=reason,
            message=text,
            trainer_status=self.final or self.progress.status(),
            last_checkpoint=None if self.artifact else self.progress.checkpoint,
            plan=self.plan,
            data=self.data,
            evaluation=self.evaluation,
            artifact=self.artifact,
        )

    def report(self) -> dict[str, Any]:
        """What goes into the manifest."""
        blocks = {
            "plan": self.plan,
            "data": self.data,
            "evaluation": self.evaluation,
            "trainerStatus": self._finished(),
        }
        return {n: b.wire() for n, b in blocks.items() if b} | {"sources": [asdict(s) for s in self.sources]}

    def recall(self, report: dict[str, Any]) -> None:
        """Take over the facts in the `report` of an earlier attempt."""
        self.plan = PlanStatus.model_validate(report["plan"])
        self.data = DataStatus.model_validate(report["data"])
        self.evaluation = EvaluationStatus.model_validate(report["evaluation"])
        self.final = TrainerStatus.model_validate(report["trainerStatus"])

    def _finished(self) -> TrainerStatus:
        return self.progress.status().model_copy(
            update={"progress_percentage": 100, "estimated_remaining_seconds": 0}
        )
