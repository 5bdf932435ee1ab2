"""What may be changed on the pods that kubetune makes: a list of allowed overrides, not the core type."""

import re
from typing import Annotated, Literal

from pydantic import Field
from pydantic.json_schema import WithJsonSchema

from kubetune.api.meta import Block, Check, map_list, matches
from kubetune.api.source import ObjectName

_DOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NAME = "[a-zA-Z0-9]([-_.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?"
_QUALIFIED_NAME = re.compile(f"({_DOMAIN}/)?{_NAME}")
_LABEL_VALUE = re.compile(f"({_NAME})?")
_QUANTITY = re.compile(r"\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?")

WELL_FORMED_LABELS = Check(
    "self.all(k, !format.qualifiedName().validate(k).hasValue()"
    " && !format.labelValue().validate(self[k]).hasValue())",
    "must be labels [prefix/]name: value, name and value of at most 63 letters, digits, '-', '_' and '.'",
    lambda labels: all(_QUALIFIED_NAME.fullmatch(k) and _LABEL_VALUE.fullmatch(v) for k, v in labels.items()),
)
_WELL_FORMED_KEYS = Check(
    "self.all(k, !format.qualifiedName().validate(k).hasValue())",
    "keys must be [prefix/]name, with at most 63 letters, digits, '-', '_' and '.' in the name",
    lambda annotations: all(_QUALIFIED_NAME.fullmatch(k) for k in annotations),
)
_UNRESERVED = Check(
    "self.all(k, !k.startsWith('kubetune.io/') && k != 'app.kubernetes.io/managed-by')",
    "kubetune.io/... and app.kubernetes.io/managed-by are set by kubetune: choose another key",
    lambda labels: (
        not any(k.startswith("kubetune.io/") or k == "app.kubernetes.io/managed-by" for k in labels)
    ),
)
_UNRESERVED_ENV = Check(
    "self.all(e, !e.name.startsWith('KUBETUNE_') && !e.name.startsWith('KUBEFLOW_'))",
    "names starting with KUBETUNE_ or KUBEFLOW_ are set by kubetune: choose another name",
    lambda env: not any(e.name.startswith(("KUBETUNE_", "KUBEFLOW_")) for e in env),
)

LabelValue = Annotated[str, Field(max_length=63)]
Labels = Annotated[dict[str, LabelValue], Field(max_length=64), WELL_FORMED_LABELS]
"""A bound must come before the check."""
Annotations = Annotated[
    dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=64), _WELL_FORMED_KEYS
]
Image = Annotated[
    str,
    Field(min_length=1, max_length=512),
    matches("[-._/:@a-zA-Z0-9]+", "must be an image reference, for example registry.example.org/trainer:1.0"),
]


class EnvVar(Block):
    """An environment variable of the training container."""

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


class Toleration(Block):
    """A core/v1 Toleration."""

    key: Annotated[str | None, Field(max_length=317)] = None
    """Taint key; empty with operator Exists tolerates everything."""
    operator: Literal["Exists", "Equal"] | None = None
    """How key and value are compared."""
    value: Annotated[str | None, Field(max_length=63)] = None
    """Taint value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; empty matches all."""
    toleration_seconds: int | None = None
    """How long a NoExecute taint is tolerated."""


class LocalObjectReference(Block):
    """The name of an object in the same namespace."""

    name: ObjectName
    """Name of the object."""


class PodTemplate(Block):
    """What may be changed on the pods that kubetune makes."""

    labels: Annotated[Labels, _UNRESERVED] | None = None
    """Extra labels; kubetune.io/ is reserved."""
    annotations: Annotated[Annotations, _UNRESERVED] | None = None
    """Extra annotations; kubetune.io/ is reserved."""
    node_selector: Labels | None = None
    """Labels that a node must have."""
    tolerations: Annotated[list[Toleration] | None, Field(max_length=32)] = None
    """Taints that are tolerated."""
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
    """Extra environment variables."""


Quantity = Annotated[
    int | str,
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 32}),
    Check(
        "type(self) == int ? self >= 0 : isQuantity(self) && !quantity(self).isLessThan(quantity('0'))",
        "must be a quantity that is not negative, for example 2, 500m or 4Gi",
        lambda q: q >= 0 if isinstance(q, int) else len(q) <= 32 and _QUANTITY.fullmatch(q),
    ),
]
Resources = Annotated[dict[str, Quantity], Field(max_length=32)]


class ResourceRequirements(Block):
    """Compute resources, as in core/v1."""

    requests: Resources | None = None
    """What the scheduler reserves."""
    limits: Resources | None = None
    """What the container may use at most."""
