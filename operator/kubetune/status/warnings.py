"""What a job does differently from what one may expect, by its spec and by its trainer. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from kubetune.api.progress import TrainerStatus
from kubetune.api.warnings import NOTHING_HELD_OUT, RunWarning, WarningReason, warmup_never_ends
from kubetune.status.conditions import Judgement


def foreseen(spec: Mapping[str, Any]) -> list[RunWarning]:
    """Warnings that the spec alone gives, before anything runs."""
    found = []
    training, data = spec.get("training") or {}, spec.get("data") or {}
    if text := warmup_never_ends(training.get("warmupSteps") or 0, training.get("maxSteps") or 0):
        found.append(RunWarning(reason=WarningReason.WARMUP_NEVER_ENDS, message=text))
    measured = (spec.get("evaluation") or {}).get("data")
    if (data.get("validation") or {}).get("fraction") == 0 and not measured:
        found.append(RunWarning(reason=WarningReason.NOTHING_HELD_OUT, message=NOTHING_HELD_OUT))
    return found


def with_all_warnings(word: TrainerStatus | None, live: TrainerStatus | None) -> TrainerStatus | None:
    """The final numbers. A termination message has shortened warnings, so those reported live are kept."""
    if word is None or live is None or len(live.warnings or []) < len(word.warnings or []):
        return word
    return word.model_copy(update={"warnings": live.warnings})


def warnings_of(spec: Mapping[str, Any], trainer: TrainerStatus | None) -> list[RunWarning]:
    """All warnings. The trainer's warning of a reason replaces the one that was foreseen."""
    said = (trainer.warnings if trainer else None) or []
    reasons = {warning.reason for warning in said}
    return [*(warning for warning in foreseen(spec) if warning.reason not in reasons), *said]


def judgement(warnings: Iterable[RunWarning]) -> Judgement:
    """Condition `Warnings`: one line for each."""
    warnings = list(warnings)
    if not warnings:
        return Judgement("Warnings", "False", "NoWarnings")
    reasons = list(dict.fromkeys(warning.reason for warning in warnings))
    return Judgement(
        "Warnings",
        "True",
        reasons[0] if len(reasons) == 1 else "SeveralWarnings",
        "\n".join(f"{warning.reason}: {warning.message}" for warning in warnings),
    )
