"""User and privileges of containers: the part of core/v1 that may be changed."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from kubetune.api.meta import SET_LIST, Block, cel, matches, rules

Id = Annotated[int, Field(ge=0, le=2**31 - 1)]
_NO_ROOT = cel(
    "!has(self.runAsUser) || self.runAsUser != 0 || (has(self.runAsNonRoot) && !self.runAsNonRoot)",
    "0 is root, which is refused unless you set runAsNonRoot: false, too",
    field_path=".runAsUser",
)


class SeLinuxOptions(Block):
    """SELinux labels."""

    level: Annotated[str, Field(max_length=253)] | None = None
    """Level."""
    role: Annotated[str, Field(max_length=253)] | None = None
    """Role."""
    type: Annotated[str, Field(max_length=253)] | None = None
    """Type."""
    user: Annotated[str, Field(max_length=253)] | None = None
    """User."""


class SeccompProfile(Block):
    """Which system calls are allowed."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "(self.type == 'Localhost') == has(self.localhostProfile)",
                "must be set with type: Localhost, and only then",
                field_path=".localhostProfile",
            )
        )
    )

    type: Literal["RuntimeDefault", "Localhost"]
    """RuntimeDefault: those that the container runtime allows; Localhost: by a file of the node."""
    localhost_profile: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Path of the file, below the kubelet's folder of profiles."""


class PodSecurityContext(Block):
    """A core/v1 PodSecurityContext. Fields that are left out follow the restricted Pod Security Standard."""

    model_config = ConfigDict(json_schema_extra=rules(_NO_ROOT))

    run_as_user: Id | None = None
    """User of all containers. Default: the chart's runAsUser."""
    run_as_group: Id | None = None
    """Group. Default: the chart's runAsUser."""
    run_as_non_root: bool | None = None
    """Default: true. false is refused in namespaces under restricted Pod Security."""
    fs_group: Id | None = None
    """Group that volumes belong to. Default: the chart's runAsUser."""
    fs_group_change_policy: Literal["OnRootMismatch", "Always"] | None = None
    """When volumes are given to that group. Default: OnRootMismatch."""
    supplemental_groups: Annotated[list[Id], Field(max_length=16, json_schema_extra=SET_LIST)] | None = None
    """More groups, for example of an NFS server."""
    se_linux_options: SeLinuxOptions | None = None
    """SELinux labels."""
    seccomp_profile: SeccompProfile | None = None
    """Default: RuntimeDefault."""


class Capabilities(Block):
    """Linux capabilities. All others are dropped."""

    add: Annotated[
        list[
            Annotated[
                str,
                Field(min_length=1, max_length=63),
                matches("[A-Z][A-Z0-9_]*", "must be the name of a capability, for example IPC_LOCK"),
            ]
        ],
        Field(max_length=16, json_schema_extra=SET_LIST),
    ]
    """Those that are kept, for example IPC_LOCK for InfiniBand. Restricted Pod Security refuses all but
    NET_BIND_SERVICE."""


class ContainerSecurityContext(Block):
    """A core/v1 SecurityContext. Containers are never privileged and may not gain privileges."""

    model_config = ConfigDict(json_schema_extra=rules(_NO_ROOT))

    run_as_user: Id | None = None
    """User. Default: the pod's."""
    run_as_group: Id | None = None
    """Group. Default: the pod's."""
    run_as_non_root: bool | None = None
    """Default: the pod's."""
    read_only_root_filesystem: bool | None = None
    """Whether the image's own files cannot be written. Default: true for trainer and engine, false for
    containers of yours."""
    capabilities: Capabilities | None = None
    """Linux capabilities. Default: none."""
