"""Why an adapter is not loaded."""

from enum import StrEnum


class Reason(StrEnum):
    """One word for programs; `AdapterState.reason`."""

    NOT_FOUND = "NotFound"
    DIGEST_MISMATCH = "DigestMismatch"
    BASE_MODEL_MISMATCH = "BaseModelMismatch"
    RANK_TOO_HIGH = "RankTooHigh"
    UNSAFE_FILE = "UnsafeFile"
    TOO_LARGE = "TooLarge"
    UNSUPPORTED = "Unsupported"
    NAME_COLLISION = "NameCollision"
    STORAGE_ERROR = "StorageError"
    ENGINE_ERROR = "EngineError"
    INTERNAL_ERROR = "InternalError"


class Refused(Exception):
    """An adapter cannot be served. The message tells people what to do."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def may_pass(self) -> bool:
        """Whether the same files may succeed at another time."""
        return self.reason in (Reason.STORAGE_ERROR, Reason.ENGINE_ERROR, Reason.INTERNAL_ERROR)
