"""Hardware and numerics: threads, determinism, precision."""

import math
import os
import platform
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import torch

from kubetune.api.runspec import GPU_VARIABLE
from kubetune_trainer.errors import InvalidSpec, NoGpu

Precision = Literal["fp32", "bf16"]
_CGROUP = Path("/sys/fs/cgroup")


def cpus() -> int:
    """Processors that this process may use: those of its affinity, or its cgroup's quota if that is less."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota()
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def _quota() -> float | None:
    """CPU limit of the cgroup (v2, then v1) in processors; None without a limit."""
    try:
        limit, period = (_CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (_CGROUP / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (_CGROUP / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if limit in ("max", "-1") else int(limit) / int(period)


def configure() -> int:
    """Use as many threads as there are processors, and only deterministic algorithms. Returns the threads.

    OMP_NUM_THREADS overrides the number. Another number of threads may round sums differently.
    """
    threads = int(os.environ.get("OMP_NUM_THREADS") or cpus())
    torch.set_num_threads(threads)
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # tokenizers
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    # This would fill fresh memory to catch reads before writes. It costs time and is not needed here.
    torch.utils.deterministic.fill_uninitialized_memory = False
    return threads


def check_gpu() -> None:
    """Refuse to fall back to the CPU if the pod was given a GPU: it would hold the GPU and take forever.

    Raises:
        NoGpu: PyTorch sees none.
    """
    given = os.environ.get(GPU_VARIABLE)
    if given and not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else None
        built = built or (f"ROCm {torch.version.hip}" if torch.version.hip else "the CPU alone")
        raise NoGpu(
            f"the pod has {given}, but PyTorch sees no GPU: see whether the image fits it (its PyTorch is "
            f"for {built}; another goes into compute.podTemplate.image), whether the node's driver works, "
            "and whether the cluster needs compute.podTemplate.runtimeClassName (often nvidia)"
        )


def resolve_precision(requested: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """Precision of the forward pass; auto is bf16 if the hardware computes in it.

    Raises:
        InvalidSpec: bf16 was asked for on a GPU without it.
    """
    if device.type == "cuda":
        capable = torch.cuda.is_bf16_supported(including_emulation=False)
        if requested == "bf16" and not capable:
            raise InvalidSpec("this GPU does not compute in bf16: set training.precision to fp32 or auto")
    else:
        found = torch.cpu.get_capabilities()
        capable = bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("sve_bf16"))
    return "bf16" if requested == "bf16" or (requested == "auto" and capable) else "fp32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context that a forward pass runs in."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def describe(device: torch.device, threads: int) -> str:
    """The hardware, in words for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = f"{threads} thread{'s' * (threads != 1)}"
    return f"{torch.cpu.get_capabilities().get('cpu_name', platform.machine())}, {count}"
