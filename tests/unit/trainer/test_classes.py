import numpy as np
import pytest
import torch

from kubetune_trainer.classify import macro_f1
from kubetune_trainer.data.classes import balanced, label_map, tokenise
from kubetune_trainer.data.formats import Labelled
from kubetune_trainer.errors import DataError


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["b", "a", "b"], ["a", "b"]),
        (["10", "9", "0"], ["0", "9", "10"]),
        (["-1", "+1"], ["-1", "+1"]),
        (["10", "9", "x"], ["10", "9", "x"]),
    ],
)
def test_classes_have_an_order(labels: list[str], expected: list[str]):
    assert label_map(labels) == expected


def test_one_class_is_refused():
    with pytest.raises(DataError, match="nothing to tell apart"):
        label_map(["a", "a"])


def test_a_text_is_no_label():
    with pytest.raises(DataError, match="1,001 labels, and at most 1,000 classes are possible"):
        label_map([f"text {i}" for i in range(1001)])


def test_balanced_weights_give_each_class_the_same_sum():
    labels = np.array([0] * 6 + [1] * 2 + [3])
    weights = balanced(labels, 4)
    assert weights == [9 / 24, 9 / 8, 0.0, 9 / 4]
    sums = np.bincount(labels, weights=np.array(weights)[labels], minlength=4)
    assert sums.tolist() == [2.25, 2.25, 0, 2.25]


@pytest.mark.parametrize(
    ("said", "true", "f1"),
    [
        ([0, 1, 2], [0, 1, 2], 1.0),
        ([0, 0, 0, 0], [0, 0, 0, 1], (6 / 7 + 0) / 2),
        ([0, 1, 1, 2], [0, 1, 2, 2], (1 + 2 / 3 + 2 / 3) / 3),
        ([5, 5], [5, 5], 1.0),
    ],
)
def test_f1_by_hand(said: list[int], true: list[int], f1: float):
    assert macro_f1(torch.tensor(said), torch.tensor(true)) == pytest.approx(f1)


def test_long_texts_are_cut_and_counted(tokenizer):
    found, cut = tokenise([Labelled("the cat " * 30, None, "a"), Labelled("the", "cat", "b")], tokenizer, 16)
    assert cut == 1
    assert len(found[0][0]) == 16
