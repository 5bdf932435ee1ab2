"""An adapter from which training starts."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.utils.save_and_load import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from kubetune.api.runspec import ArtifactFormat, RunAdapter
from kubetune.api.warnings import WarningReason
from kubetune.artifacts.digest import MANIFEST
from kubetune.artifacts.manifest import Manifest, ManifestError, read_manifest
from kubetune_trainer.errors import BaseModelMismatch, DataError, InvalidSpec
from kubetune_trainer.methods import adapter_config
from kubetune_trainer.methods.adapter_config import CONFIG
from kubetune_trainer.model.checking import check_finite
from kubetune_trainer.model.digest import checked_digest
from kubetune_trainer.model_files import json_object
from kubetune_trainer.reading import cause, of_the_file, reading
from kubetune_trainer.warned import warn

WEIGHTS = "adapter_model.safetensors"
KINDS: dict[ArtifactFormat, str] = {"lora": "a LoRA adapter", "prompt": "one of method prompt-tuning"}
TYPES: dict[ArtifactFormat, str] = {"lora": "LORA", "prompt": "PROMPT_TUNING"}
"""As peft calls them."""


def check(adapter: RunAdapter, base_digest: str, format: ArtifactFormat) -> str:
    """Check an adapter's format and base, as far as its manifest tells them; return its digest.

    Raises:
        BaseModelMismatch: it was trained on another base, or is not the one that was asked for.
        DataError: it is not there.
        InvalidSpec: its manifest is malformed, or of another format.
    """
    digest = checked_digest("adapter", adapter.path, adapter.root, adapter.digest)
    folder = Path(adapter.path)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise DataError(f"adapter {adapter.uri}: {name} is missing: name a folder with a peft adapter")
    if not (folder / MANIFEST).exists():
        warn(
            WarningReason.ADAPTER_WITHOUT_MANIFEST,
            "the adapter has no manifest, so only its shapes show whether it fits the base",
        )
        return digest
    manifest = manifest_of(folder, f"adapter {adapter.uri}")
    if manifest.format != format:
        remedy = "name it as baseModel" if manifest.format == "full" else f"name {KINDS[format]}"
        raise InvalidSpec(f"adapter {adapter.uri} is of format {manifest.format}: {remedy}")
    if manifest.base_model_digest != base_digest:
        raise BaseModelMismatch(
            f"adapter {adapter.uri} was trained on base {manifest.base_model_digest}, not on {base_digest}: "
            "name that base, or an adapter of this one"
        )
    return digest


def manifest_of(folder: Path, what: str) -> Manifest:
    """The manifest of an adapter.

    Args:
        folder: of the adapter.
        what: name of the adapter in messages.

    Raises:
        InvalidSpec: it cannot be read, or is malformed.
    """
    try:
        return read_manifest(folder)
    except (ManifestError, OSError) as error:
        problem = getattr(error, "strerror", None) or error
        raise InvalidSpec(f"{what}: {problem}: remove {MANIFEST} or restore it") from error


def config_of(adapter: RunAdapter) -> LoraConfig:
    """A LoRA adapter's own settings, with which its training continues.

    Raises:
        InvalidSpec: it is no LoRA adapter, or also trains weights of the base.
    """
    check_type(adapter, "lora")
    config = adapter_config.read(Path(adapter.path), f"adapter {adapter.uri}")
    if config.modules_to_save:
        raise InvalidSpec(
            f"adapter {adapter.uri} also holds whole layers ({', '.join(config.modules_to_save)}): "
            "name one that holds only LoRA matrices"
        )
    return config


def check_type(adapter: RunAdapter, format: ArtifactFormat) -> None:
    """Check that an adapter is of peft's type for a format.

    Raises:
        InvalidSpec: it is of another.
    """
    found = json_object(Path(adapter.path) / CONFIG, f"adapter {adapter.uri}").get("peft_type")
    if found != TYPES[format]:
        raise InvalidSpec(f"adapter {adapter.uri} is of type {found}: name {KINDS[format]}")


def weights_of(adapter: RunAdapter) -> dict[str, torch.Tensor]:
    """An adapter's weights by name, in fp32.

    Raises:
        InvalidSpec: the file cannot be read, or holds something else than finite numbers.
    """
    what = f"adapter {adapter.uri}: {WEIGHTS}"
    with reading(what, "restore it"):
        found = load_file(Path(adapter.path) / WEIGHTS)
    for name, tensor in found.items():
        if not tensor.is_floating_point():
            raise InvalidSpec(f"{what}: {name} is of type {tensor.dtype}, which no adapter has: restore it")
    weights = {n: t.to(torch.float32) for n, t in found.items()}
    check_finite(weights.items(), f"adapter {adapter.uri}: its files")
    return weights


def restore(model: PeftModel, adapter: RunAdapter) -> None:
    """Load an adapter's weights, in fp32, into a model that was made by `config_of`.

    Raises:
        BaseModelMismatch: they do not fit the model's layers.
        InvalidSpec: the file cannot be read.
    """
    weights = weights_of(adapter)
    remedy = "name the base that it was trained on"
    # A new head is part of the model's adapter, and not of the former one.
    weights |= {n: t for n, t in get_peft_model_state_dict(model).items() if ".lora_" not in n}
    try:
        found = set_peft_model_state_dict(model, weights)
    except Exception as error:  # torch's, for shapes that differ
        if not of_the_file(error):
            raise
        raise BaseModelMismatch(
            f"adapter {adapter.uri} does not fit the base: {cause(error)}: {remedy}"
        ) from error
    missing = [n for n in found.missing_keys if ".lora_" in n]
    if missing or found.unexpected_keys:
        strange = [*missing, *found.unexpected_keys][0]
        raise BaseModelMismatch(
            f"adapter {adapter.uri} has other layers than the base ({strange}, ...): {remedy}"
        )
