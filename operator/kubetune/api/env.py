"""Environment variables of a container: plain values, and keys of Secrets and ConfigMaps."""

import re
from typing import Annotated

from pydantic import ConfigDict, Field

from kubetune.api.meta import Block, Check, cel, map_list, matches, one_of, rules
from kubetune.api.source import ObjectName

_RESERVED = ("KUBETUNE_", "KUBEFLOW_")
_UNRESERVED = Check(
    "self.all(e, !e.name.startsWith('KUBETUNE_') && !e.name.startsWith('KUBEFLOW_'))",
    "names starting with KUBETUNE_ or KUBEFLOW_ are set by kubetune: choose another name",
    lambda env: not any(e.name.startswith(_RESERVED) for e in env),
)
IS_KEY = matches("[-._a-zA-Z0-9]+", "must be a key: letters, digits, '-', '_' and '.'")
KeyName = Annotated[str, Field(min_length=1, max_length=253), IS_KEY]


_FIELD = (
    r"metadata[.](name|namespace|uid|(labels|annotations)\['[^'\]]+'\])"
    r"|spec[.](nodeName|serviceAccountName)|status[.](hostIP|hostIPs|podIP|podIPs)"
)
_IS_FIELD = Check(
    f'self.matches(r"^({_FIELD})$")',
    "must be metadata.name, .namespace, .uid, .labels['key'] or .annotations['key'], spec.nodeName, "
    "spec.serviceAccountName, status.hostIP, .hostIPs, .podIP or .podIPs",
    re.compile(_FIELD).fullmatch,
)


class KeySelector(Block):
    """A key of a Secret or ConfigMap of the same namespace."""

    name: ObjectName
    """Name of the Secret or ConfigMap."""
    key: KeyName
    """The key."""
    optional: bool | None = None
    """true: the pod starts even if it is missing, and the variable is not set."""


class FieldSelector(Block):
    """A field of the pod."""

    field_path: Annotated[
        str,
        Field(max_length=400),
        _IS_FIELD,
    ]
    """Its path."""


class EnvVarSource(Block):
    """Where a value comes from."""

    model_config = ConfigDict(json_schema_extra=rules(one_of("secretKeyRef", "configMapKeyRef", "fieldRef")))

    secret_key_ref: KeySelector | None = None
    """A key of a Secret."""
    config_map_key_ref: KeySelector | None = None
    """A key of a ConfigMap."""
    field_ref: FieldSelector | None = None
    """A field of the pod."""


class EnvVar(Block):
    """An environment variable."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "!has(self.valueFrom) || !has(self.value) || self.value == ''",
                "set value or valueFrom, not both",
                field_path=".value",
            )
        )
    )

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
    value_from: EnvVarSource | None = None
    """Value from elsewhere."""


class LocalObject(Block):
    """A Secret or ConfigMap of the same namespace."""

    name: ObjectName
    """Its name."""
    optional: bool | None = None
    """true: the pod starts even if it is missing."""


class EnvFromSource(Block):
    """Every key of a Secret or ConfigMap as a variable. A variable that is set by name takes precedence."""

    model_config = ConfigDict(json_schema_extra=rules(one_of("secretRef", "configMapRef")))

    prefix: (
        Annotated[
            str,
            Field(min_length=1, max_length=64),
            matches(
                "[-._a-zA-Z][-._a-zA-Z0-9]*", "must be letters, digits, '_', '-' and '.', not a digit first"
            ),
        ]
        | None
    ) = None
    """Put before each key."""
    secret_ref: LocalObject | None = None
    """A Secret."""
    config_map_ref: LocalObject | None = None
    """A ConfigMap."""


Env = Annotated[list[EnvVar], Field(max_length=64, json_schema_extra=map_list("name")), _UNRESERVED]
EnvFrom = Annotated[list[EnvFromSource], Field(max_length=16)]
