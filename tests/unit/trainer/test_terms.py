"""Terms of the loss that a config asks for are trained with, refused, or said."""

import pytest
import torch

from kubetune.api.warnings import WarningReason
from kubetune_trainer import warned
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.loss import LossModel
from kubetune_trainer.model.making import create
from kubetune_trainer.model.terms import has_further_terms, tell_ignored
from tests.fixtures.families import tiny

ON = {"output_router_logits": True, "router_aux_loss_coef": 0.5}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("mixtral", ON), ("qwen3_moe", ON), ("gpt_oss", ON), ("bamba", {"z_loss_coefficient": 0.1})],
)
def test_the_loss_is_transformers_own(tokenizer, kind: str, fields: dict):
    torch.manual_seed(0)
    model = create(tiny(kind) | fields, tokenizer, 32).train()
    plain = create(tiny(kind), tokenizer, 32)
    assert has_further_terms(model)
    assert not has_further_terms(plain)
    tokens = torch.randint(3, 320, (2, 16))
    labels = tokens.roll(-1, 1)
    labels[:, -1] = -100
    ours = LossModel(model, "fp32", packed=False).train()
    (ours(tokens, torch.arange(16).expand(2, -1), labels) / 30).backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    torch.testing.assert_close(ours(tokens, None, labels) / 30, loss, rtol=1e-6, atol=1e-6)
    assert found.keys() == {n for n, p in model.named_parameters() if p.grad is not None}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
    if "output_router_logits" in fields:
        assert any("gate" in n or "router" in n for n in found)


def test_a_loss_that_an_architecture_does_not_have_is_refused(tokenizer):
    with pytest.raises(InvalidSpec, match="output_router_logits, but the loss of a deepseek_v3 model has no"):
        create(tiny("deepseek_v3") | {"output_router_logits": True}, tokenizer, 32)


def test_what_is_left_out_is_said(tokenizer):
    warned.restart()
    model = create(tiny("mixtral"), tokenizer, 32)
    create(tiny("deepseek_v3"), tokenizer, 32)
    create(tiny("llama"), tokenizer, 32)
    assert [w.reason for w in warned.given()] == [WarningReason.EXPERTS_NOT_BALANCED]
    assert model.config.output_router_logits is False
    warned.restart()
    tell_ignored(model, "of DPO")
    assert not warned.given()
    model.config.output_router_logits = True
    tell_ignored(model, "of DPO")
    assert [w.reason for w in warned.given()] == [WarningReason.LOSS_TERMS_IGNORED]
