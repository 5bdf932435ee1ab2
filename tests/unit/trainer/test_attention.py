"""An implementation of attention is taken only where it does what the config asks for."""

import pytest
import torch

from kubetune.api.warnings import WarningReason
from kubetune_trainer import warned
from kubetune_trainer.model import attention
from kubetune_trainer.model.making import create
from tests.fixtures.families import tiny


def made(kind: str, tokenizer, **fields):
    torch.manual_seed(0)
    model = create(tiny(kind) | fields, tokenizer, 48).eval()
    for parameter in model.parameters():  # large enough that what attention does shows
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def logits(model) -> torch.Tensor:
    tokens = torch.randint(3, 320, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


@pytest.mark.parametrize("kind", ["gemma2", "vaultgemma"])
def test_a_cap_on_the_scores_is_honoured_and_said(tokenizer, kind: str):
    warned.restart()
    model = made(kind, tokenizer, attn_logit_softcapping=2.0)
    model.set_attn_implementation("eager")
    right = logits(model)
    model.set_attn_implementation("sdpa")
    assert (logits(model) - right).abs().max() > 0.1, "torch's kernels ignore it"
    assert attention.choose(model, 48) == "eager"
    torch.testing.assert_close(logits(model), right)
    assert [w.reason for w in warned.given()] == [WarningReason.SLOWER_ATTENTION]


@pytest.mark.parametrize("kind", ["deepseek_v32", "glm_moe_dsa"])
def test_chosen_keys_are_honoured(tokenizer, kind: str):
    model = made(kind, tokenizer)
    right = logits(model)
    assert attention.choose(model, 48) == "sdpa"
    assert model.config._attn_implementation == "sdpa", "the one for short rows knows no chosen keys"
    torch.testing.assert_close(logits(model), right)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "qwen2", "inkling_text", "modernbert-decoder"])
def test_the_one_for_short_rows_gives_the_same(tokenizer, kind: str):
    warned.restart()
    model = made(kind, tokenizer)
    before = logits(model)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = logits(model).float()
    assert attention.choose(model, 48) == "sdpa"
    assert model.config._attn_implementation == attention.NAME
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert (logits(model).float() - narrow).norm() / narrow.norm() < 0.05
    assert not [w for w in warned.given() if w.reason == WarningReason.SLOWER_ATTENTION]
