"""Which resource of a pod is the GPU that a process computes on."""

import pytest

from kubetune.api.resources import gpu_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("limits", "gpu"),
    [
        (None, None),
        ({"cpu": 4, "memory": "8Gi", "hugepages-2Mi": "1Gi"}, None),
        ({"nvidia.com/gpu": 1}, "nvidia.com/gpu"),
        ({"nvidia.com/mig-1g.10gb": "1", "rdma/hca": 1}, "nvidia.com/mig-1g.10gb"),
        ({"amd.com/gpu": "+1"}, "amd.com/gpu"),
        ({"gpu.intel.com/i915": 1}, "gpu.intel.com/i915"),
        ({"nvidia.com/gpu": 0, "gpu.intel.com/xe": "1"}, "gpu.intel.com/xe"),
        ({"nvidia.com/gpu": "0"}, None),
        # What a device plugin for shared GPUs counts beside the GPU: mebibytes and percent.
        ({"nvidia.com/gpumem": 3000, "nvidia.com/gpucores": 50}, None),
    ],
)
def test_the_gpu_of_a_pod(limits: dict[str, int | str] | None, gpu: str | None):
    assert gpu_of(limits) == gpu
