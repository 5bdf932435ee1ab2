"""What may be changed on the pods that kubetune makes: a list of allowed overrides, not the core type."""

from typing import Annotated

from pydantic import ConfigDict, Field

from kubetune.api.containers import Image, InitContainers, PullPolicy
from kubetune.api.env import Env, EnvFrom
from kubetune.api.keyvalue import UNRESERVED, Annotations, Labels
from kubetune.api.meta import Block, cel, map_list, one_of, rules
from kubetune.api.placement import Affinity, Toleration, TopologySpreadConstraint
from kubetune.api.security import ContainerSecurityContext, PodSecurityContext
from kubetune.api.source import ObjectName, PartName
from kubetune.api.volumes import VolumeMounts, Volumes


class LocalObjectReference(Block):
    """The name of an object in the same namespace."""

    name: ObjectName
    """Name of the object."""


PullSecrets = Annotated[list[LocalObjectReference], Field(max_length=8, json_schema_extra=map_list("name"))]
Tolerations = Annotated[list[Toleration], Field(max_length=32)]


class PodResourceClaim(Block):
    """Devices by dynamic resource allocation."""

    model_config = ConfigDict(
        json_schema_extra=rules(one_of("resourceClaimName", "resourceClaimTemplateName"))
    )

    name: PartName
    """Name by which a container's resources.claims refer to it."""
    resource_claim_name: ObjectName | None = None
    """A ResourceClaim of the same namespace."""
    resource_claim_template_name: ObjectName | None = None
    """A ResourceClaimTemplate of the same namespace, from which each pod gets a claim of its own."""


def _mounts(of: str) -> str:
    """CEL: every volume that is mounted is in volumes."""
    return (
        f"!has({of}.volumeMounts) || {of}.volumeMounts.all(m, has(self.volumes)"
        " && self.volumes.exists(v, v.name == m.name))"
    )


class PodTemplate(Block):
    """What may be changed on the pods that kubetune makes."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                _mounts("self"),
                "names a volume that is not in volumes: add it there, or correct the name",
                field_path=".volumeMounts",
            ),
            cel(
                f"!has(self.initContainers) || self.initContainers.all(c, {_mounts('c')})",
                "a volumeMount names a volume that is not in volumes: add it there, or correct the name",
                field_path=".initContainers",
            ),
        )
    )

    labels: Annotated[Labels, UNRESERVED] | None = None
    """Extra labels; kubetune.io/ is reserved."""
    annotations: Annotated[Annotations, UNRESERVED] | None = None
    """Extra annotations; kubetune.io/ is reserved."""
    node_selector: Labels | None = None
    """Labels that a node must have."""
    tolerations: Tolerations | None = None
    """Taints that are tolerated."""
    affinity: Affinity | None = None
    """What nodeSelector cannot express: one of several labels, a number above a bound, a preference, a place
    near other pods or far from them."""
    topology_spread_constraints: Annotated[list[TopologySpreadConstraint], Field(max_length=8)] | None = None
    """How pods are spread over zones or nodes."""
    priority_class_name: ObjectName | None = None
    """Priority of the pods."""
    scheduler_name: ObjectName | None = None
    """Scheduler to use instead of the default one."""
    runtime_class_name: ObjectName | None = None
    """RuntimeClass of the pods."""
    image: Image | None = None
    """Image used instead of the chart's."""
    image_pull_policy: PullPolicy | None = None
    """When the image is pulled."""
    image_pull_secrets: PullSecrets | None = None
    """Secrets for the registry."""
    env: Env | None = None
    """Extra environment variables of the trainer (in an AdapterSet: of the engine)."""
    env_from: EnvFrom | None = None
    """Secrets and ConfigMaps whose keys become variables of that container."""
    volumes: Volumes | None = None
    """Extra volumes."""
    volume_mounts: VolumeMounts | None = None
    """Where they are mounted in the trainer (in an AdapterSet: in the engine)."""
    security_context: PodSecurityContext | None = None
    """User, groups and seccomp profile of the pods."""
    container_security_context: ContainerSecurityContext | None = None
    """User and privileges of the trainer (in an AdapterSet: of the engine)."""
    init_containers: InitContainers | None = None
    """Containers of your own, which run before ours or, as sidecars, beside them."""
    resource_claims: (
        Annotated[list[PodResourceClaim], Field(max_length=8, json_schema_extra=map_list("name"))] | None
    ) = None
    """Devices by dynamic resource allocation. A container uses one by naming it in its resources.claims."""


def claims_are_there(resources: str) -> dict[str, str]:
    """The CEL rule that every claim named by a container's resources is in podTemplate.resourceClaims.

    Args:
        resources: the field with the container's resources.
    """
    return cel(
        f"!has(self.{resources}) || !has(self.{resources}.claims) || self.{resources}.claims.all(c,"
        " has(self.podTemplate) && has(self.podTemplate.resourceClaims)"
        " && self.podTemplate.resourceClaims.exists(r, r.name == c.name))",
        "names a claim that is not in podTemplate.resourceClaims: add it there, or correct the name",
        field_path=f".{resources}",
    )
