"""Checks of an adapter's copy before the engine sees it: digest, base, and what the engine can load."""

import json
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubetune.api.table import AdapterReason, TableAdapter
from kubetune.artifacts.digest import MANIFEST, FileDigest, digest_of, file_sha256
from kubetune.artifacts.manifest import ManifestError, read_manifest
from kubetune.gateway.base import BaseModules
from kubetune.gateway.fetch import READ
from kubetune.gateway.lora import check_base, check_matrices, check_values, pairs_of
from kubetune.gateway.refused import AdapterRefused
from kubetune.gateway.tensors import HeaderError, read_header

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
# Regular expressions whose time explodes: a repeated group, or many repeats one after the other.
_REPEATED = re.compile(r"\)\s*[*+{?]")
_REPEATS = re.compile(r"[*+{]")
_MOST_REPEATS = 3


@dataclass(frozen=True)
class Limits:
    """What adapters must fit."""

    base_digest: str | None
    """Digest of the base, if known."""
    base_path: Path
    """Folder of the base."""
    max_rank: int
    """Highest rank that the engine was started with."""


def verify(copy: Path, files: Collection[FileDigest], adapter: TableAdapter, limits: Limits) -> None:
    """Check a copy; `files` are all files of its source.

    Raises:
        AdapterRefused: it must not be loaded.
    """
    check_digest(copy, files, adapter.digest)
    check_manifest(copy, limits)
    ranks = check_config(_config(copy))
    if max(ranks) > limits.max_rank:
        raise AdapterRefused(
            AdapterReason.RANK_TOO_HIGH,
            f"rank {max(ranks)} exceeds this engine's limit of {limits.max_rank}: raise engine.maxLoraRank",
        )
    check_weights(copy / WEIGHTS, limits.base_path, ranks)


def check_digest(copy: Path, files: Collection[FileDigest], expected: str) -> None:
    """The files must be those that were asked for, and the copy must hold what they hold."""
    found = digest_of(files)
    if found != expected:
        raise AdapterRefused(
            AdapterReason.DIGEST_MISMATCH,
            f"the files have digest {found}, not {expected}: restore them, or set digest if that is meant",
        )
    expected_files = {f.path: f.sha256 for f in files if f.path in READ}
    found_files = {n: file_sha256(copy / n) for n in READ - {MANIFEST} if (copy / n).is_file()}
    if expected_files != found_files:
        raise AdapterRefused(AdapterReason.DIGEST_MISMATCH, "the copy is damaged: it will be made again")


def check_manifest(copy: Path, limits: Limits) -> None:
    """What the artifact says about itself, if it comes from a job of ours, must fit the base."""
    if not (copy / MANIFEST).exists():
        return
    try:
        manifest = read_manifest(copy)
    except ManifestError as error:
        raise _unsupported(f"{error}: remove the file or restore it") from error
    if manifest.format != "lora":
        held = "virtual tokens" if manifest.format == "prompt" else "full weights"
        raise _unsupported(f"the artifact holds {held}: serve a LoRA adapter")
    belongs_to = manifest.base_model_digest
    if belongs_to and limits.base_digest and belongs_to != limits.base_digest:
        raise AdapterRefused(
            AdapterReason.BASE_MODEL_MISMATCH,
            f"made for base {belongs_to}, but {limits.base_digest} is served: train it on this base",
        )


def check_config(config: dict[str, Any]) -> set[int]:
    """The ranks that a peft config names, if the engine can serve it."""
    if config.get("peft_type") != "LORA":
        raise _unsupported(f"peft_type is {config.get('peft_type')}: the engine serves LORA only")
    for field, name in _UNSUPPORTED:
        if config.get(field):
            raise _unsupported(f"the adapter uses {name}, which the engine cannot serve: train without")
    if config.get("bias", "none") != "none":
        raise _unsupported("the adapter trains biases, which the engine cannot serve: set bias to none")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        raise _unsupported(f"init_lora_weights {init} changes the base: convert it to a plain LoRA adapter")
    if not isinstance(config.get("target_modules"), str | list):
        raise _unsupported(f"{CONFIG} has no target_modules: restore what save_pretrained wrote")
    ranks, alphas = (_pattern(config, f) for f in ("rank_pattern", "alpha_pattern"))
    if not all(_is_number(a) for a in (config.get("lora_alpha"), *alphas.values())):
        raise _unsupported(f"{CONFIG} has no valid lora_alpha: it must be a number")
    named = [config.get("r"), *ranks.values()]
    if not all(type(r) is int and r > 0 for r in named):
        raise _unsupported(f"{CONFIG} has no valid rank r: it must be a positive integer")
    return set(named)


def _pattern(config: dict[str, Any], field: str) -> dict[str, Any]:
    """Values by regular expression, which the engine applies to every name."""
    pattern = config.get(field) or {}
    if not isinstance(pattern, dict):
        raise _unsupported(f"{field} of {CONFIG} is not an object: restore what save_pretrained wrote")
    for key in pattern:
        if _REPEATED.search(key) or len(_REPEATS.findall(key)) > _MOST_REPEATS:
            raise _unsupported(
                f"{field} of {CONFIG} holds a pattern that may take for ever to match: simplify {key[:80]}"
            )
        try:
            re.compile(key)
        except (re.error, OverflowError, RecursionError) as error:
            raise _unsupported(
                f"{key[:80]} in {field} of {CONFIG} is not a regular expression: {error}"
            ) from error
    return pattern


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def check_weights(weights: Path, base: Path, ranks: set[int]) -> None:
    """The weights must be LoRA matrices that change this base."""
    try:
        modules = BaseModules.of(base)
    except HeaderError as error:
        raise _unsupported(f"the base's {error}") from error
    try:
        tensors = read_header(weights)
    except HeaderError as error:
        raise _unsupported(str(error)) from error
    pairs = pairs_of(tensors, modules)
    check_matrices(pairs, tensors, ranks)
    check_base(pairs, tensors, modules)
    check_values(weights, pairs, tensors)


def _config(copy: Path) -> dict[str, Any]:
    for name in (CONFIG, WEIGHTS):
        if not (copy / name).is_file():
            raise AdapterRefused(
                AdapterReason.NOT_FOUND,
                f"{name} is missing: name a folder with a peft adapter, its weights as safetensors",
            )
    try:
        config = json.loads((copy / CONFIG).read_bytes())
    except (ValueError, RecursionError) as error:
        raise _unsupported(f"{CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise _unsupported(f"{CONFIG} is not an object: restore what save_pretrained wrote")
    return config


def _unsupported(message: str) -> AdapterRefused:
    return AdapterRefused(AdapterReason.UNSUPPORTED, message)
