"""How the engine of an AdapterSet is started. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kubetune.api.adapterset import ENGINE_LORA_RANKS, Engine
from kubetune.api.defaults import NOTHING_SAID, ContainerDefaults
from kubetune.api.table import ENGINE_PORT
from kubetune.desired.pod_template import resources, variables
from kubetune.desired.volumes import is_claim_of_ours

_LEAST_RANK = 16
_LEAST_LORAS, _MOST_LORAS = 2, 8

# The engine is in no network but the pod's, and writes nowhere but to /tmp.
_ENV = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HOME": "/tmp",  # noqa: S108 - an emptyDir
    "USER": "kubetune",  # torch asks who it is, and a foreign image does not know this user
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
}
_RESOURCES = {"requests": {"cpu": "1", "memory": "4Gi"}}
"""No limits: what a model needs is for the user to know."""
_CPU_ENV = {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB; the default is most of the node's memory
# Compiling takes minutes and a C++ compiler in the image; on a CPU it gains little.
_CPU_ARGS = ("--enforce-eager",)


@dataclass(frozen=True)
class EngineLimits:
    """What an engine is started with and cannot change while it runs. Only a rollout does."""

    max_loras: int
    """Adapters active in one batch."""
    max_lora_rank: int
    """Highest rank."""
    claims: tuple[str, ...]
    """PersistentVolumeClaims mounted in the pod, sorted."""


def engine_limits(
    engine: Engine,
    *,
    adapters: int,
    ranks: Iterable[int],
    needed: Iterable[str],
    existing: Iterable[str],
    running: EngineLimits | None,
) -> EngineLimits:
    """What the engine should be started with.

    It never shrinks by itself: that would restart every engine for nothing.

    Args:
        engine: the user's wishes.
        adapters: number in the spec.
        ranks: of all versions, and of those that jobs are making.
        needed: claims that versions lie on, or will.
        existing: claims that exist.
        running: what the pods have now.
    """
    highest = max([_LEAST_RANK, *ranks])
    snapped = next((r for r in ENGINE_LORA_RANKS if r >= highest), ENGINE_LORA_RANKS[-1])
    loras = min(max(adapters, _LEAST_LORAS), _MOST_LORAS)
    needed, existing, mounted = set(needed), set(existing), set(running.claims if running else ())
    return EngineLimits(
        max_loras=engine.max_loras or (running.max_loras if running else loras),
        max_lora_rank=engine.max_lora_rank or max(snapped, running.max_lora_rank if running else 0),
        claims=tuple(sorted((mounted & (existing | needed)) | (needed & existing))),
    )


def roll_reason(wanted: EngineLimits, running: Iterable[EngineLimits]) -> tuple[str, str]:
    """Reason and message of a rollout, as far as the limits of the pods tell."""
    for limits in running:
        if new := set(wanted.claims) - set(limits.claims):
            return "NewClaim", f"pods are being replaced, to mount {', '.join(sorted(new))} for an adapter"
        if wanted.max_lora_rank != limits.max_lora_rank:
            return (
                "NewMaxLoraRank",
                f"pods are being replaced, to serve adapters up to rank {wanted.max_lora_rank}",
            )
    return "RollingOut", "pods are being created"


def engine_args(
    engine: Engine,
    limits: EngineLimits,
    defaults: ContainerDefaults = NOTHING_SAID,
    *,
    base_name: str,
    base_path: str,
) -> list[str]:
    """Arguments of the engine's server. Ours come last, so that no abbreviation of a flag overrides them."""
    return [
        *(() if on_gpu(engine, defaults) else _CPU_ARGS),
        *engine.args,
        "--host=127.0.0.1",
        f"--port={ENGINE_PORT}",
        f"--model={base_path}",
        f"--served-model-name={base_name}",
        "--enable-lora",
        "--trust-request-chat-template",  # adapters' templates; the gateway refuses those of clients
        f"--max-loras={limits.max_loras}",
        f"--max-lora-rank={limits.max_lora_rank}",
    ]


def changes_config(engine: Engine) -> bool:
    """Whether the engine is told what the base's config is, whatever its folder says: --hf-overrides, ..."""
    return any(argument.replace("_", "-").startswith("--hf-") for argument in engine.args)


def engine_env(engine: Engine, defaults: ContainerDefaults = NOTHING_SAID) -> list[dict[str, Any]]:
    """Environment of the engine; what the user sets wins over the chart's, and that over ours."""
    theirs = (engine.pod_template.env if engine.pod_template else None) or []
    return variables(
        _ENV | ({} if on_gpu(engine, defaults) else _CPU_ENV), [e.wire() for e in theirs], defaults
    )


def engine_resources(engine: Engine, defaults: ContainerDefaults) -> dict[str, Any]:
    """Compute resources of the engine."""
    return resources(engine.resources.wire() if engine.resources else None, defaults, _RESOURCES)


def on_gpu(engine: Engine, defaults: ContainerDefaults = NOTHING_SAID) -> bool:
    """Whether the engine asks for an accelerator: by any vendor's resource name, or by a claim of devices."""
    asked = engine_resources(engine, defaults)
    counts = asked.get("limits", {}).items()
    return bool(asked.get("claims")) or any("/" in name and str(n).strip("+0") for name, n in counts)


def running_limits(pod_spec: dict[str, Any]) -> EngineLimits | None:
    """The limits in a pod template made by us; None if it has no engine."""
    args = next(
        (c.get("args", ()) for c in pod_spec.get("initContainers", ()) if c["name"] == "engine"), None
    )
    if args is None:
        return None
    claims = {v["persistentVolumeClaim"]["claimName"] for v in pod_spec["volumes"] if is_claim_of_ours(v)}
    return EngineLimits(_number(args, "--max-loras"), _number(args, "--max-lora-rank"), tuple(sorted(claims)))


def _number(args: Sequence[str], flag: str) -> int:
    return int(next(a.partition("=")[2] for a in reversed(args) if a.startswith(f"{flag}=")))
