"""The desired table that the operator mounts into serving pods, and the state that each gateway reports.

Table: ConfigMap key `table.json` at `TABLE_PATH`. State: `GET http://<pod>:8001/state`.
"""

import hashlib
import json
from enum import IntEnum, StrEnum
from typing import Annotated, Literal

from pydantic import Field

from kubetune.api.meta import Block

TABLE_DIR = "/etc/kubetune/table"
TABLE_PATH = f"{TABLE_DIR}/table.json"
TABLE_ANNOTATION = "kubetune.io/table"
"""On serving pods: digest of the table and the time. Patching it makes the kubelet refresh the mount now."""
ADAPTER_CACHE = "/var/cache/kubetune/adapters"
"""emptyDir shared by gateway (writes) and engine (reads): adapters are copied here, then verified and
loaded."""
API_PORT = 8000
ADMIN_PORT = 8001
ENGINE_PORT = 8100
"""The engine listens on 127.0.0.1 only."""
CHECK_BASE = "check-base"
"""The container that runs before the engine."""
ANY_DIGEST = "any"
"""Told to `check-base` where the digest of the base is not known."""


class BaseFault(IntEnum):
    """Exit codes of `check-base`: why no engine starts on this base."""

    DIGEST_MISMATCH = 3
    NOT_A_LANGUAGE_MODEL = 4
    NOT_FULL_WEIGHTS = 5

    @property
    def reason(self) -> str:
        """One word for programs."""
        return {
            BaseFault.DIGEST_MISMATCH: "DigestMismatch",
            BaseFault.NOT_A_LANGUAGE_MODEL: "NotALanguageModel",
            BaseFault.NOT_FULL_WEIGHTS: "NotFullWeights",
        }[self]


class TableBase(Block):
    """The base model."""

    name: str
    """Name that clients ask for; the engine serves it under the same name."""
    path: str
    """Its folder in the pod."""
    digest: str | None = None
    """Adapters must carry the same baseModelDigest."""


class TableAdapter(Block):
    """One adapter that should be served."""

    name: str
    """Name that clients ask for."""
    digest: str
    """Digest that the copied files must have."""
    path: str
    """Its folder in the pod."""
    root: str
    """Mount that every file of it must stay in."""

    @property
    def loaded_name(self) -> str:
        """The engine's name for this version: never used again for other content."""
        return f"{self.name}-{self.digest.removeprefix('sha256:')[:8]}"


class Table(Block):
    """What a serving pod should serve."""

    base_model: TableBase
    """The base."""
    max_lora_rank: Annotated[int, Field(ge=1)]
    """Highest LoRA rank that the engine was started with. An adapter of a higher rank is refused."""
    adapters: list[TableAdapter] = []
    """The adapters, sorted by name."""

    def canonical(self) -> str:
        """The JSON text that is stored."""
        return json.dumps(self.wire(), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """`sha256:...` of the canonical text."""
        return table_digest(self.canonical().encode())


def table_digest(text: bytes) -> str:
    """Digest of a table's text, which a gateway of another version may not understand in full."""
    return "sha256:" + hashlib.sha256(text).hexdigest()


AdapterPhase = Literal["Pending", "Loading", "Loaded", "Failed"]


class AdapterReason(StrEnum):
    """Why a gateway does not load an adapter; one word for programs."""

    NOT_FOUND = "NotFound"
    """The folder, or a file that makes an adapter, is missing."""
    DIGEST_MISMATCH = "DigestMismatch"
    """The files are not those that the digest names."""
    BASE_MODEL_MISMATCH = "BaseModelMismatch"
    """It belongs to another base: by its manifest, by the names of its modules or by their sizes."""
    RANK_TOO_HIGH = "RankTooHigh"
    """Its rank exceeds the highest one that the engine was started with."""
    UNSAFE_FILE = "UnsafeFile"
    """A file is no plain file, or leads out of its volume."""
    TOO_LARGE = "TooLarge"
    """It has more bytes or files than a gateway copies."""
    UNSUPPORTED = "Unsupported"
    """It is damaged, or uses a feature that the engine cannot serve."""
    WITHOUT_EFFECT = "WithoutEffect"
    """Its matrices are zero, so it would answer as the base does."""
    NAME_COLLISION = "NameCollision"
    """The engine knows other files by the same name."""
    ENGINE_REFUSED = "EngineRefused"
    """The engine answered that it does not take it."""
    STORAGE_ERROR = "StorageError"
    """The volume cannot be read. May pass."""
    ENGINE_ERROR = "EngineError"
    """The engine did not answer, or had no room. May pass."""
    INTERNAL_ERROR = "InternalError"
    """The gateway itself failed. May pass."""

    @property
    def may_pass(self) -> bool:
        """Whether the same files may succeed at another time: the gateway tries again, ever more rarely."""
        return self in (AdapterReason.STORAGE_ERROR, AdapterReason.ENGINE_ERROR, AdapterReason.INTERNAL_ERROR)


class AdapterState(Block):
    """One adapter in one pod."""

    name: str
    """Name that clients ask for."""
    digest: str
    """The desired version."""
    phase: AdapterPhase
    """Where it stands."""
    serving: str | None = None
    """Digest of the version that answers now: an older one while the desired one is loading or has failed."""
    reason: str | None = None
    """Why it failed: an AdapterReason, or one that a gateway of another version knows."""
    message: str | None = None
    """Why it failed, for people."""


class GatewayState(Block):
    """What a gateway answers to GET /state."""

    table_digest: str | None = None
    """The table that it has read."""
    engine_ready: bool = False
    """Whether the engine answers."""
    message: str | None = None
    """Why it does not, for people."""
    adapters: list[AdapterState] = []
    """The adapters of the table."""
