"""Why an attempt failed, and whether another one can help: from its pod and the trainer's last word. Pure.

Only attempts whose pods are known to have been ended from outside are not counted. Everything else counts
against backoffLimit, so that no fault leads to endless attempts.
"""

from collections.abc import Mapping
from typing import Any

from kubetune.api.exitcodes import EXIT_CODES, Outcome, Reason, outcome
from kubetune.api.labels import TRAINER_CONTAINER, TRAINER_ENDED_ANNOTATION
from kubetune.api.progress import TerminationMessage
from kubetune.api.status import Failure
from kubetune.status.starting import containers_of, how_it_ended, uid_of
from kubetune.status.steady import steady

TAKEN_BY = {
    "PreemptionByScheduler": Reason.PREEMPTED,
    "DeletionByTaintManager": Reason.NODE_LOST,
    "DeletionByPodGC": Reason.NODE_LOST,
    "DeletionByDeviceTaintManager": Reason.EVICTED,
    "EvictionByEvictionAPI": Reason.EVICTED,
    "TerminationByKubelet": Reason.EVICTED,
}
"""Reasons of a pod's DisruptionTarget condition."""
TAKEN_FOR = {
    "Evicted": Reason.EVICTED,
    "NodeLost": Reason.NODE_LOST,
    "Preempting": Reason.PREEMPTED,
    "Terminated": Reason.EVICTED,
}
"""Reasons of a pod's status, where there is no such condition."""
TAKEN = {
    Reason.PREEMPTED: "A pod of higher priority preempted this one",
    Reason.NODE_LOST: "The node of the pod was lost",
    Reason.EVICTED: "The pod was evicted",
    Reason.POD_DELETED: "The pod was deleted",
}
REJECTED = "Pod was rejected: "
"""How the message of a kubelet that rejects a pod begins."""
NEVER_STARTED = {"StartError", "ContainerCannotRun"}
"""Reasons of a container that its runtime made but could not start. The message is the runtime's."""
SIGKILLED = 137
SIGKILL_ADVICE = "Something killed it: if that happens again, see whether its node is short of memory."
GOES_ON = "The run goes on from its newest checkpoint."


def judge(
    pod: Mapping[str, Any] | None,
    terminated: Mapping[str, Any] | None,
    last_word: TerminationMessage | None,
    malformed: str,
    job_ended: str = "",
) -> tuple[Outcome, Failure]:
    """Whether a failed attempt is worth another one, and why it failed.

    Args:
        pod: its pod; None if that is gone.
        terminated: the state in which the trainer's container ended, if that is known.
        last_word: what the trainer said.
        malformed: what is wrong with what it said, if that cannot be read.
        job_ended: why its Job has ended the pod, where that was the Job's doing.
    """
    if pod is None and job_ended:
        return _ended_by_job(None, job_ended)
    if pod is None:
        return _not_counted(Reason.POD_DELETED), Failure(
            reason=Reason.POD_DELETED,
            message=f"The pod was deleted while the run was not complete. {GOES_ON}",
        )
    code = int(terminated["exitCode"]) if terminated else None
    if code is None or code not in EXIT_CODES or EXIT_CODES[code].reason is Reason.TERMINATED:
        # An exit code of the trainer's own judgement goes before what happened to its pod meanwhile.
        if job_ended and pod["metadata"].get("deletionTimestamp"):
            return _ended_by_job(pod, job_ended)
        taken = _taken(pod, code)
        if taken:
            return taken
    if terminated is None or code is None:
        return _never_ran(pod)
    if terminated.get("reason") in NEVER_STARTED:
        return _never_ran(pod)
    if terminated.get("reason") == "OOMKilled":
        return _out_of_memory(pod, code)
    if terminated.get("reason") == "ContainerStatusUnknown":
        return _forgotten(pod, terminated, code)
    return _ended(pod, code, last_word, malformed)


def _ended_by_job(pod: Mapping[str, Any] | None, why: str) -> tuple[Outcome, Failure]:
    """The Job ended its pod by a limit that is not ours. It would end the next attempt, too."""
    message = (
        f"The Job of the attempt has ended its pod: {why}. kubetune gives Jobs no such limit, so somebody "
        f"else has, perhaps a policy: have it leave out the Jobs of kubetune. {GOES_ON}"
    )
    name = pod["metadata"]["name"] if pod else None
    failure = Failure(reason=Reason.KILLED, pod=name, message=message)
    return Outcome(Reason.KILLED, retry=True, counted=True), failure


