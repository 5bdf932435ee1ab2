"""Bases whose files are quantised: which can be trained on, how these are loaded, and how the others are
refused before anything is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit
from transformers import FineGrainedFP8Config, Mxfp4Config, PreTrainedModel

from kubetune.api.finetunejob import Quantization
from kubetune.api.warnings import WarningReason
from kubetune_trainer import model_files
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.warned import warn

NF4, FP4, INT8 = "bitsandbytes nf4", "bitsandbytes fp4", "bitsandbytes int8"
WIDENED: dict[str, Any] = {"fp8": FineGrainedFP8Config, "mxfp4": Mxfp4Config}
"""Formats that are widened to training.precision when they are loaded, and their settings in transformers."""
FORMATS = (NF4, FP4, INT8, *WIDENED)
"""Formats that can be trained on. transformers knows more, with packages that the image lacks."""
_BEFORE = "name the base as it was before it was quantised"


def check(folder: Path, method: str, wanted: Quantization | None) -> None:
    """Refuse a quantised base that a method cannot train on.

    Args:
        folder: of the base.
        method: of the run.
        wanted: how method qlora is to hold the base.

    Raises:
        InvalidSpec: the method cannot; or config.json cannot be read.
    """
    settings = _settings(folder, "base model")
    found = check_format(folder, "base model")
    if settings is None or found is None:
        return
    if method == "full":
        raise InvalidSpec(
            f"the base model is quantised ({found}), and method full trains and saves every weight: "
            f"choose method lora, or {_BEFORE}"
        )
    if method == "qlora":
        wanted = wanted or Quantization()
        if found != f"bitsandbytes {wanted.type}":
            raise InvalidSpec(
                f"the base model is quantised ({found}), so method qlora cannot hold it in {wanted.type}: "
                f"choose method lora, or {_BEFORE}"
            )
        doubly = bool(settings.get("bnb_4bit_use_double_quant"))
        if doubly != wanted.double_quant:
            warn(
                WarningReason.QUANTIZED_ALREADY,
                f"quantization.doubleQuant is {str(wanted.double_quant).lower()}, but the base model's files "
                f"hold 4-bit weights with doubleQuant {str(doubly).lower()}: they are used as they are; "
                f"{_BEFORE} to have it otherwise",
            )


def check_format(folder: Path, what: str) -> str | None:
    """The format of a quantised model, one of `FORMATS`; None: it is not quantised.

    Args:
        folder: of the model.
        what: name of the model in messages.

    Raises:
        InvalidSpec: it is another format; or config.json cannot be read.
    """
    settings = _settings(folder, what)
    if settings is None:
        return None
    found = str(settings.get("quant_method") or "an unnamed format")
    if found == "bitsandbytes":
        four = str(settings.get("bnb_4bit_quant_type", "fp4"))
        found += f" {four}" if settings.get("load_in_4bit") else " int8"
    if found not in FORMATS:
        raise InvalidSpec(
            f"the {what} is quantised ({found}, by quantization_config of its {model_files.CONFIG}), which "
            f"cannot be computed with here: {_BEFORE}; {', '.join(FORMATS)} can be"
        )
    return found


def options(folder: Path, what: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a model in the format of its files.

    Args:
        folder: of the model.
        what: name of the model in messages.
        wanted: arguments for a model that is not quantised.

    Raises:
        InvalidSpec: see `check_format`.
    """
    found = check_format(folder, what)
    if found is None:
        return dict(wanted)
    own = {"quantization_config": WIDENED[found](dequantize=True)} if found in WIDENED else {}
    return {name: value for name, value in wanted.items() if name != "quantization_config"} | own


def settle(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Make a model that was just loaded compute as it should, whatever its files say.

    - Before any forward: keep bitsandbytes from repacking weights for its AVX512-BF16 kernel. It does so at
      the first forward in eval mode, and from then on gradients through the layer are wrong or missing,
      without an error (seen with 0.48 to 0.50).
    - Layers in 4 bits would compute in the dtype that their files name, perhaps float16. They get that of the
      model.
    - transformers widens MXFP4 to bfloat16 even if fp32 was asked for. These weights become fp32.

    Args:
        model: just loaded.
        dtype: of its computation.
    """
    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False
            layer.compute_dtype, layer.compute_type_is_set = dtype, True
    if dtype == torch.float32:
        for parameter in model.parameters():
            if parameter.dtype == torch.bfloat16 and not hasattr(parameter, "quant_state"):
                parameter.data = parameter.data.to(dtype)


def _settings(folder: Path, what: str) -> Mapping[str, Any] | None:
    """quantization_config of a model's config, wherever transformers or others look for it."""
    path = folder / model_files.CONFIG
    if not path.is_file():
        return None
    config = model_files.json_object(path, f"the {what} cannot be loaded")
    text = config.get("text_config")
    for fields in (config, text if isinstance(text, dict) else {}):
        for name in ("quantization_config", "compression_config"):
            if fields.get(name) is not None:
                found = fields[name]
                return found if isinstance(found, dict) else {"quant_method": type(found).__name__}
    return None
