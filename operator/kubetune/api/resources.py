"""Compute resources of a container: processors, memory, and what vendors' device plugins count."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.json_schema import WithJsonSchema

from kubetune.api.meta import Block, Check, cel, map_list, rules
from kubetune.api.source import PartName

_QUANTITY = re.compile(r"\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?")
# A sign is judged elsewhere.
_WHOLE = "[-+]?[0-9]+([KMGTPE]i|[kMGTPE]|[eE][0-9]+)?"
_OVERCOMMITTED = "['cpu', 'memory', 'ephemeral-storage']"
"""Of these alone a pod may use more than it requests."""
GPUS = ("nvidia.com/gpu", "nvidia.com/gpu.shared", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe")
"""Resources of which one is one device that a process computes on."""
MIG_PREFIX = "nvidia.com/mig-"
"""A slice of a GPU. A process can use only one, however many it is given."""


def _without_floats(quantity: object) -> object:
    """`8e9` as the integer that it is, and `cpu: 0.5` of the chart's values as a string. In a resource the
    chart's quantities.yaml has made it one."""
    if not isinstance(quantity, float):
        return quantity
    return int(quantity) if quantity.is_integer() else str(quantity)


Quantity = Annotated[
    int | str,
    BeforeValidator(_without_floats),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 32}),
    Check(
        "type(self) == int ? self >= 0 : isQuantity(self) && !quantity(self).isLessThan(quantity('0'))",
        "must be a quantity that is not negative, for example 2, 500m or 4Gi",
        lambda q: q >= 0 if isinstance(q, int) else len(q) <= 32 and _QUANTITY.fullmatch(q),
    ),
]
Resources = Annotated[
    dict[str, Quantity],
    Field(max_length=32),
    Check(
        f"self.all(k, k in {_OVERCOMMITTED} || k.startsWith('hugepages-') || k.contains('/'))",
        "must be cpu, memory, ephemeral-storage, hugepages-<size> or the resource of a vendor, for example "
        "nvidia.com/gpu",
        lambda found: all(
            k in ("cpu", "memory", "ephemeral-storage") or k.startswith("hugepages-") or "/" in k
            for k in found
        ),
    ),
    Check(
        f"self.all(k, !k.contains('/') || string(self[k]).matches(r'^{_WHOLE}$'))",
        "a device cannot be divided: ask for a whole number, for example nvidia.com/gpu: 1",
        lambda found: all("/" not in k or re.fullmatch(_WHOLE, str(q)) for k, q in found.items()),
    ),
]


class ResourceClaim(Block):
    """Devices of one of the pod's resourceClaims."""

    name: PartName
    """Name of the entry of resourceClaims."""
    request: PartName | None = None
    """Name of one request of that claim. Default: all of them."""


class ResourceRequirements(Block):
    """Compute resources, as in core/v1."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                f"!has(self.requests) || self.requests.all(k, k in {_OVERCOMMITTED} || (has(self.limits)"
                " && k in self.limits && (self.requests[k] == self.limits[k]"
                " || !isQuantity(string(self.requests[k])) || !isQuantity(string(self.limits[k]))"
                " || quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) == 0)))",
                "resources other than cpu, memory and ephemeral-storage belong in limits: set nvidia.com/gpu "
                "and the like there, and remove them from requests or request the same amount",
                field_path=".requests",
            ),
            cel(
                "!has(self.requests) || !has(self.limits)"
                f" || self.requests.all(k, !(k in {_OVERCOMMITTED}) || !(k in self.limits)"
                " || !isQuantity(string(self.requests[k])) || !isQuantity(string(self.limits[k]))"
                " || quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)",
                "a request must not exceed its limit: lower the request or raise the limit",
                field_path=".requests",
            ),
        )
    )

    requests: Resources | None = None
    """What the scheduler reserves."""
    limits: Resources | None = None
    """What the container may use at most. Devices, such as nvidia.com/gpu: 1, go here."""
    claims: Annotated[list[ResourceClaim], Field(max_length=8, json_schema_extra=map_list("name"))] | None = (
        None
    )
    """Devices by dynamic resource allocation: entries of the pod template's resourceClaims."""


_IS_GPU = f"(k in {list(GPUS)} || k.startsWith('{MIG_PREFIX}'))"
_COUNT = "string(self.resourcesPerNode.limits[k])"
ONE_GPU = cel(
    "!has(self.resourcesPerNode) || !has(self.resourcesPerNode.limits)"
    # What is no quantity is refused elsewhere.
    f" || (self.resourcesPerNode.limits.all(k, !{_IS_GPU} || !isQuantity({_COUNT})"
    f" || !quantity({_COUNT}).isGreaterThan(quantity('1')))"
    f" && self.resourcesPerNode.limits.filter(k, {_IS_GPU} && isQuantity({_COUNT})"
    f" && quantity({_COUNT}).isGreaterThan(quantity('0'))).size() <= 1)",
    "a run uses one GPU, and more would stand idle: ask for one GPU of one kind, for example "
    "nvidia.com/gpu: 1",
    field_path=".resourcesPerNode",
)
"""Of the compute block of a training job."""


def gpu_of(limits: Mapping[str, int | str] | None) -> str | None:
    """The GPU, by its resource name, that limits ask for; the first one by name if they ask for several."""
    asked = (name for name, count in sorted((limits or {}).items()) if str(count).strip("+0"))
    return next((name for name in asked if name in GPUS or name.startswith(MIG_PREFIX)), None)
