import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kubetune_trainer.data.holdout import held_out

HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=50).map(lambda h: np.array(h, dtype=np.uint64))
FRACTIONS = st.floats(0, 1, exclude_max=True)


@given(HASHES, FRACTIONS)
def test_equal_hashes_stand_on_one_side(hashes: np.ndarray, fraction: float):
    mask = held_out(hashes, fraction)
    assert not set(hashes[mask]) & set(hashes[~mask])


@given(HASHES, FRACTIONS, HASHES)
def test_more_data_moves_nothing_once_something_is_held_out(
    hashes: np.ndarray, fraction: float, more: np.ndarray
):
    before = held_out(hashes, fraction)
    limit = np.uint64(min(int(fraction * 2**64), 2**64 - 1))
    if np.any(hashes <= limit):
        assert np.array_equal(held_out(np.concatenate([hashes, more]), fraction)[: len(hashes)], before)


@given(HASHES, st.floats(1e-9, 0.999))
def test_something_is_held_out_if_there_are_two(hashes: np.ndarray, fraction: float):
    mask = held_out(hashes, fraction)
    assert mask.any() or len(set(hashes)) < 2


def test_shares_and_extremes():
    hashes = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64)
    assert abs(held_out(hashes, 0.1).mean() - 0.1) < 0.01
    assert not held_out(hashes, 0).any()
    assert not held_out(np.array([], dtype=np.uint64), 0.5).any()
