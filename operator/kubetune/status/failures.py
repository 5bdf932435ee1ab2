"""Why an attempt failed, and whether another one can help: from its pod and the trainer's last word. Pure."""

from collections.abc import Mapping
from typing import Any

from kubetune.api.exitcodes import EXIT_CODES, Outcome, Reason, outcome
from kubetune.api.progress import TerminationMessage
from kubetune.api.status import Failure

TAKEN_BY = {
    "PreemptionByScheduler": Reason.PREEMPTED,
    "DeletionByTaintManager": Reason.NODE_LOST,
    "DeletionByPodGC": Reason.NODE_LOST,
    "EvictionByEvictionAPI": Reason.EVICTED,
    "TerminationByKubelet": Reason.EVICTED,
}
"""Reasons of a pod's DisruptionTarget condition."""
TAKEN = {
    Reason.PREEMPTED: "A pod of higher priority took the place of this one",
    Reason.NODE_LOST: "The node of the pod is lost",
    Reason.EVICTED: "The pod was evicted",
    Reason.POD_DELETED: "The pod was deleted",
}
SIGKILLED = 137
SIGKILL_ADVICE = "Something killed it: if that happens again, see whether its node is short of memory."
GOES_ON = "The run goes on from its newest checkpoint."


def judge(
    pod: Mapping[str, Any] | None,
    terminated: Mapping[str, Any] | None,
    last_word: TerminationMessage | None,
    malformed: str,
) -> tuple[Outcome, Failure]:
    """Whether a failed attempt is worth another one, and why it failed.

    Args:
        pod: its pod; None if that is gone.
        terminated: the state in which the trainer's container ended, if that is known.
        last_word: what the trainer said.
        malformed: what is wrong with what it said, if that cannot be read.
    """
    if pod is None:
        return _not_counted(Reason.POD_DELETED), Failure(
            reason=Reason.POD_DELETED,
            message=f"The pod was deleted while the run was not complete. {GOES_ON}",
        )
    code = int(terminated["exitCode"]) if terminated else None
    if code is None or code not in EXIT_CODES or EXIT_CODES[code].reason is Reason.TERMINATED:
        # An exit code of the trainer's own judgement goes before what happened to its pod meanwhile.
        taken = _taken(pod, terminated)
        if taken:
            return taken
    assert terminated is not None, "a pod without it was taken away"
    if terminated.get("reason") == "OOMKilled":
        return _out_of_memory(pod, int(terminated["exitCode"]))
    return _ended(pod, int(terminated["exitCode"]), last_word, malformed)


def _taken(pod: Mapping[str, Any], terminated: Mapping[str, Any] | None) -> tuple[Outcome, Failure] | None:
    """Of a pod that was ended from outside, and that not by us."""
    name, status = pod["metadata"]["name"], pod.get("status", {})
    code = int(terminated["exitCode"]) if terminated else None
    found = (c for c in status.get("conditions", []) if c["type"] == "DisruptionTarget")
    disruption: Mapping[str, Any] = next(found, {})
    why = disruption.get("message") or status.get("message") or ""
    if status.get("reason") == "DeadlineExceeded":
        failure = Failure(
            reason=Reason.DEADLINE_EXCEEDED, exit_code=code, pod=name, message=f"The time was up: {why}"
        )
        return _not_counted(Reason.DEADLINE_EXCEEDED), failure
    if disruption:
        reason = TAKEN_BY.get(disruption.get("reason", ""), Reason.EVICTED)
    elif status.get("reason") in ("Evicted", "Preempting", "NodeLost"):
        reason = {"Preempting": Reason.PREEMPTED, "NodeLost": Reason.NODE_LOST}.get(
            status["reason"], Reason.EVICTED
        )
    elif terminated is None or terminated.get("reason") == "ContainerStatusUnknown":
        reason, why = Reason.NODE_LOST, why or "it no longer knows the pod"
    elif pod["metadata"].get("deletionTimestamp"):
        reason = Reason.POD_DELETED
    else:
        return None
    # What the kubelet evicts for its own excess would be evicted again, without end.
    own_fault = reason is Reason.EVICTED and "exceed" in why
    advice = "Lower what it writes to /tmp, or raise its ephemeral-storage limit." if own_fault else GOES_ON
    message = f"{TAKEN[reason]}{': ' if why else ''}{why.rstrip('. ')}. {advice}"
    failure = Failure(reason=reason, exit_code=code, pod=name, message=message)
    return Outcome(reason, retry=True, counted=own_fault), failure


def _not_counted(reason: Reason) -> Outcome:
    return Outcome(reason, retry=True, counted=False)


def _out_of_memory(pod: Mapping[str, Any], code: int) -> tuple[Outcome, Failure]:
    return Outcome(Reason.OUT_OF_MEMORY, retry=False, counted=False), Failure(
        reason=Reason.OUT_OF_MEMORY,
        exit_code=code,
        pod=pod["metadata"]["name"],
        message="The trainer exceeded its memory limit: raise compute.resourcesPerNode.limits.memory, or "
        "lower training.microBatchSize or data.sequenceLength.",
    )


def _ended(
    pod: Mapping[str, Any], code: int, last_word: TerminationMessage | None, malformed: str
) -> tuple[Outcome, Failure]:
    """Of a trainer that ended by itself."""
    judged = outcome(code)
    if code == 0:
        # Ended well but without the facts: the next attempt finds the artifact and only reports it.
        judged = Outcome(Reason.INTERNAL_ERROR, retry=True, counted=True)
    said = last_word.message if last_word else ""
    message = said or f"The trainer ended with exit code {code} and {malformed or 'no last word'}."
    if code == SIGKILLED and not said:
        message += f" {SIGKILL_ADVICE}"
    return judged, Failure(reason=judged.reason, exit_code=code, pod=pod["metadata"]["name"], message=message)
