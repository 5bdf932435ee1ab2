"""Where a pod may run, beside nodeSelector: tolerations, affinity and spreading, as in core/v1."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from kubetune.api.keyvalue import LabelKey, Labels, LabelText
from kubetune.api.meta import SET_LIST, Block, cel, rules
from kubetune.api.source import PartName

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
    """Weight of this preference among the others."""
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


class LabelSelectorRequirement(Block):
    """What a label of a pod must be."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0"
                " : !has(self.values) || self.values.size() == 0",
                "In and NotIn need at least one value, Exists and DoesNotExist none",
                field_path=".values",
            )
        )
    )

    key: LabelKey
    """Key of the label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How it is compared."""
    values: Annotated[list[LabelText], Field(max_length=16)] | None = None
    """What it is compared with."""


class LabelSelector(Block):
    """Pods by their labels; all that is said must hold."""

    match_labels: Labels | None = None
    """Labels that they have."""
    match_expressions: Annotated[list[LabelSelectorRequirement], Field(max_length=8)] | None = None
    """What else must hold of their labels."""


TopologyKey = LabelKey
"""Node label whose values define the domains: nodes with the same value form one domain."""


class PodAffinityTerm(Block):
    """Pods, and what counts as the same place."""

    label_selector: LabelSelector
    """Which pods."""
    topology_key: TopologyKey
    """Node label whose values define the domains: nodes with the same value form one domain."""
    namespaces: Annotated[list[PartName], Field(max_length=8, json_schema_extra=SET_LIST)] | None = None
    """Namespaces of these pods. Default: the pod's own."""


class WeightedPodAffinityTerm(Block):
    """A preference."""

    weight: Annotated[int, Field(ge=1, le=100)]
    """Weight of this preference among the others."""
    pod_affinity_term: PodAffinityTerm
    """Near or far from which pods."""


class PodAffinity(Block):
    """A core/v1 PodAffinity or PodAntiAffinity."""

    required_during_scheduling_ignored_during_execution: Annotated[
        list[PodAffinityTerm] | None, Field(max_length=8)
    ] = None
    """What must hold."""
    preferred_during_scheduling_ignored_during_execution: Annotated[
        list[WeightedPodAffinityTerm] | None, Field(max_length=8)
    ] = None
    """What is preferred."""


class Affinity(Block):
    """A core/v1 Affinity."""

    node_affinity: NodeAffinity | None = None
    """By labels of nodes."""
    pod_affinity: PodAffinity | None = None
    """Near other pods."""
    pod_anti_affinity: PodAffinity | None = None
    """Far from other pods."""


class TopologySpreadConstraint(Block):
    """A core/v1 TopologySpreadConstraint."""

    max_skew: Annotated[int, Field(ge=1, le=1000)]
    """Largest difference between the numbers of pods in two domains."""
    topology_key: TopologyKey
    """Node label whose values define the domains: nodes with the same value form one domain."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"]
    """What happens to a pod that would violate the constraint."""
    label_selector: LabelSelector | None = None
    """Which pods are counted. Default: those of the same job or AdapterSet."""
    min_domains: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Least number of domains; goes with DoNotSchedule."""
    node_affinity_policy: Literal["Honor", "Ignore"] | None = None
    """Whether only nodes count that nodeSelector and affinity allow. Default: Honor."""
    node_taints_policy: Literal["Honor", "Ignore"] | None = None
    """Whether only nodes count whose taints are tolerated. Default: Ignore."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "!has(self.minDomains) || self.whenUnsatisfiable == 'DoNotSchedule'",
                "goes with whenUnsatisfiable: DoNotSchedule",
                field_path=".minDomains",
            )
        )
    )