def _taken(pod: Mapping[str, Any], code: int | None) -> tuple[Outcome, Failure] | None:
    """Why a pod ended, if neither its trainer nor this operator ended it."""
    status = pod.get("status", {})
    said = str(status.get("message") or "")
    found = (c for c in status.get("conditions", []) if c["type"] == "DisruptionTarget")
    disruption = next((c for c in found if c["status"] == "True"), None)
    if status.get("reason") == "DeadlineExceeded" and not _ended_by_us(pod):
        failure = _failure(pod, Reason.DEADLINE_EXCEEDED, code, f"The deadline of the pod has passed: {said}")
        return _not_counted(Reason.DEADLINE_EXCEEDED), failure
    if disruption:
        reason = TAKEN_BY.get(disruption.get("reason", ""), Reason.EVICTED)
        reason = Reason.PREEMPTED if status.get("reason") == "Preempting" else reason
        why = str(disruption.get("message") or said)
    elif status.get("reason") in TAKEN_FOR and not _rejected(pod):
        reason, why = TAKEN_FOR[status["reason"]], said
    elif pod["metadata"].get("deletionTimestamp"):
        reason, why = Reason.POD_DELETED, said
    else:
        return None
    why = steady(why, pod=pod["metadata"]["name"], uid=uid_of(pod)).rstrip(". ")
    # A pod that the kubelet evicts for its own usage would be evicted again and again, so this counts.
    advice = _own_excess(why) if reason is Reason.EVICTED else None
    message = f"{TAKEN[reason]}{': ' if why else ''}{why}. {advice or GOES_ON}"
    return Outcome(reason, retry=True, counted=bool(advice)), _failure(pod, reason, code, message)


def _ended_by_us(pod: Mapping[str, Any]) -> bool:
    """Whether its deadline was set to end what ran on beside a trainer that had ended."""
    return TRAINER_ENDED_ANNOTATION in (pod["metadata"].get("annotations") or {})


def _own_excess(why: str) -> str | None:
    """What to do if a pod was evicted for its own usage; None if it was evicted for another reason."""
    if "exceed" in why:
        return "Lower what it writes to /tmp, or raise its ephemeral-storage limit."
    if "than its request of" in why:
        return "Raise compute.resourcesPerNode.requests to what it uses: who uses more is evicted first."
    return None


def _rejected(pod: Mapping[str, Any]) -> bool:
    """Whether a kubelet has not taken a pod: then it writes nothing but a reason and a message."""
    status = pod.get("status", {})
    said = str(status.get("message") or "")
    return bool(status.get("reason")) and (said.startswith(REJECTED) or not containers_of(pod))


def _never_ran(pod: Mapping[str, Any]) -> tuple[Outcome, Failure]:
    """For a pod that failed before its trainer ran, although nothing was done to it."""
    name, status = pod["metadata"]["name"], pod.get("status", {})
    said = steady(str(status.get("message") or ""), pod=name, uid=uid_of(pod))
    if _rejected(pod):
        why = said.removeprefix(REJECTED).rstrip(". ")
        message = (
            f"The node refused the pod: {status['reason']}: {why}. The next attempt may get another node; if "
            "it is refused, too, mend the node or change compute."
        )
        reason = Reason.POD_REJECTED
    else:
        reason, message = Reason.POD_FAILED, f"{_culprit(pod) or said or 'its status gives no reason'}."
        message = f"The pod failed before its trainer had run: {message}"
    return Outcome(reason, retry=True, counted=True), _failure(pod, reason, None, message)


def _culprit(pod: Mapping[str, Any]) -> str:
    """The container for which a pod failed, and what that said."""
    for container in sorted(containers_of(pod), key=lambda c: c["name"] != TRAINER_CONTAINER):
        ended = container.get("state", {}).get("terminated") or {}
        if ended.get("exitCode"):
            how = steady(how_it_ended(ended), pod=pod["metadata"]["name"], uid=uid_of(pod))
            return f"its container {container['name']} ended with {how}".rstrip(".")
    return ""


def _failure(pod: Mapping[str, Any], reason: Reason, code: int | None, message: str) -> Failure:
    return Failure(reason=reason, exit_code=code, pod=pod["metadata"]["name"], message=message)


def _not_counted(reason: Reason) -> Outcome:
    return Outcome(reason, retry=True, counted=False)


def _out_of_memory(pod: Mapping[str, Any], code: int) -> tuple[Outcome, Failure]:
    message = (
        "The trainer exceeded its memory limit: raise compute.resourcesPerNode.limits.memory, or "
        "lower training.microBatchSize or data.sequenceLength."
    )
    outcome_ = Outcome(Reason.OUT_OF_MEMORY, retry=False, counted=False)
    return outcome_, _failure(pod, Reason.OUT_OF_MEMORY, code, message)


def _forgotten(pod: Mapping[str, Any], terminated: Mapping[str, Any], code: int) -> tuple[Outcome, Failure]:
    """For a container that is gone without the kubelet knowing how. It then gives SIGKILL's exit code."""
    words = str(terminated.get("message") or "").rstrip(". ")
    message = (
        f"The node lost the trainer's container{': ' if words else ''}{words}. That happens when a node or "
        "its container runtime restarts."
    )
    return Outcome(Reason.KILLED, retry=True, counted=True), _failure(pod, Reason.KILLED, code, message)


def _ended(
    pod: Mapping[str, Any], code: int, last_word: TerminationMessage | None, malformed: str
) -> tuple[Outcome, Failure]:
    """For a trainer that ended by itself."""
    judged = outcome(code)
    if code == 0:
        # It succeeded, but its last word is lost. The next attempt finds the artifact and only reports it.
        judged = Outcome(Reason.INTERNAL_ERROR, retry=True, counted=True)
    said = last_word.message if last_word else ""
    message = said or f"The trainer ended with exit code {code} and {malformed or 'no last word'}."
    if code == SIGKILLED and not said:
        message += f" {SIGKILL_ADVICE}"
    return judged, _failure(pod, judged.reason, code, message)
