"""Conditions Ready, Reconciling and Stalled, from which kubectl, Flux and others tell how things are. Pure.

They follow kstatus (https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus):

| kstatus    | Ready | Reconciling | Stalled | here                                                     |
|------------|-------|-------------|---------|----------------------------------------------------------|
| Current    | True  | False       | False   | a job Succeeded; a set is Ready or ScaledToZero          |
| InProgress | False | True        | False   | work is under way, or waits and goes on by itself        |
| InProgress | False | False       | False   | a job is Suspended: nothing happens until somebody acts  |
| Failed     | False | False       | True    | a job Failed; a set is Degraded                          |
"""

from collections.abc import Iterable
from typing import Literal

from kubetune.api.status import SetPhase
from kubetune.status.conditions import Judgement

Health = Literal["Current", "InProgress", "Held", "Failed"]


def health(found: Health, about: Judgement) -> list[Judgement]:
    """The three conditions.

    Args:
        found: how a resource is.
        about: the condition that says why; its reason and message are passed on.
    """

    def judged(kind: str, holds: bool, *, tells: bool) -> Judgement:
        return Judgement(
            kind, "True" if holds else "False", about.reason, about.message if tells or holds else ""
        )

    return [
        judged("Ready", found == "Current", tells=True),
        judged("Reconciling", found == "InProgress", tells=False),
        judged("Stalled", found == "Failed", tells=False),
    ]


def set_health(phase: SetPhase, judged: Iterable[Judgement]) -> list[Judgement]:
    """The three conditions of an AdapterSet, by its phase and its other conditions."""
    by_type = {judgement.type: judgement for judgement in judged}
    if phase == "Ready":
        return health("Current", by_type["Loaded"])
    if phase == "ScaledToZero":
        return health("Current", by_type["Available"])
    if phase == "WaitingForDependency":
        return health("InProgress", by_type["Resolved"])
    degraded = by_type["Degraded"]
    if phase == "Degraded":
        # A pod that was lost comes back by itself.
        return health("InProgress" if degraded.reason == "PodsNotReady" else "Failed", degraded)
    under_way = (by_type["Progressing"], by_type["Available"], by_type["Loaded"])
    progressing, *_ = [j for j in under_way if (j.status == "True") == (j.type == "Progressing")]
    return health("InProgress", progressing)
