"""Containers that a user adds to a pod, before ours and beside them."""

from typing import Annotated, Literal

from pydantic import Field

from kubetune.api.env import Env, EnvFrom
from kubetune.api.meta import Block, Check, map_list, matches
from kubetune.api.resources import ResourceRequirements
from kubetune.api.security import ContainerSecurityContext
from kubetune.api.source import PartName
from kubetune.api.volumes import VolumeMounts

_OURS = ("check-base", "engine", "gateway", "reclaim", "trainer")
_UNRESERVED = Check(
    f"self.all(c, !(c.name in {[*_OURS]}))",
    f"{', '.join(_OURS)} are containers of kubetune's own: choose another name",
    lambda containers: not any(c.name in _OURS for c in containers),
)

Image = Annotated[
    str,
    Field(min_length=1, max_length=512),
    matches("[-._/:@a-zA-Z0-9]+", "must be an image reference, for example registry.example.org/trainer:1.0"),
]
PullPolicy = Literal["Always", "IfNotPresent", "Never"]
Words = Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=64)]


class InitContainer(Block):
    """A container of your own. It runs to its end before kubetune's containers start. With restartPolicy:
    Always it is a sidecar, which starts before them and is ended after them."""

    name: PartName
    """Name of the container."""
    image: Image
    """Its image."""
    image_pull_policy: PullPolicy | None = None
    """When the image is pulled."""
    command: Words | None = None
    """Program and first arguments. Default: the image's."""
    args: Words | None = None
    """Arguments. Default: the image's."""
    working_dir: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Folder that it starts in."""
    env: Env | None = None
    """Environment variables."""
    env_from: EnvFrom | None = None
    """Secrets and ConfigMaps whose keys become variables."""
    resources: ResourceRequirements | None = None
    """Compute resources."""
    volume_mounts: VolumeMounts | None = None
    """Where the pod template's volumes are mounted."""
    restart_policy: Literal["Always"] | None = None
    """Always: a sidecar."""
    security_context: ContainerSecurityContext | None = None
    """User and privileges."""


InitContainers = Annotated[
    list[InitContainer], Field(max_length=8, json_schema_extra=map_list("name")), _UNRESERVED
]
