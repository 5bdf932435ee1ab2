"""What an adapted layer computes, by hand."""

import math
from pathlib import Path

import pytest
import torch

from kubetune.api.finetunejob import Lora
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.methods import lora
from kubetune_trainer.model.heads import CAUSAL_LM
from tests.fixtures.runs import finetune_spec


def adapted(tiny, tmp_path: Path, variant: str):
    """A layer with random A and B, and these, and the weight."""
    wanted = Lora(rank=4, alpha=6, target_modules=["q_proj"], variant=variant)
    model = lora.apply(tiny, finetune_spec(tmp_path / "out", tmp_path, lora=wanted), CAUSAL_LM, [])
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.manual_seed(0)
    with torch.no_grad():
        a.normal_()
        b.normal_()
    return layer, layer.base_layer.weight, a, b


@pytest.mark.parametrize(("variant", "scale"), [("lora", 6 / 4), ("rslora", 6 / math.sqrt(4))])
def test_an_update_of_low_rank(tiny, tmp_path: Path, variant: str, scale: float):
    layer, weight, a, b = adapted(tiny, tmp_path, variant)
    x = torch.randn(3, weight.shape[1])
    expected = x @ weight.T + scale * (x @ a.T @ b.T)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def test_magnitude_and_direction(tiny, tmp_path: Path):
    """W' = m (W + s B A) / |W + s B A|, the norm of each output's row."""
    layer, weight, a, b = adapted(tiny, tmp_path, "dora")
    m = layer.lora_magnitude_vector["default"].weight
    torch.testing.assert_close(m, weight.norm(dim=1), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        m.mul_(torch.rand_like(m) + 0.5)
    assert m.dtype == torch.float32
    assert m.requires_grad
    changed = weight + 6 / 4 * b @ a
    x = torch.randn(3, weight.shape[1])
    expected = x @ (m[:, None] * changed / changed.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def test_layers_that_are_not_there_are_named(tiny, tmp_path: Path):
    wanted = Lora(rank=4, alpha=6, target_modules=["c_attn", "c_proj"])
    with pytest.raises(InvalidSpec) as found:
        lora.apply(tiny, finetune_spec(tmp_path / "out", tmp_path, lora=wanted), CAUSAL_LM, [])
    assert str(found.value) == (
        "lora.targetModules: the base model has no layer c_attn and no c_proj; the base has down_proj, "
        "embed_tokens, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj: name some of these"
    )


def test_what_learned_nothing_is_told_so(tiny, tmp_path: Path):
    model = lora.apply(tiny, finetune_spec(tmp_path / "out", tmp_path), CAUSAL_LM, [])
    with pytest.raises(
        InvalidSpec, match=r"every gradient was zero.*\(stages ppo and grpo\).*the same reward"
    ):
        lora.check_changed(model)
    next(p for n, p in model.named_parameters() if "lora_B" in n).data.fill_(1)
    lora.check_changed(model)
