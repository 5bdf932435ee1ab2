"""What may be changed on the pods that kubetune makes: a list of allowed overrides, not the core type."""

from typing import Annotated, Literal

from pydantic import Field

from kubetune.api.keyvalue import UNRESERVED, Annotations, Labels
from kubetune.api.meta import Block, Check, map_list, matches
from kubetune.api.placement import Affinity, Toleration
from kubetune.api.source import ObjectName

_UNRESERVED_ENV = Check(
    "self.all(e, !e.name.startsWith('KUBETUNE_') && !e.name.startsWith('KUBEFLOW_'))",
    "names starting with KUBETUNE_ or KUBEFLOW_ are set by kubetune: choose another name",
    lambda env: not any(e.name.startswith(("KUBETUNE_", "KUBEFLOW_")) for e in env),
)

Image = Annotated[
    str,
    Field(min_length=1, max_length=512),
    matches("[-._/:@a-zA-Z0-9]+", "must be an image reference, for example registry.example.org/trainer:1.0"),
]


class EnvVar(Block):
    """An environment variable."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=256),
        matches(
            "[-._a-zA-Z][-._a-zA-Z0-9]*",
            "must be letters, digits, '_', '-' and '.', not beginning with a digit",
        ),
    ]
    """Name; the KUBETUNE_ and KUBEFLOW_ prefixes are reserved."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """Plain value."""


class LocalObjectReference(Block):
    """The name of an object in the same namespace."""

    name: ObjectName
    """Name of the object."""


class PodTemplate(Block):
    """What may be changed on the pods that kubetune makes."""

    labels: Annotated[Labels, UNRESERVED] | None = None
    """Extra labels; kubetune.io/ is reserved."""
    annotations: Annotated[Annotations, UNRESERVED] | None = None
    """Extra annotations; kubetune.io/ is reserved."""
    node_selector: Labels | None = None
    """Labels that a node must have."""
    tolerations: Annotated[list[Toleration] | None, Field(max_length=32)] = None
    """Taints that are tolerated."""
    affinity: Affinity | None = None
    """What nodeSelector cannot say: one of several labels, a number above a bound, a preference."""
    priority_class_name: ObjectName | None = None
    """Priority of the pods."""
    scheduler_name: ObjectName | None = None
    """Scheduler to use instead of the default one."""
    runtime_class_name: ObjectName | None = None
    """RuntimeClass of the pods."""
    image: Image | None = None
    """Image used instead of the chart's."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled."""
    image_pull_secrets: Annotated[
        list[LocalObjectReference] | None, Field(max_length=8, json_schema_extra=map_list("name"))
    ] = None
    """Secrets for the registry."""
    env: (
        Annotated[list[EnvVar], Field(max_length=64, json_schema_extra=map_list("name")), _UNRESERVED_ENV]
        | None
    ) = None
    """Extra environment variables of the trainer, in an AdapterSet of the engine."""
