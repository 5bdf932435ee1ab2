"""Low-rank adapters on a frozen base in 4 bits, by bitsandbytes (QLoRA, Dettmers et al. 2023).

The base's linear layers, except the output head, and its experts are held in NF4, half a byte per weight, and
unpacked to the compute dtype one layer at a time. The result is an adapter as by method lora, and is served
on the base without quantisation.
"""

from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.nn.modules import Params4bit
from peft import PeftModel
from transformers import PreTrainedModel

from kubetune.api.finetunejob import Quantization
from kubetune.api.runspec import RunSpec
from kubetune.api.warnings import WarningReason
from kubetune_trainer.methods import experts, lora
from kubetune_trainer.methods.lora import FORMER, export
from kubetune_trainer.methods.names import short
from kubetune_trainer.methods.nf4 import ExpertsToo
from kubetune_trainer.model.counting import size
from kubetune_trainer.model.heads import Head
from kubetune_trainer.runtime import Precision
from kubetune_trainer.warned import warn

__all__ = ["FORMER", "apply", "base_options", "export"]


def base_options(spec: RunSpec, precision: Precision, device: torch.device) -> dict[str, Any]:
    """The base is quantised layer by layer while it is loaded, so that it is never held in full precision."""
    wanted = spec.quantization or Quantization()
    held = lora.base_options(spec, precision, device)
    quantization = ExpertsToo(
        load_in_4bit=True,
        bnb_4bit_quant_type=wanted.type,
        bnb_4bit_use_double_quant=wanted.double_quant,
        bnb_4bit_compute_dtype=held["dtype"],
    )
    return held | {"quantization_config": quantization, "device_map": {"": device}}


def apply(model: PreTrainedModel, spec: RunSpec, head: Head, fresh: Sequence[str]) -> PeftModel:
    """Add fp32 adapters; warn if experts are not in 4 bits.

    Raises:
        InvalidSpec, BaseModelMismatch: see `lora.apply`.
    """
    wide = {n: p for n, p in experts.parameters(model).items() if not isinstance(p, Params4bit)}
    if wide:
        count = sum(p.numel() for p in wide.values())
        held = ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in wide.values()}))
        warn(
            WarningReason.EXPERTS_NOT_QUANTIZED,
            f"{count:,} parameters of experts, {count / size(model):.0%} of the base, are held in {held} and "
            f"not in 4 bits ({', '.join(short(wide, wide))}): give the job memory for them, or choose "
            "another base",
        )
    return lora.apply(model, spec, head, fresh)
