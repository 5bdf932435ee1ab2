import pytest

from kubetune_trainer.schedule import factor


@pytest.mark.parametrize(
    ("shape", "step", "expected"),
    [
        ("cosine", 0, 0.1), ("cosine", 9, 1.0), ("cosine", 10, 1.0), ("cosine", 60, 0.5),
        ("cosine", 109, 0.000247),
        ("linear", 4, 0.5), ("linear", 10, 1.0), ("linear", 35, 0.75), ("linear", 109, 0.01),
        ("constant", 0, 0.1), ("constant", 10, 1.0), ("constant", 109, 1.0),
    ],
)  # fmt: skip
def test_factors(shape, step: int, expected: float):
    assert factor(step, 110, 10, shape) == pytest.approx(expected, rel=1e-2)


def test_without_warmup_the_first_step_is_the_peak():
    assert factor(0, 10, 0, "cosine") == 1


def test_a_run_that_is_all_warmup():
    assert [factor(s, 4, 8, "linear") for s in range(4)] == [0.125, 0.25, 0.375, 0.5]
