"""Documents packed into one row do not see each other."""

import pytest
import torch

from kubetune_trainer import runtime
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.model import attention
from kubetune_trainer.model.making import create
from kubetune_trainer.model.probing import check_isolation
from tests.fixtures.runs import TINY_LLAMA

GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
MAMBA = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}


@pytest.mark.parametrize("implementation", ["sdpa", "eager", attention.NAME])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("config", [TINY_LLAMA, GPT2], ids=lambda c: c["model_type"])
def test_a_documents_logits_are_those_it_has_alone(tokenizer, config: dict, implementation: str, precision):
    torch.manual_seed(0)
    model = create(config, tokenizer, 32).eval()
    if implementation == attention.NAME:
        attention.use_where_faster(model, 32)
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
    with runtime.autocast(model.device, precision):
        check_isolation(model)


def test_a_model_that_cannot_isolate_is_refused(tokenizer):
    model = create(MAMBA, tokenizer, 32)
    with pytest.raises(
        InvalidSpec, match=r"would see each other in a mamba model: set data\.packing to false"
    ):
        check_isolation(model)
