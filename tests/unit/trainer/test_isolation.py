"""Documents packed into one row do not see each other."""

import pytest
import torch

from kubetune_trainer import runtime
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.model import attention, probing
from kubetune_trainer.model.making import create
from kubetune_trainer.model.probing import check_causal, check_isolation, isolates
from tests.fixtures.families import tiny
from tests.fixtures.runs import TINY_BERT, TINY_LLAMA

GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
MAMBA = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}


@pytest.mark.parametrize("implementation", ["sdpa", "eager", attention.NAME])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("config", [TINY_LLAMA, GPT2], ids=lambda c: c["model_type"])
def test_a_documents_logits_are_those_it_has_alone(tokenizer, config: dict, implementation: str, precision):
    torch.manual_seed(0)
    model = create(config, tokenizer, 32).eval()
    if implementation == attention.NAME:
        attention.choose(model, 32)
    else:
        model.set_attn_implementation(implementation)
    tokens = torch.randint(3, 320, (1, 20))
    positions = torch.cat([torch.arange(7), torch.arange(9), torch.arange(4)])[None]
    with torch.no_grad(), runtime.autocast(model.device, precision):
        packed = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
        for part in (slice(0, 7), slice(7, 16), slice(16, 20)):
            alone = model(input_ids=tokens[:, part], position_ids=positions[:, part], use_cache=False).logits
            tolerance = 1e-5 if precision == "fp32" else 3e-2
            torch.testing.assert_close(packed[:, part], alone, atol=tolerance, rtol=tolerance)
        tokens[:, :7] = 5
        changed = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
    assert torch.equal(changed[:, 7:], packed[:, 7:]), "not a bit of a neighbour shows"
    assert not torch.equal(changed[:, :7], packed[:, :7])
    check_isolation(model, precision)


def test_a_model_that_cannot_isolate_is_refused(tokenizer):
    model = create(MAMBA, tokenizer, 32)
    with pytest.raises(
        InvalidSpec, match=r"would see each other in a mamba model: set data\.packing to false"
    ):
        check_isolation(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "olmoe", "deepseek_v3"])
def test_mixtures_of_experts_are_not_taken_for_leaking(tokenizer, kind: str, dtype: torch.dtype):
    """They sum in another order once another token is in the row."""
    torch.manual_seed(0)
    model = create(tiny(kind), tokenizer, 32).to(dtype)
    before = [p.data_ptr() for p in model.parameters()]
    check_causal(model)
    check_isolation(model)
    assert [p.data_ptr() for p in model.parameters()] == before
    assert {p.dtype for p in model.parameters()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["opt", "bloom", "lfm2_moe", "marian"])
def test_the_smallest_leaks_are_seen(tokenizer, kind: str, dtype: torch.dtype):
    torch.manual_seed(0)
    model = create(tiny(kind), tokenizer, 32).to(dtype)
    check_causal(model)
    assert not isolates(model)


@pytest.mark.parametrize("large", [True, False])
def test_encoders_look_ahead(tokenizer, monkeypatch: pytest.MonkeyPatch, large: bool):
    monkeypatch.setattr(probing, "LARGEST_WIDENED", 0 if large else 1 << 28)
    torch.manual_seed(0)
    model = create(TINY_BERT, tokenizer, 32)
    with pytest.raises(InvalidSpec, match="each token of this bert model sees later ones"):
        check_causal(model, "bf16")
    llama = create(TINY_LLAMA, tokenizer, 32)
    check_causal(llama, "bf16")
    check_isolation(llama, "bf16")


def test_a_model_that_minds_the_padding_is_refused(tokenizer):
    torch.manual_seed(0)
    with pytest.raises(InvalidSpec, match="depends on how many tokens follow"):
        check_causal(create(tiny("prophetnet"), tokenizer, 32))
