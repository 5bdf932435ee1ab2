"""Layers of the base that get no adapter although all-linear means them."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from kubetune.api.finetunejob import Lora
from kubetune_trainer import warned
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.methods import lora
from kubetune_trainer.model.heads import CAUSAL_LM
from tests.fixtures.runs import finetune_spec


def mamba() -> PreTrainedModel:
    config = AutoConfig.for_model(
        "mamba", vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4, time_step_rank=4
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def test_a_layer_that_the_model_computes_past_is_told(tmp_path: Path) -> None:
    """Mamba's kernel takes the weight of out_proj, so that an adapter of it would be ignored."""
    spec = finetune_spec(tmp_path / "out", tmp_path, lora=Lora(rank=3))
    adapted = lora.apply(mamba(), spec, CAUSAL_LM, [])
    ends = {name.rpartition(".")[2] for name in adapted.base_model.targeted_module_names}
    assert ends == {"in_proj", "x_proj", "dt_proj"}
    (warning,) = warned.given()
    assert warning.reason == "LayersNotAdapted"
    assert warning.message.startswith(f"{2 * 64 * 32:,} parameters, "), warning.message
    assert "(mixer.out_proj)" in warning.message


def test_it_cannot_be_named(tmp_path: Path) -> None:
    named = Lora(rank=3, target_modules=["in_proj", "out_proj"])
    spec = finetune_spec(tmp_path / "out", tmp_path, lora=named)
    with pytest.raises(
        InvalidSpec, match=r"targetModules: peft has no adapters of mixer.out_proj in a mamba"
    ):
        lora.apply(mamba(), spec, CAUSAL_LM, [])
