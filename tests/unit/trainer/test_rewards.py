"""Rules that reward answers."""

import pytest

from kubetune.api.reinforcement import RewardFunction
from kubetune_trainer.data.formats import Prompt
from kubetune_trainer.rewards import Said
from kubetune_trainer.rewards.functions import FUNCTIONS, judge_of, lacks


@pytest.mark.parametrize(
    ("name", "said", "right", "reward"),
    [
        ("exact-match", " 42\n", "42", 1),
        ("exact-match", "it is 42", "42", 0),
        ("contains", "it is 42.", "42", 1),
        ("contains", "it is 4", "42", 0),
        ("number", "2 and 40 make 42.", "#### 42", 1),
        ("number", "1,042.50 in all", "1042.5", 1),
        ("number", "-3", "3", 0),
        ("number", "none", "3", 0),
        ("number", "none", "nothing", 0),
        ("json", '{"a": [1, 2]}', "", 1),
        ("json", "{'a': 1}", "", 0),
        ("json", "[" * 100_000, "", 0),
    ],
)
def test_functions(name, said, right, reward):
    assert FUNCTIONS[name](said, right) == reward


def test_the_sum_is_weighted():
    judge = judge_of(
        [RewardFunction(name="exact-match", weight=2), RewardFunction(name="contains", weight=0.5)]
    )
    prompts = [Prompt("?", "yes")] * 3
    said = [Said(text, text) for text in ("yes", "yes, sure", "no")]
    assert judge(prompts, said) == [2.5, 0.5, 0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_comes_after_the_thought_is_judged(name: str):
    judge = judge_of([RewardFunction(name=name)])
    prompts = [Prompt("?", "42")] * 2
    assert judge(prompts, [Said("<think>7</think>42", "42"), Said("<think>42", None)]) == [1, 0]


@pytest.mark.parametrize(
    ("name", "right", "problem"),
    [
        ("contains", " ", "is empty: every answer contains it"),
        ("contains", "cat", None),
        ("number", "none at all", "holds no number"),
        ("number", "it is 1,204.5", None),
        ("exact-match", "", None),
    ],
)
def test_an_answer_that_makes_every_answer_worth_the_same(name: str, right: str, problem: str | None):
    assert lacks(name, right) == problem
