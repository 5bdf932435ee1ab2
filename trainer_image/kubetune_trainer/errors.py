"""Why a run ends early, and the exit code that says so.

    TrainerError
    ├── InvalidSpec         10  the job's settings contradict each other, the model or the hardware
    ├── DataError           11  missing, empty or malformed data; names file and line
    ├── NaNLoss             12  the loss or a gradient is no finite number
    ├── OutOfMemory         13
    ├── CudaOutOfMemory     14
    ├── BaseModelMismatch   15  the base differs from the one that was asked for
    ├── NoGpu                1  the pod has a GPU that PyTorch does not see; another node may do better
    ├── PeerLost             1  another process of the run is gone
    ├── StorageError        16  the output cannot be written, or a server fails
    ├── Superseded          17  another trainer has taken the run's folder over
    └── Terminated         143  asked to stop; the newest checkpoint is on disk

Messages say what to do.
"""

from typing import ClassVar

from kubetune.api.exitcodes import Reason


class TrainerError(Exception):
    """A run ended for a known reason."""

    reason: ClassVar[Reason]


class InvalidSpec(TrainerError):
    """The settings cannot be carried out."""

    reason = Reason.INVALID_SPEC


class DataError(TrainerError):
    """The data cannot be used."""

    reason = Reason.DATA_ERROR


class NaNLoss(TrainerError):
    """Training diverged."""

    reason = Reason.NAN_LOSS


class OutOfMemory(TrainerError):
    """The host's memory does not suffice."""

    reason = Reason.OUT_OF_MEMORY


class CudaOutOfMemory(TrainerError):
    """The GPU's memory does not suffice."""

    reason = Reason.CUDA_OUT_OF_MEMORY


class NoGpu(TrainerError):
    """The pod was given a GPU, but there is none to be seen."""

    reason = Reason.INTERNAL_ERROR


class PeerLost(TrainerError):
    """Another process of the run is gone."""

    reason = Reason.INTERNAL_ERROR


class BaseModelMismatch(TrainerError):
    """The base model's folder has another digest."""

    reason = Reason.BASE_MODEL_MISMATCH


class StorageError(TrainerError):
    """The output folder failed."""

    reason = Reason.STORAGE_ERROR


class Superseded(TrainerError):
    """Another trainer has taken the run's folder over."""

    reason = Reason.SUPERSEDED


class Terminated(TrainerError):
    """Asked to stop from outside."""

    reason = Reason.TERMINATED


_SMALLER = "lower training.microBatchSize or data.sequenceLength, or give the pod more memory"
# What torch says when the host allocator fails: it raises a plain RuntimeError.
_HOST_ALLOCATION_FAILED = ("DefaultCPUAllocator", "std::bad_alloc")

# What gloo and NCCL say when the other end of a connection is gone; both raise RuntimeErrors.
_PEER_IS_GONE = (
    "Connection closed by peer",
    "Connection reset by peer",
    "remote process exited",
    "Broken pipe",
)


def known(error: BaseException) -> TrainerError | None:
    """The error as one of ours, or None where it is a defect."""
    if isinstance(error, TrainerError):
        return error
    if type(error).__name__ == "OutOfMemoryError":  # torch's; not imported, since torch may be what failed
        return CudaOutOfMemory(f"the GPU ran out of memory: {_SMALLER}")
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _HOST_ALLOCATION_FAILED):
        return OutOfMemory(f"the process ran out of memory: {_SMALLER}")
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _PEER_IS_GONE):
        return PeerLost(
            "another process of the run is gone: its own last words tell why; the next attempt continues "
            "from the newest checkpoint"
        )
    return None
