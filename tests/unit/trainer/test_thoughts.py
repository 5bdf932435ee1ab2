"""What of an answer is meant for whoever asked."""

import copy

import pytest
from tokenizers import AddedToken

from kubetune_trainer.data.thoughts import Thoughts, answer_in
from kubetune_trainer.lmeval.harness_model import harness_model
from kubetune_trainer.signals import Stop


def base(tokenizer, *, added: bool, special: bool = False, pair: tuple[str, str] = ("<think>", "</think>")):
    other = copy.deepcopy(tokenizer)
    other.chat_template = "".join(pair)
    if added:
        other.add_tokens([AddedToken(mark, special=special) for mark in pair])
    return other


@pytest.mark.parametrize(
    ("prompt", "said", "answer"),
    [
        ("Q", "<think>the cat</think>\n\na dog", "a dog"),
        ("Q<think>\n", "the cat</think>a dog", "a dog"),
        ("Q", "<think>the cat", None),
        ("Q<think>\n", "the cat sat", None),
        ("Q<think></think>", "a dog", "a dog"),
        ("what is <think>? A:", "a dog", "a dog"),
        ("Q", "a dog", "a dog"),
        ("Q", "<think>one</think>two<think>three</think>four", "four"),
        ("Q", "<think>the cat</think>", ""),
        ("Q", "<think>the cat</think>a dog<|endoftext|>", "a dog"),
    ],
)
@pytest.mark.parametrize("kind", ["text", "token", "special token"])
def test_the_answer_comes_after_the_thought(tokenizer, kind: str, prompt: str, said: str, answer: str | None):
    other = base(tokenizer, added=kind != "text", special=kind == "special token")
    ids = [other(text, add_special_tokens=False)["input_ids"] for text in (prompt, said)]
    assert Thoughts(other).answer(*ids) == answer


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("[THINK]", "[/THINK]"), "[THINK]the cat[/THINK]a dog"),
        (("<|START_THINKING|>", "<|END_THINKING|>"), "<|START_THINKING|>the cat<|END_THINKING|>a dog"),
        (
            ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
            "<|channel|>analysis<|message|>the cat<|end|><|start|>assistant<|channel|>final<|message|>a dog",
        ),
    ],
)
def test_thoughts_of_other_models(tokenizer, pair: tuple[str, str], said: str):
    other = base(tokenizer, added=False, pair=pair)
    assert Thoughts(other).answer([], other(said)["input_ids"]) == "a dog"


def test_a_base_that_knows_no_thoughts_says_what_it_says(tokenizer):
    text = "<think>the cat"
    assert Thoughts(tokenizer).answer([], tokenizer(text)["input_ids"]) == text


def test_the_right_answer_of_a_record():
    assert answer_in("<think>\nthe cat\n</think>\n\n a dog ") == "a dog"
    assert answer_in("a dog") == "a dog"


@pytest.mark.parametrize("kind", ["none", "text", "token", "special token"])
def test_lm_eval_is_told_what_ends_a_thought(tiny, tokenizer, kind: str):
    other = tokenizer if kind == "none" else base(tokenizer, added=kind != "text", special="special" in kind)
    expected = {"none": None, "text": "</think>"}.get(kind, other.convert_tokens_to_ids("</think>"))
    assert harness_model(tiny, other, Stop()).think_end_token == expected
