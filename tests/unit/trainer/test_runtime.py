import os
from pathlib import Path

import pytest
import torch

from kubetune.api.runspec import GPU_VARIABLE
from kubetune_trainer import runtime
from kubetune_trainer.errors import NoGpu
from kubetune_trainer.runtime import check_gpu, cpus, resolve_precision

V1 = "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({V1[0]: "-1", V1[1]: "100000"}, 64),
        ({V1[0]: "400000", V1[1]: "100000"}, 4),
        ({}, 64),
    ],
)
def test_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    monkeypatch.setattr(runtime, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert cpus() == expected


@pytest.mark.parametrize(
    ("capable", "requested", "expected"),
    [(True, "auto", "bf16"), (False, "auto", "fp32"), (True, "fp32", "fp32"), (False, "bf16", "bf16")],
)
def test_precision(monkeypatch: pytest.MonkeyPatch, capable: bool, requested, expected: str):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": capable})
    assert resolve_precision(requested, torch.device("cpu")) == expected


def test_a_run_that_was_given_a_gpu_does_not_fall_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_gpu()
    monkeypatch.setenv(GPU_VARIABLE, "nvidia.com/mig-1g.10gb")
    with pytest.raises(NoGpu, match=r"the pod has nvidia\.com/mig-1g\.10gb, but PyTorch sees no GPU"):
        check_gpu()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_gpu()
