"""Low-rank adapters on a frozen base in 4 bits, by bitsandbytes (QLoRA, Dettmers et al. 2023).

The base's linear layers, all but the output head, are held in NF4, half a byte per weight, and widened to the
compute dtype a layer at a time. The result is the very kind of adapter that method lora makes, and is served
on the base as it is.
"""

from typing import Any

import torch
from transformers import BitsAndBytesConfig

from kubetune.api.finetunejob import Quantization
from kubetune.api.runspec import RunSpec
from kubetune_trainer.methods import lora
from kubetune_trainer.methods.lora import FORMER, apply, export
from kubetune_trainer.runtime import Precision

__all__ = ["FORMER", "apply", "base_options", "export"]


def base_options(spec: RunSpec, precision: Precision, device: torch.device) -> dict[str, Any]:
    """Quantised while it is loaded, layer by layer, so that the whole model is never there in full."""
    wanted = spec.quantization or Quantization()
    held = lora.base_options(spec, precision, device)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=wanted.type,
        bnb_4bit_use_double_quant=wanted.double_quant,
        bnb_4bit_compute_dtype=held["dtype"],
    )
    return held | {"quantization_config": quantization, "device_map": {"": device}}
