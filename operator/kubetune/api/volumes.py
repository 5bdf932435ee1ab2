"""Volumes that a user adds to a pod, and where its containers see them."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from kubetune.api.env import KeyName
from kubetune.api.meta import Block, Check, map_list, matches, one_of, rules
from kubetune.api.resources import Quantity
from kubetune.api.source import ObjectName, PartName

_OURS = ("adapters", "cache", "engine-tmp", "gateway-tmp", "run", "shm", "table", "tmp", "token")
_NUMBERED = "(claim|configmap|secret)-[0-9]+"
_UNRESERVED = Check(
    f"self.all(v, !(v.name in {[*_OURS]}) && !v.name.matches('^{_NUMBERED}$'))",
    f"{', '.join(_OURS)}, claim-<n>, configmap-<n> and secret-<n> are volumes of kubetune's own: choose "
    "another name",
    lambda volumes: not any(v.name in _OURS or _is_numbered(v.name) for v in volumes),
)
# Our own paths and their parents, mounts of the container runtime, and folders of programs and libraries.
_RESERVED_PATHS = (
    "/", "/bin", "/dev", "/dev/shm", "/etc", "/lib", "/lib64", "/mnt", "/mnt/configmap", "/mnt/pvc",  # noqa: S108
    "/mnt/secret", "/proc", "/run", "/sbin", "/sys", "/tmp", "/usr", "/var", "/var/cache", "/var/run",  # noqa: S108
)  # fmt: skip
_RESERVED_FOLDERS = (
    "/dev/", "/etc/kubetune", "/mnt/configmap/", "/mnt/pvc/", "/mnt/secret/", "/proc/", "/sys/",
    "/run/secrets", "/var/cache/kubetune", "/var/run/secrets",
)  # fmt: skip
_FREE_PATH = Check(
    f"!(self in {[*_RESERVED_PATHS]}) && !{[*_RESERVED_FOLDERS]}.exists(f, self.startsWith(f))",
    "this path is used by kubetune or by the container itself: choose another one, for example /data",
    lambda path: path not in _RESERVED_PATHS and not path.startswith(_RESERVED_FOLDERS),
)


_PART = r"([^/.][^/]*|\.[^/.][^/]*)"
_BELOW = matches(f"{_PART}(/{_PART})*", "must be a relative path whose parts are neither empty, '.' nor '..'")


def _is_numbered(name: str) -> bool:
    kind, _, number = name.rpartition("-")
    return kind in ("claim", "configmap", "secret") and number.isdigit()


class KeyToPath(Block):
    """A key that becomes a file."""

    key: KeyName
    """The key."""
    path: Annotated[
        str,
        Field(min_length=1, max_length=253),
        _BELOW,
    ]
    """Path of the file below the mount."""


Items = Annotated[list[KeyToPath], Field(max_length=16)]
Mode = Annotated[int, Field(ge=0, le=0o777)]


class SecretVolume(Block):
    """A Secret of the same namespace, a file for each key."""

    secret_name: ObjectName
    """Its name."""
    items: Items | None = None
    """Only these keys."""
    default_mode: Mode | None = None
    """Mode of the files, as a decimal number: 288 is 0440. Default: 420, which is 0644."""
    optional: bool | None = None
    """true: the pod starts even if it is missing."""


class ConfigMapVolume(Block):
    """A ConfigMap of the same namespace, a file for each key."""

    name: ObjectName
    """Its name."""
    items: Items | None = None
    """Only these keys."""
    default_mode: Mode | None = None
    """Mode of the files, as a decimal number. Default: 420, which is 0644."""
    optional: bool | None = None
    """true: the pod starts even if it is missing."""


class EmptyDirVolume(Block):
    """An empty folder that is deleted with the pod."""

    medium: Literal["", "Memory"] | None = None
    """Memory: a tmpfs, which counts against the memory limit."""
    size_limit: Quantity | None = None
    """A pod that writes more is evicted."""


class ClaimVolume(Block):
    """A PersistentVolumeClaim of the same namespace."""

    claim_name: ObjectName
    """Its name."""
    read_only: bool | None = None
    """Mount it read-only."""


class SecretName(Block):
    """The name of a Secret in the same namespace."""

    name: ObjectName
    """Name of the Secret."""


class CsiVolume(Block):
    """A volume that a CSI driver makes for the pod, for example of a secret store."""

    driver: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the driver."""
    read_only: bool | None = None
    """Mount it read-only."""
    fs_type: Annotated[str, Field(max_length=63)] | None = None
    """File system."""
    volume_attributes: (
        Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=32)] | None
    ) = None
    """Parameters of the driver."""
    node_publish_secret_ref: SecretName | None = None
    """Secret that is handed to the driver."""


_KINDS = ("secret", "configMap", "emptyDir", "persistentVolumeClaim", "csi")


class Volume(Block):
    """A volume. Folders of the node (hostPath) are not offered."""

    model_config = ConfigDict(json_schema_extra=rules(one_of(*_KINDS)))

    name: PartName
    """Name, which volumeMounts refer to."""
    secret: SecretVolume | None = None
    """A Secret."""
    config_map: ConfigMapVolume | None = None
    """A ConfigMap."""
    empty_dir: EmptyDirVolume | None = None
    """An empty folder that is deleted with the pod."""
    persistent_volume_claim: ClaimVolume | None = None
    """A PersistentVolumeClaim."""
    csi: CsiVolume | None = None
    """A volume of a CSI driver."""


class VolumeMount(Block):
    """Where a volume is mounted in a container."""

    name: PartName
    """Name of one of volumes."""
    mount_path: Annotated[
        str,
        Field(min_length=1, max_length=512),
        matches(
            "(/[^/:.][^/:]*|/[.][^/:.][^/:]*)+",
            "must be an absolute path without '.', '..', ':' and a '/' at its end",
        ),
        _FREE_PATH,
    ]
    """Path in the container."""
    sub_path: (
        Annotated[
            str,
            Field(min_length=1, max_length=512),
            _BELOW,
        ]
        | None
    ) = None
    """Folder or file of the volume that is mounted instead of its root."""
    read_only: bool | None = None
    """Mount it read-only."""


Volumes = Annotated[list[Volume], Field(max_length=16, json_schema_extra=map_list("name")), _UNRESERVED]
VolumeMounts = Annotated[list[VolumeMount], Field(max_length=16, json_schema_extra=map_list("mountPath"))]
