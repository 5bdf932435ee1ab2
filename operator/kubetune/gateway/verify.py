"""Checks of an adapter's copy before the engine sees it: digest, base, and what the engine can load."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubetune.api.table import TableAdapter
from kubetune.artifacts.digest import MANIFEST, UnsafePath, folder_digest
from kubetune.artifacts.manifest import ManifestError, read_manifest
from kubetune.gateway.refused import Reason, Refused
from kubetune.gateway.shapes import BaseShapes, HeaderError, tensor_shapes

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

# Initialisations that leave the base's weights alone; vLLM refuses adapters made with any other.
_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
# peft features that change what an adapter means, and that vLLM does not implement: (field, name).
_UNSUPPORTED = (
    ("use_dora", "DoRA"),
    ("lora_bias", "lora_bias"),
    ("modules_to_save", "modules_to_save"),
    ("alora_invocation_tokens", "aLoRA"),
    ("layer_replication", "layer_replication"),
    ("use_bdlora", "BD-LoRA"),
    ("use_qalora", "QALoRA"),
    ("trainable_token_indices", "trainable_token_indices"),
)


@dataclass(frozen=True)
class Limits:
    """What adapters must fit."""

    base_digest: str | None
    """Digest of the base, if known."""
    base_path: Path
    """Folder of the base."""
    max_rank: int
    """What the engine was started with."""


def verify(copy: Path, adapter: TableAdapter, limits: Limits) -> None:
    """Judge a copy.

    Raises:
        Refused: it must not be loaded.
    """
    check_digest(copy, adapter.digest)
    check_manifest(copy, limits)
    rank = check_config(_config(copy))
    if rank > limits.max_rank:
        raise Refused(
            Reason.RANK_TOO_HIGH,
            f"rank {rank} exceeds this engine's limit of {limits.max_rank}: raise engine.maxLoraRank",
        )
    check_shapes(copy / WEIGHTS, limits.base_path)


def check_digest(copy: Path, expected: str) -> None:
    """The files must be those that were asked for."""
    try:
        found = folder_digest(copy)
    except UnsafePath as error:
        raise Refused(Reason.UNSAFE_FILE, str(error)) from error
    if found != expected:
        raise Refused(
            Reason.DIGEST_MISMATCH,
            f"the files have digest {found}, not {expected}: restore them, or set digest if that is meant",
        )


def check_manifest(copy: Path, limits: Limits) -> None:
    """What the artifact says about itself, if it comes from a job of ours, must fit the base."""
    if not (copy / MANIFEST).exists():
        return
    try:
        manifest = read_manifest(copy)
    except ManifestError as error:
        raise Refused(Reason.UNSUPPORTED, f"{error}: remove the file or restore it") from error
    if manifest.format != "lora":
        held = "virtual tokens" if manifest.format == "prompt" else "full weights"
        raise Refused(Reason.UNSUPPORTED, f"the artifact holds {held}: serve a LoRA adapter")
    belongs_to = manifest.base_model_digest
    if belongs_to and limits.base_digest and belongs_to != limits.base_digest:
        raise Refused(
            Reason.BASE_MODEL_MISMATCH,
            f"made for base {belongs_to}, but {limits.base_digest} is served: train it on this base",
        )


def check_config(config: dict[str, Any]) -> int:
    """The rank of a peft config that the engine can serve."""
    if config.get("peft_type") != "LORA":
        raise Refused(
            Reason.UNSUPPORTED, f"peft_type is {config.get('peft_type')}: the engine serves LORA only"
        )
    for field, name in _UNSUPPORTED:
        if config.get(field):
            raise Refused(
                Reason.UNSUPPORTED, f"the adapter uses {name}, which the engine cannot serve: train without"
            )
    if config.get("bias", "none") != "none":
        raise Refused(
            Reason.UNSUPPORTED, "the adapter trains biases, which the engine cannot serve: set bias to none"
        )
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        raise Refused(
            Reason.UNSUPPORTED,
            f"init_lora_weights {init} changes the base: convert it to a plain LoRA adapter",
        )
    pattern = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else [None])]
    if not all(isinstance(r, int) and r > 0 for r in ranks):
        raise Refused(Reason.UNSUPPORTED, f"{CONFIG} has no valid rank r")
    return int(max(ranks))


def check_shapes(weights: Path, base: Path) -> None:
    """Every matrix must fit the layer that it changes: what doesn't could harm the engine.

    Layers that the base's files name differently (quantised, fused) are left to the engine's judgement.
    """
    try:
        tensors = tensor_shapes(weights)
        wrong = BaseShapes.of(base).misfit(tensors)
    except HeaderError as error:
        raise Refused(Reason.UNSUPPORTED, str(error)) from error
    if not any(".lora_A" in name for name in tensors):
        raise Refused(Reason.UNSUPPORTED, f"{WEIGHTS} holds no LoRA matrices")
    if wrong:
        raise Refused(Reason.BASE_MODEL_MISMATCH, f"{wrong}: train it on this base")


def _config(copy: Path) -> dict[str, Any]:
    for name in (CONFIG, WEIGHTS):
        if not (copy / name).is_file():
            raise Refused(Reason.NOT_FOUND, f"{name} is missing: the folder is not a peft adapter")
    try:
        config = json.loads((copy / CONFIG).read_bytes())
    except (ValueError, RecursionError) as error:
        raise Refused(Reason.UNSUPPORTED, f"{CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise Refused(Reason.UNSUPPORTED, f"{CONFIG} is not an object")
    return config
