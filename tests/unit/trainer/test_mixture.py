from hypothesis import given
from hypothesis import strategies as st

from kubetune_trainer.data.mixture import Mixture

WEIGHTS = st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e3)), min_size=1, max_size=16).filter(any)


@given(WEIGHTS, st.integers(1, 400))
def test_shares_are_exact_all_along(weights: list[float], turns: int):
    mixture = Mixture(weights)
    total = sum(weights)
    for turn in range(1, turns + 1):
        mixture.next()
        for weight, count in zip(weights, mixture.counts, strict=True):
            assert abs(count - turn * weight / total) < 1 + 1e-6
    assert all(count == 0 for weight, count in zip(weights, mixture.counts, strict=True) if weight == 0)


@given(WEIGHTS, st.integers(0, 200), st.integers(1, 50))
def test_resumed_anywhere_it_goes_on_as_if_undisturbed(weights: list[float], before: int, after: int):
    mixture = Mixture(weights)
    for _ in range(before):
        mixture.next()
    resumed = Mixture(weights, list(mixture.counts))
    assert [mixture.next() for _ in range(after)] == [resumed.next() for _ in range(after)]
