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
    """Whether peft takes a layer's name for an expert's, as these were called before transformers 5."""
    probe = LoraConfig(target_modules=[name])
    try:
        convert_peft_config_for_transformers(probe, model, None)
    except ValueError:  # of one of several names that are fused now
        return True
    return name not in (probe.target_modules or ())


def bypassed(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """Layers that peft refuses, since Mamba's kernels take their weights and would pass over an adapter."""
    found = set()
    for name in names:
        try:
            _check_lora_target_modules_mamba(LoraConfig(), model, name.rpartition(".")[2])
        except ValueError:
            found.add(name)
    return found


def read_otherwise(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """Layers whose adapters peft reads under other names than it writes: it renames whatever the checkpoints
    of the model are renamed by, and passes over what fits nothing then."""
    written = {f"base_model.model.{name}.lora_A.weight": name for name in names}
    probe = {key: torch.zeros(1, 1) for key in written}
    read = convert_peft_adapter_state_dict_for_transformers(model, LoraConfig(), probe)
    return {name for key, name in written.items() if key not in read}
