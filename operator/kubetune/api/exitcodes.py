"""Exit codes of a trainer: the contract between the training process and the operator.

A process that ends with a code outside this table, or by a signal, is retried and counted against
`backoffLimit`.
"""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a run ended. Also the values of `status.failure.reason`."""

    SUCCEEDED = "Succeeded"
    INVALID_SPEC = "InvalidSpec"
    DATA_ERROR = "DataError"
    NAN_LOSS = "NaNLoss"
    OUT_OF_MEMORY = "OutOfMemory"
    CUDA_OUT_OF_MEMORY = "CUDAOutOfMemory"
    BASE_MODEL_MISMATCH = "BaseModelMismatch"
    STORAGE_ERROR = "StorageError"
    SUPERSEDED = "Superseded"
    TERMINATED = "Terminated"
    INTERNAL_ERROR = "InternalError"
    # Judged by the operator, never by the process itself.
    KILLED = "Killed"
    POD_DELETED = "PodDeleted"
    EVICTED = "Evicted"
    PREEMPTED = "Preempted"
    NODE_LOST = "NodeLost"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    POD_REJECTED = "PodRejected"
    POD_FAILED = "PodFailed"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    # An attempt cannot start yet. It starts by itself once the cause is gone.
    IMAGE_ERROR = "ImageError"
    CONTAINER_ERROR = "ContainerError"
    UNSCHEDULABLE = "Unschedulable"
    PODS_REFUSED = "PodsRefused"


@dataclass(frozen=True)
class Outcome:
    """What an exit code means for the run."""

    reason: Reason
    retry: bool
    """Whether another attempt can help."""
    counted: bool
    """Whether that attempt counts against `backoffLimit`."""


EXIT_CODES: dict[int, Outcome] = {
    0: Outcome(Reason.SUCCEEDED, retry=False, counted=False),
    1: Outcome(Reason.INTERNAL_ERROR, retry=True, counted=True),
    10: Outcome(Reason.INVALID_SPEC, retry=False, counted=False),
    11: Outcome(Reason.DATA_ERROR, retry=False, counted=False),
    12: Outcome(Reason.NAN_LOSS, retry=False, counted=False),
    13: Outcome(Reason.OUT_OF_MEMORY, retry=False, counted=False),
    14: Outcome(Reason.CUDA_OUT_OF_MEMORY, retry=False, counted=False),
    15: Outcome(Reason.BASE_MODEL_MISMATCH, retry=False, counted=False),
    16: Outcome(Reason.STORAGE_ERROR, retry=True, counted=True),
    17: Outcome(Reason.SUPERSEDED, retry=True, counted=True),
    143: Outcome(Reason.TERMINATED, retry=True, counted=False),
}


def outcome(exit_code: int) -> Outcome:
    """The meaning of an exit code; unknown ones (137 = SIGKILL among them) are retried and counted."""
    return EXIT_CODES.get(exit_code, Outcome(Reason.KILLED, retry=True, counted=True))


def code_of(reason: Reason) -> int:
    """The exit code that a trainer ends with for a reason.

    Raises:
        KeyError: the reason is the operator's own judgement and has no exit code.
    """
    return {o.reason: code for code, o in EXIT_CODES.items()}[reason]
