import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetune_trainer.data.packing import best_fit


@given(st.integers(1, 64).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), max_size=80))))
def test_every_item_once_and_no_bin_overfull(case: tuple[int, list[int]]):
    capacity, lengths = case
    bins = best_fit(lengths, capacity)
    assert sorted(i for b in bins for i in b) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in b) <= capacity for b in bins)
    # Two bins that would fit into one are never left: best fit would have joined them.
    totals = sorted(sum(lengths[i] for i in b) for b in bins)
    assert len(totals) < 2 or totals[0] + totals[1] > capacity
    assert bins == best_fit(lengths, capacity)


def test_the_fullest_bin_that_fits_is_chosen():
    assert best_fit([6, 7, 3, 4], 10) == [[1, 2], [0, 3]]


@pytest.mark.parametrize("size", [0, 11])
def test_items_that_do_not_fit(size: int):
    with pytest.raises(ValueError, match="does not fit"):
        best_fit([size], 10)
