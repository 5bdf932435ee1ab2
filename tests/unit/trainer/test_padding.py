"""Rows of several lengths in one batch are what each is alone; so are prompts that are answered together."""

import pytest
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from kubetune_trainer import warned
from kubetune_trainer.data.tokenizer_training import train
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.generate import continuations
from kubetune_trainer.model.generating import WAYS, way_of
from kubetune_trainer.model.heads import CAUSAL_LM, CLASSIFIER, MASKED_LM
from kubetune_trainer.model.making import create
from kubetune_trainer.model.probing import check_training, evaluating
from kubetune_trainer.padding import Padded
from tests.fixtures.families import tiny
from tests.fixtures.runs import TINY_LLAMA, sentences


@pytest.fixture(scope="module")
def masker() -> PreTrainedTokenizerBase:
    return train(iter(sentences(200)), 320, masked=True)


@pytest.mark.parametrize("head", [MASKED_LM, CLASSIFIER], ids=lambda head: head.task)
@pytest.mark.parametrize("kind", ["bert", "fnet", "funnel", "nystromformer", "yoso", "convbert"])
def test_no_neighbour_changes_a_row(masker: PreTrainedTokenizerBase, kind: str, head):
    torch.manual_seed(0)
    model = create(tiny(kind), masker, 32, head)
    padded = Padded(model, "fp32")
    assert [w.reason for w in warned.given()] == ([] if kind == "bert" else ["RowsByLength"])
    tokens, mask = torch.full((4, 14), masker.pad_token_id), torch.zeros(4, 14, dtype=torch.long)
    for row, length in enumerate((9, 14, 9, 5)):
        tokens[row, :length], mask[row, :length] = torch.randint(5, 300, (length,)), 1
    with evaluating(model):
        found = padded.outputs(tokens, mask)
        for row, length in enumerate((9, 14, 9, 5)):
            alone = model(input_ids=tokens[row, None, :length]).logits[0]
            together = found[row, :length] if head is MASKED_LM else found[row]
            torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_answers_at_positions_beyond_a_row_are_none(masker: PreTrainedTokenizerBase):
    """Perceiver answers at every position that it has."""
    model = create(tiny("perceiver"), masker, 32, MASKED_LM)
    tokens = torch.randint(5, 300, (2, 14))
    assert Padded(model, "fp32").outputs(tokens, torch.ones_like(tokens)).shape == (2, 14, len(masker))


@pytest.mark.parametrize("kind", ["granitemoehybrid", "xlstm"])
def test_models_that_make_no_cache_in_training_are_taken(tokenizer, kind: str):
    check_training(create(tiny(kind, decoder=True), tokenizer, 32), 32, CAUSAL_LM)


def test_rows_of_some_lengths_only_are_refused(tokenizer):
    with pytest.raises(InvalidSpec, match="a reformer model cannot be trained on rows of any length"):
        check_training(create(tiny("reformer", decoder=True), tokenizer, 32), 32, CAUSAL_LM)
    model = create(TINY_LLAMA | {"attention_dropout": 0.5}, tokenizer, 32).eval()
    before = torch.random.get_rng_state()
    check_training(model, 32, CAUSAL_LM)
    assert not model.training
    assert torch.equal(torch.random.get_rng_state(), before), "what is drawn later stays the same"


def test_rwkv_leaves_its_weights_alone(tokenizer):
    torch.manual_seed(0)
    model = create(tiny("rwkv") | {"rescale_every": 1}, tokenizer, 32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with evaluating(model):
        model(input_ids=torch.tensor([[3, 4, 5]]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.rescale_every == 1, "whoever loads it in float16 needs it"


@pytest.mark.parametrize(
    ("kind", "way"), [("llama", 0), ("mamba", 0), ("bart", 1), ("deepseek_v4", 1), ("rwkv", 2)]
)
def test_prompts_are_answered_as_each_alone(tokenizer, kind: str, way: int):
    torch.manual_seed(0)
    model = create(tiny(kind, decoder=True), tokenizer, 32)
    warned.restart()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)  # sure of what it says
    assert way_of(model, tokenizer.pad_token_id) is WAYS[way]
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15, 16], [7, 7, 8]]
    wanted = GenerationConfig(max_new_tokens=6, do_sample=False)
    together = continuations(model, tokenizer, prompts, wanted, None)
    for prompt, said in zip(prompts, together, strict=True):
        row = list(prompt)
        while len(row) < len(prompt) + len(said):
            with evaluating(model):
                row.append(int(model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
        assert row[len(prompt) :] == said
    assert not warned.given()


def test_answers_that_are_not_those_of_training_are_told(tokenizer):
    """transformers counts RoBERTa's positions from 0 when it generates, else from the padding's number."""
    way_of(create(tiny("camembert", decoder=True), tokenizer, 32), tokenizer.pad_token_id)
    assert [w.reason for w in warned.given()] == ["AnswersDiffer"]
