"""What peft makes of the names of a model's layers."""

from collections.abc import Iterable

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
from peft.utils.transformers_weight_conversion import (
    convert_peft_adapter_state_dict_for_transformers,
    convert_peft_config_for_transformers,
)
from transformers import PreTrainedModel


def taken_for_experts(model: PreTrainedModel, name: str) -> bool:
    """Whether peft mistakes a layer's name for that of an expert's layer before transformers 5."""
    probe = LoraConfig(target_modules=[name])
    try:
        convert_peft_config_for_transformers(probe, model, None)
    except ValueError:  # from peft, for one of several layers that are one now
        return True
    return name not in (probe.target_modules or ())


def bypassed(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """Layers that peft refuses, as Mamba's kernels use their weights directly and would ignore an adapter."""
    found = set()
    for name in names:
        try:
            _check_lora_target_modules_mamba(LoraConfig(), model, name.rpartition(".")[2])
        except ValueError:
            found.add(name)
    return found


def read_otherwise(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """Layers whose adapters peft reads under other names than it writes. It renames them as the checkpoints
    of the model are renamed, and then ignores those that fit no layer."""
    written = {f"base_model.model.{name}.lora_A.weight": name for name in names}
    probe = {key: torch.zeros(1, 1) for key in written}
    read = convert_peft_adapter_state_dict_for_transformers(model, LoraConfig(), probe)
    return {name for key, name in written.items() if key not in read}
