import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetune_trainer.rouge import longest_common, rouge_l

REFERENCE = "police killed the gunman"


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        # Lin 2004, section 3.1, with beta = 1.
        ("police kill the gunman", REFERENCE, 3 / 4),
        ("the gunman kill police", REFERENCE, 2 / 4),
        ("the gunman police killed", REFERENCE, 2 / 4),
        # The example of the rouge-score package: P = 5/8, R = 5/9.
        (
            "The quick brown dog jumps on the log.",
            "The quick brown fox jumps over the lazy dog",
            2 * (5 / 8) * (5 / 9) / (5 / 8 + 5 / 9),
        ),
        # Its tests of rougeL.
        ("testing", "testing one two", 1 / 2),
        ("one two", "one two", 1.0),
        ("a class. MAKE an instance", "A class! Make an instance.", 1.0),
        ("", "testing", 0.0),
        ("testing", "...", 0.0),
        ("snake_case", "snake case", 1.0),
        ("Größe 漢字", "größe 漢字 x", 4 / 5),
    ],
)
def test_scores(answer: str, reference: str, score: float):
    assert rouge_l(answer, reference) == pytest.approx(score, abs=1e-12)


def by_table(a: list[str], b: list[str]) -> int:
    """Lin's definition, word by word."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


words = st.lists(st.sampled_from("abcd"), max_size=80)


@given(words, words)
def test_the_longest_common_subsequence(a: list[str], b: list[str]):
    assert longest_common(a, b) == by_table(a, b) == longest_common(b, a)
    assert longest_common(a, a) == len(a)


@given(words, words)
def test_the_f_measure(a: list[str], b: list[str]):
    score = rouge_l(" ".join(a), " ".join(b))
    common = by_table(a, b)
    if common:
        precision, recall = common / len(a), common / len(b)
        assert score == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-12)
    else:
        assert score == 0
