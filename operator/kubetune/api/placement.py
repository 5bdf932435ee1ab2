"""Which nodes a pod may run on, beside nodeSelector: tolerations and node affinity, as in core/v1."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from kubetune.api.keyvalue import LabelKey, LabelText
from kubetune.api.meta import Block, cel, rules

_OPERATOR_FITS_VALUES = cel(
    "self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0"
    " : self.operator in ['Exists', 'DoesNotExist'] ? !has(self.values) || self.values.size() == 0"
    " : has(self.values) && self.values.size() == 1 && self.values[0].matches(r'^[0-9]{1,18}$')",
    "In and NotIn need at least one value, Exists and DoesNotExist none, Gt and Lt one whole number",
    field_path=".values",
)


class Toleration(Block):
    """A core/v1 Toleration."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
                "name the key of the taint, or set operator: Exists to tolerate every taint",
                field_path=".operator",
            ),
            cel(
                "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
                "operator Exists compares no value: remove it, or set operator: Equal",
                field_path=".value",
            ),
            cel(
                "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                "goes with effect: NoExecute: set that, or remove it",
                field_path=".tolerationSeconds",
            ),
        )
    )

    key: LabelKey | None = None
    """Taint key; absent with operator Exists tolerates everything."""
    operator: Literal["Exists", "Equal"] | None = None
    """How key and value are compared; Equal by default."""
    value: LabelText | None = None
    """Taint value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; absent matches all."""
    toleration_seconds: int | None = None
    """How long a NoExecute taint is tolerated."""


class NodeSelectorRequirement(Block):
    """What a label of a node must be."""

    model_config = ConfigDict(json_schema_extra=rules(_OPERATOR_FITS_VALUES))

    key: LabelKey
    """Key of the label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """How it is compared."""
    values: Annotated[list[LabelText], Field(max_length=16)] | None = None
    """What it is compared with."""


class NodeSelectorTerm(Block):
    """Requirements of which all must hold."""

    match_expressions: Annotated[list[NodeSelectorRequirement], Field(min_length=1, max_length=8)]
    """The requirements."""


class NodeSelector(Block):
    """Terms of which one must hold."""

    node_selector_terms: Annotated[list[NodeSelectorTerm], Field(min_length=1, max_length=8)]
    """The terms."""


class PreferredSchedulingTerm(Block):
    """Nodes that are preferred."""

    weight: Annotated[int, Field(ge=1, le=100)]
    """How much, against other preferences."""
    preference: NodeSelectorTerm
    """Which nodes."""


class NodeAffinity(Block):
    """A core/v1 NodeAffinity."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    """Nodes that the pod may run on."""
    preferred_during_scheduling_ignored_during_execution: Annotated[
        list[PreferredSchedulingTerm] | None, Field(max_length=8)
    ] = None
    """Nodes that are taken first."""


class Affinity(Block):
    """A core/v1 Affinity, as far as nodes are concerned."""

    node_affinity: NodeAffinity
    """By labels of nodes."""
