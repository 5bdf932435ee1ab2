"""Labels and annotations that users write: what is well-formed, and which keys are ours."""

import re
from typing import Annotated

from pydantic import Field

from kubetune.api.meta import Check

_DOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NAME = "[a-zA-Z0-9]([-_.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?"
_QUALIFIED_NAME = re.compile(f"({_DOMAIN}/)?{_NAME}")
_LABEL_VALUE = re.compile(f"({_NAME})?")

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
UNRESERVED = Check(
    "self.all(k, !k.startsWith('kubetune.io/') && k != 'app.kubernetes.io/managed-by')",
    "kubetune.io/... and app.kubernetes.io/managed-by are set by kubetune: choose another key",
    lambda labels: (
        not any(k.startswith("kubetune.io/") or k == "app.kubernetes.io/managed-by" for k in labels)
    ),
)

LabelValue = Annotated[str, Field(max_length=63)]
Labels = Annotated[dict[str, LabelValue], Field(max_length=64), WELL_FORMED_LABELS]
"""A bound must come before the check."""
Annotations = Annotated[
    dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=64), _WELL_FORMED_KEYS
]
LabelKey = Annotated[
    str,
    Field(min_length=1, max_length=317),
    Check(
        "!format.qualifiedName().validate(self).hasValue()",
        "must be [prefix/]name, with at most 63 letters, digits, '-', '_' and '.' in the name",
        _QUALIFIED_NAME.fullmatch,
    ),
]
LabelText = Annotated[
    str,
    Field(max_length=63),
    Check(
        "!format.labelValue().validate(self).hasValue()",
        "must be letters, digits, '-', '_' and '.', beginning and ending with a letter or digit",
        _LABEL_VALUE.fullmatch,
    ),
]
"""The value of one label. In a map of labels the map's own rule sees to that."""
