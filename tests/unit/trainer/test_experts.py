"""Adapters and 4-bit weights of experts, by hand and against peft."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Params4bit
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from kubetune.api.finetunejob import Lora, Quantization
from kubetune_trainer import warned
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.methods import experts, lora, qlora
from kubetune_trainer.model import quantised
from kubetune_trainer.model.counting import size
from kubetune_trainer.model.heads import CAUSAL_LM
from kubetune_trainer.runtime import Precision
from tests.fixtures.runs import finetune_spec

TOKENS = torch.arange(3, 35).reshape(2, 16)
SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_experts_per_tok": 2,
    "initializer_range": 0.2,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    # Stacked [experts, outputs, inputs]; [experts, inputs, outputs] with biases; without gates.
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16},
    "gpt_oss": {"num_local_experts": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "nemotron_h": {
        "n_routed_experts": 4, "moe_intermediate_size": 16, "moe_shared_expert_intermediate_size": 16,
        "layers_block_type": ["attention", "moe"], "n_group": 1, "topk_group": 1,
    },
}  # fmt: skip
ALL = ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]


def model_of(kind: str, **more: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES | KINDS.get(kind, {}) | more)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter.data)
    return model


def adapt(model: PreTrainedModel, tmp_path: Path, method: Any = lora, **settings: Any) -> PeftModel:
    """With random updates."""
    wanted = Lora(rank=3, alpha=6, **settings)
    spec = finetune_spec(tmp_path / "out", tmp_path, lora=wanted)
    adapted = method.apply(model, spec, CAUSAL_LM, [])
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter.data, std=0.2)
    return adapted


def held(folder: Path, precision: Precision = "fp32") -> PreTrainedModel:
    """In 4 bits."""
    spec = finetune_spec(folder / "out", folder, method="qlora", quantization=Quantization())
    options = qlora.base_options(spec, precision, torch.device("cpu"))
    model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    quantised.settle(model, options["dtype"])
    return model


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def own(model: PeftModel) -> PeftModel:
    """The same adapter on the same base as peft alone has it."""
    config = model.peft_config["default"]
    weights = {n.replace(".base_layer", ""): p.data.clone() for n, p in model.named_parameters()}
    base = AutoModelForCausalLM.from_config(deepcopy(model.config), dtype=torch.float32).eval()
    base.config._experts_implementation = "eager"
    for name, parameter in base.named_parameters():
        parameter.data = weights[f"base_model.model.{name}"]
    plain = LoraConfig(
        r=config.r, lora_alpha=config.lora_alpha, use_rslora=config.use_rslora,
        target_modules=[*config.target_modules], target_parameters=[*config.target_parameters],
    )  # fmt: skip
    other = get_peft_model(base, plain)
    other.load_state_dict({n: p for n, p in model.state_dict().items() if "lora_" in n}, strict=False)
    return other


@pytest.mark.parametrize("variant", ["lora", "rslora"])
@pytest.mark.parametrize("kind", KINDS)
def test_updates_and_gradients_of_experts_are_those_of_peft(kind: str, variant: str, tmp_path: Path) -> None:
    model = adapt(model_of(kind), tmp_path, variant=variant)
    other = own(model)
    found, expected = (m(input_ids=TOKENS).logits for m in (model, other))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    ours, theirs = gradients(model), gradients(other)
    assert ours.keys() == theirs.keys()
    assert sum("experts" in name for name in ours) >= 4
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6, msg=name)


def test_an_expert_is_its_weight_and_its_own_update(tmp_path: Path) -> None:
    """W_e + alpha / r B_e A_e, by hand."""
    model = adapt(model_of("qwen3_moe"), tmp_path)
    outer = model.get_base_model().model.layers[0].mlp.experts
    stacked = outer.get_base_layer()
    weights = {}
    for wrapper, name in ((outer, "down_proj"), (outer.base_layer, "gate_up_proj")):
        weight = getattr(stacked, name).detach()
        a = wrapper.lora_A["default"].weight.detach().reshape(4, 3, weight.shape[2])
        b = wrapper.lora_B["default"].weight.detach().reshape(weight.shape[1], 3, 4)
        weights[name] = [weight[e] + 6 / 3 * b[:, :, e] @ a[e] for e in range(4)]
    x = torch.randn(5, 32)
    index, shares = torch.tensor([[0, 1], [1, 3], [0, 3], [3, 0], [1, 0]]), torch.rand(5, 2)
    expected = torch.zeros(5, 32)
    for token in range(5):
        for expert, share in zip(index[token].tolist(), shares[token], strict=True):
            gate, up = (weights["gate_up_proj"][expert] @ x[token]).chunk(2)
            expected[token] += share * (weights["down_proj"][expert] @ (nn.functional.silu(gate) * up))
    torch.testing.assert_close(outer(x, index, shares).detach(), expected, rtol=1e-4, atol=1e-4)


def test_a_token_of_no_expert_gets_nothing(tmp_path: Path) -> None:
    """Some routers send tokens past the last expert."""
    model = adapt(model_of("qwen3_moe"), tmp_path)
    outer = model.get_base_model().model.layers[0].mlp.experts
    x, shares = torch.randn(2, 32), torch.ones(2, 2)
    alone = outer(x, torch.tensor([[0, 4], [4, 4]]), shares)
    with_another = outer(x, torch.tensor([[0, 1], [2, 2]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(alone, with_another)


@torch.no_grad()
def test_small_updates_are_not_rounded_away_in_bf16(tmp_path: Path) -> None:
    """Added to weights in bf16, what is below half a step of theirs is lost."""
    model = adapt(model_of("qwen3_moe"), tmp_path)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data *= 0.002
    off = {}
    x, index, shares = torch.randn(64, 32), torch.randint(4, (64, 1)), torch.ones(64, 1)
    for name, whole in (("apart", model), ("added", own(model))):
        outer = whole.get_base_model().model.layers[0].mlp.experts
        stacked = outer.get_base_layer()
        for parameter in stacked.parameters(recurse=False):
            parameter.data = parameter.data.bfloat16().float()  # to steps of bf16, computed exactly
        exact = outer(x, index, shares)
        with whole.disable_adapter():
            effect = exact - outer(x, index, shares)
        for parameter in stacked.parameters(recurse=False):
            parameter.data = parameter.data.bfloat16()
        with whole.disable_adapter():
            without = outer(x.bfloat16(), index, shares).float()
        found = outer(x.bfloat16(), index, shares).float() - without
        off[name] = float((found - effect).norm() / effect.norm())
    assert off["apart"] < 0.8 * off["added"], off


@pytest.mark.parametrize("kind", KINDS)
def test_experts_in_4_bits_are_what_they_stand_for(kind: str, tmp_path: Path) -> None:
    """Loaded in 4 bits and adapted, against peft on a base of the widened weights."""
    plain = model_of(kind)
    plain.save_pretrained(tmp_path)
    model = held(tmp_path)
    packed = {n: p for n, p in experts.parameters(model).items() if isinstance(p, Params4bit)}
    assert packed.keys() == experts.parameters(plain).keys()
    assert all(2 * p.numel() == p.quant_state.shape.numel() for p in packed.values())
    assert size(model) == size(plain)
    wide = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if isinstance(parameter, Params4bit):
            wide.get_parameter(name).data = dequantize_4bit(parameter.data, parameter.quant_state).float()
    assert not torch.equal(wide.get_parameter(next(iter(packed))), plain.get_parameter(next(iter(packed))))
    with torch.no_grad():
        torch.testing.assert_close(
            model(input_ids=TOKENS).logits, wide(input_ids=TOKENS).logits, rtol=1e-4, atol=1e-4
        )
    model, other = adapt(model, tmp_path, qlora), adapt(wide, tmp_path)
    ours, theirs = gradients(model), gradients(own(other))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-5, msg=name)


def test_nothing_of_4_bit_experts_is_kept_widened_for_the_backward_pass(tmp_path: Path) -> None:
    model_of("qwen3_moe").save_pretrained(tmp_path)
    model = adapt(held(tmp_path), tmp_path, qlora)
    sizes: list[int] = []
    largest = 4 * 32 * 32
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(t.numel() if t.ndim == 3 and t.shape[0] == 4 else 0) or t, lambda t: t
    ):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert 0 < max(sizes) < largest, "factors alone"


def test_a_router_is_not_adapted_and_experts_are_unless_it_is_said(tmp_path: Path) -> None:
    model = adapt(model_of("qwen3_moe"), tmp_path)
    names = [*model.base_model.targeted_module_names, *model.base_model.targeted_parameter_names]
    assert len(names) == 2 * (4 + 2)
    assert not any(name.endswith((".gate", "gate.weight")) for name in names)
    assert not warned.given()
    trained = size(model, trainable=True)
    attention = 2 * 3 * (2 * (32 + 32) + 2 * (32 + 16))
    assert trained == attention + 2 * 4 * 3 * ((32 + 32) + (16 + 32))


@pytest.mark.parametrize("settings", [{"dropout": 0.1}, {"variant": "dora"}])
def test_what_peft_does_not_do_to_experts_leaves_them_out(settings: dict[str, Any], tmp_path: Path) -> None:
    model = adapt(model_of("qwen3_moe"), tmp_path, **settings)
    assert not model.base_model.targeted_parameter_names
    (warning,) = warned.given()
    assert warning.reason == "ExpertsNotAdapted"
    count = 2 * 4 * (32 * 32 + 16 * 32)
    assert warning.message.startswith(f"{count:,} parameters, "), warning.message
    assert "mlp.experts.down_proj, mlp.experts.gate_up_proj" in warning.message
    with pytest.raises(InvalidSpec, match=r"lora.targetParameters: .*set lora.dropout to 0"):
        adapt(model_of("qwen3_moe"), tmp_path, target_parameters=ALL, **settings)


def test_experts_that_are_computed_otherwise_are_left_out(tmp_path: Path) -> None:
    sizes = {"num_local_experts": 4, "intermediate_size_mlp": 48, "moe_layers": [0, 1]}
    llama = model_of("llama4_text", **sizes)
    adapt(llama, tmp_path, qlora)
    reasons = [w.reason for w in warned.given()]
    assert reasons == ["ExpertsNotQuantized", "ExpertsNotAdapted"]
    with pytest.raises(InvalidSpec, match="experts of a llama4_text model cannot be adapted"):
        adapt(model_of("llama4_text", **sizes), tmp_path, target_parameters=["experts.down_proj"])


CHOSEN: dict[str, tuple[dict[str, Any], set[str]]] = {
    "experts alone": (
        {"target_modules": [], "target_parameters": ["experts.down_proj"]}, {"experts.down_proj"}
    ),
    "none": ({"target_parameters": []}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
    "layers alone": ({"target_modules": ["q_proj"]}, {"q_proj"}),
    "as they were called": (
        {"target_modules": ["v_proj", "gate_proj", "up_proj", "down_proj"]},
        {"v_proj", "experts.gate_up_proj", "experts.down_proj"},
    ),
    "all and the embeddings": (
        {"target_modules": ["all-linear", "embed_tokens"], "target_parameters": []},
        {"q_proj", "k_proj", "v_proj", "o_proj", "embed_tokens"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHOSEN)
def test_what_is_chosen(case: str, tmp_path: Path) -> None:
    settings, expected = CHOSEN[case]
    model = adapt(model_of("qwen3_moe"), tmp_path, **settings)
    names = [*model.base_model.targeted_module_names, *model.base_model.targeted_parameter_names]
    ends = {".".join(n.split(".")[-2:]) if "experts" in n else n.rpartition(".")[2] for n in names}
    assert ends == expected


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a name among others": (
        {"target_modules": ["q_proj", "query"]}, r"targetModules: the base model has no layer query; .*q_proj"
    ),
    "a router": ({"target_modules": ["q_proj", "gate"]}, "no layer gate;"),
    "a container": ({"target_modules": ["q_proj", "mlp"]}, "no layer mlp;"),
    "half of a weight": ({"target_modules": ["gate_proj"]}, "gate_proj and up_proj as one weight: name both"),
    "experts": (
        {"target_parameters": ["experts.w1"]},
        "no experts' weight experts.w1; the base has mlp.experts.down_proj, mlp.experts.gate_up_proj",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_there_for_nothing_is_refused_by_name(case: str, tmp_path: Path) -> None:
    settings, message = REFUSED[case]
    with pytest.raises(InvalidSpec, match=message):
        adapt(model_of("qwen3_moe"), tmp_path, **settings)


def test_layers_whose_names_peft_takes_for_experts_are_adapted_as_layers(tmp_path: Path) -> None:
    """The shared expert and the dense first layer of a deepseek_v3, by the names of their weights."""
    own_sizes = {
        "n_routed_experts": 4, "moe_intermediate_size": 16, "n_shared_experts": 1, "n_group": 1,
        "topk_group": 1, "num_key_value_heads": 4, "q_lora_rank": 8,
        "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
        "first_k_dense_replace": 1,
    }  # fmt: skip
    model = adapt(model_of("deepseek_v3", **own_sizes), tmp_path)
    parameters = set(model.base_model.targeted_parameter_names)
    assert "model.layers.0.mlp.gate_proj.weight" in parameters
    assert "model.layers.1.mlp.shared_experts.down_proj.weight" in parameters
    layer = model.get_base_model().model.layers[1].mlp.shared_experts.down_proj
    assert type(layer).__name__ == "Linear"
    other = own(model)
    torch.testing.assert_close(
        model(input_ids=TOKENS).logits, other(input_ids=TOKENS).logits, rtol=1e-5, atol=1e-5
    )
    warned.restart()
    out = adapt(model_of("deepseek_v3", **own_sizes), tmp_path, dropout=0.1)
    assert not out.base_model.targeted_parameter_names
    assert "mlp.shared_experts.down_proj.weight" in warned.given()[0].message
