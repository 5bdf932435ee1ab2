import pytest
import torch
from torch.nn import functional

from kubetune_trainer import loss
from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.loss import LinearCrossEntropy, LossModel
from kubetune_trainer.model import attention
from kubetune_trainer.model.making import create
from tests.fixtures.families import tiny
from tests.fixtures.runs import TINY_LLAMA


def batch(vocabulary: int = 320) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Packed rows with some positions that are not trained on."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, vocabulary, (3, 24), generator=generator)
    positions = torch.cat([torch.arange(10), torch.arange(14)]).expand(3, -1).contiguous()
    labels = torch.full_like(tokens, IGNORED)
    labels[:, :-1] = tokens[:, 1:]
    labels[:, 9] = IGNORED
    labels[0, :5] = IGNORED
    return tokens, positions, labels


def reference(model, tokens, positions, labels) -> torch.Tensor:
    """transformers' own loss, whose labels are not shifted yet."""
    unshifted = torch.full_like(labels, IGNORED)
    unshifted[:, 1:] = labels[:, :-1]
    return model(input_ids=tokens, position_ids=positions, labels=unshifted, use_cache=False).loss


def gradients(model, value: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    value.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk", [1 << 20, 320 * 7])
@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_equal_those_of_transformers(tokenizer, monkeypatch, chunk: int, tied: bool):
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", {"cpu": chunk})
    torch.manual_seed(0)
    model = create(TINY_LLAMA | {"tie_word_embeddings": tied}, tokenizer, 32)
    ours = LossModel(model, "fp32")
    assert ours._plain_head
    tokens, positions, labels = batch()
    theirs = reference(model, tokens, positions, labels)
    expected = gradients(model, theirs)
    mine = ours(tokens, positions, labels) / (labels != IGNORED).sum()
    assert abs(mine.item() - theirs.item()) < 1e-5
    for name, gradient in gradients(model, mine).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        TINY_LLAMA | {"model_type": "gemma2", "head_dim": 16},  # soft-capped logits
        TINY_LLAMA | {"model_type": "granite", "logits_scaling": 4.0},
    ],
    ids=lambda c: c["model_type"],
)  # fmt: skip
def test_heads_that_are_more_than_a_matrix(tokenizer, config: dict):
    torch.manual_seed(0)
    model = create(config, tokenizer, 32)
    ours = LossModel(model, "fp32")
    assert not ours._plain_head
    tokens, positions, labels = batch()
    mine = ours(tokens, positions, labels) / (labels != IGNORED).sum()
    assert abs(mine.item() - reference(model, tokens, positions, labels).item()) < 1e-5
    assert ours.score(tokens, positions, labels)[0].item() == pytest.approx(
        mine.item() * (labels != IGNORED).sum()
    )


def test_a_model_that_does_not_show_its_head(tiny, monkeypatch: pytest.MonkeyPatch):
    tokens, positions, labels = batch()
    expected = LossModel(tiny, "fp32").score(tokens, positions, labels)
    monkeypatch.setattr(tiny, "get_output_embeddings", lambda: None)
    hidden = LossModel(tiny, "fp32")
    assert not hidden._plain_head
    for mine, theirs in zip(hidden.score(tokens, positions, labels), expected, strict=True):
        assert mine.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_bf16_is_near_and_its_attention_too(tiny):
    tokens, positions, labels = batch()
    with torch.autocast("cpu", torch.bfloat16):
        theirs = reference(tiny, tokens, positions, labels)
    expected = gradients(tiny, theirs)
    attention.choose(tiny, 32)
    assert tiny.config._attn_implementation == attention.NAME
    mine = LossModel(tiny, "bf16")(tokens, positions, labels) / (labels != IGNORED).sum()
    assert abs(mine.item() - theirs.item()) < 2e-3
    for name, gradient in gradients(tiny, mine).items():
        assert (gradient - expected[name]).norm() < 0.05 * expected[name].norm(), name


def test_a_bias_of_the_head_is_trained():
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(*s, requires_grad=True) for s in [(9, 4), (11, 4), (11,)])
    targets = torch.randint(11, (9,))
    mine = LinearCrossEntropy.apply(hidden, weight, bias, targets)
    mine.backward()
    found = [t.grad.clone() for t in (hidden, weight, bias)]
    for t in (hidden, weight, bias):
        t.grad = None
    theirs = functional.cross_entropy(functional.linear(hidden, weight, bias), targets, reduction="sum")
    theirs.backward()
    torch.testing.assert_close(mine, theirs)
    for gradient, t in zip(found, (hidden, weight, bias), strict=True):
        torch.testing.assert_close(gradient, t.grad)


def test_nothing_to_train_on_costs_nothing(tiny):
    tokens, positions, labels = batch()
    model = LossModel(tiny, "fp32")
    value = model(tokens, positions, torch.full_like(labels, IGNORED))
    value.backward()
    assert value.item() == 0
    assert all(not p.grad.any() for p in tiny.parameters() if p.grad is not None)


def test_scores_count_what_ranks_first(tiny):
    tokens, positions, labels = batch()
    logits = tiny(input_ids=tokens, position_ids=positions, use_cache=False).logits
    nll, hits = LossModel(tiny, "fp32").score(tokens, positions, labels)
    chosen = labels != IGNORED
    assert hits.item() == (logits.argmax(-1)[chosen] == labels[chosen]).sum().item()
    expected = functional.cross_entropy(logits[chosen], labels[chosen], reduction="sum")
    assert nll.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_head_behind_layers_that_narrow(tokenizer):
    """Electra's causal model has a projection between its states and its head."""
    torch.manual_seed(0)
    model = create(tiny("electra", decoder=True), tokenizer, 32).eval()
    tokens = torch.randint(3, 320, (1, 8))
    labels = torch.cat([tokens[:, 1:], torch.full((1, 1), IGNORED)], 1)
    ours = LossModel(model, "fp32", packed=False).eval()(tokens, torch.arange(8)[None], labels) / 7
    torch.testing.assert_close(ours, model(input_ids=tokens, labels=tokens).loss)
