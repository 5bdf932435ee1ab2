import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubetune_trainer.data.rows import Row, collate, row_of
from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.data.streams import (
    Epochs,
    EpochStream,
    MixtureStream,
    Pieces,
    PieceStream,
    Windows,
    rows_in,
)
from kubetune_trainer.errors import DataError
from tests.fixtures.runs import numbered

DOCUMENTS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def pieces(row: Row) -> list[slice]:
    starts = [*np.flatnonzero(row.positions == 0), len(row)]
    return [slice(a, b) for a, b in itertools.pairwise(starts)]


@given(DOCUMENTS, st.integers(1, 50), st.integers(0, 5))
def test_windows_lose_no_token_and_cross_no_document(lengths: list[int], length: int, seed: int):
    store = numbered(lengths)
    total = sum(lengths)
    windows = Windows(store, length, (seed, 0))
    rows = [windows.window(k) for k in range(-(-2 * total // length))]
    assert all(len(row) == length for row in rows)
    # Two passes: every token twice, each pass complete before the next begins.
    seen = np.concatenate([row.tokens for row in rows])[: 2 * total]
    for part in (seen[:total], seen[total:]):
        assert sorted(part) == sorted(store.tokens)
    document = np.repeat(np.arange(len(lengths)), lengths)
    ends = set(store.tokens[np.cumsum(lengths) - 1])
    for row in rows:
        for piece in pieces(row):
            tokens, labels = row.tokens[piece], row.labels[piece]
            assert len(set(document[tokens - 10])) == 1
            assert np.array_equal(np.diff(tokens), np.ones(len(tokens) - 1)), "in order"
            # Every token predicts its successor, also across the edge of a window, but not across documents.
            assert all(
                label == (IGNORED if token in ends else token + 1)
                for token, label in zip(tokens, labels, strict=True)
            )


def test_windows_are_computed_in_any_order():
    store = numbered([5, 30, 7, 11])
    one, other = Windows(store, 8, (3, 0)), Windows(store, 8, (3, 0))
    forward = [one.window(k).tokens.tolist() for k in range(20)]
    assert [other.window(k).tokens.tolist() for k in reversed(range(20))] == forward[::-1]
    assert forward[:6] != [Windows(store, 8, (4, 0)).window(k).tokens.tolist() for k in range(6)], (
        "the seed counts"
    )


@settings(max_examples=40)
@given(st.lists(DOCUMENTS, min_size=1, max_size=4), st.integers(0, 30), st.integers(0, 9), st.data())
def test_a_mixture_resumed_anywhere_goes_on_as_if_undisturbed(
    sources: list[list[int]], before: int, seed: int, data: st.DataObject
):
    weights = data.draw(st.lists(st.floats(0.1, 5), min_size=len(sources), max_size=len(sources)))
    stores = [numbered(lengths) for lengths in sources]
    undisturbed, resumed = (MixtureStream(stores, weights, 16, seed) for _ in range(2))
    undisturbed.next(before)
    resumed.restore(undisturbed.state())
    assert as_lists(undisturbed.next(7)) == as_lists(resumed.next(7))


def test_mixture_weights_are_shares_of_tokens():
    stores = [numbered([10] * 3, 10), numbered([500], 1000), numbered([7] * 40, 5000)]
    rows = MixtureStream(stores, [0.5, 0.3, 0.2], 20, 0).next(100)
    of = Counter(0 if r.tokens[0] < 1000 else 1 if r.tokens[0] < 5000 else 2 for r in rows)
    assert of == {0: 50, 1: 30, 2: 20}


def as_lists(rows: list[Row]) -> list[list[list[int]]]:
    return [[r.tokens.tolist(), r.labels.tolist(), r.positions.tolist()] for r in rows]


def epochs_of(lengths: list[list[int]], weights: list[float], capacity: int | None, seed: int = 0):
    store = numbered([n for part in lengths for n in part])
    source = np.repeat(np.arange(len(lengths)), [len(part) for part in lengths])
    return store, Epochs(store, source, weights, capacity, seed)


@settings(max_examples=50)
@given(
    st.lists(st.integers(2, 20), min_size=1, max_size=30), st.sampled_from([None, 20, 64]), st.integers(0, 3)
)
def test_an_epoch_has_every_example_once_and_whole(lengths: list[int], capacity: int | None, epoch: int):
    store, epochs = epochs_of([lengths], [1.0], capacity)
    rows = epochs.rows(epoch)
    assert sorted(e for row in rows for e in row) == list(range(len(lengths)))
    if capacity:
        assert all(sum(lengths[e] - 1 for e in row) <= capacity for row in rows)
    stream = EpochStream(store, epochs, rows_in(epochs, 1))
    taught = np.concatenate([row.labels for row in stream.next(1000)])
    assert sum(taught != IGNORED) == sum(lengths) - len(lengths), (
        "every token but the first is predicted once"
    )
    assert stream.next(1) == [], "an epoch has an end"


def test_epochs_differ_and_are_repeatable():
    _, epochs = epochs_of([list(range(2, 40))], [1.0], 64)
    assert epochs.rows(0) != epochs.rows(1)
    assert epochs.rows(1) == epochs.rows(1)
    _, other = epochs_of([list(range(2, 40))], [1.0], 64, seed=1)
    assert epochs.rows(0) != other.rows(0)


def test_weights_are_shares_of_records_per_epoch_and_take_turns():
    _, epochs = epochs_of([[5] * 10, [5] * 9, [5] * 8], [1.0, 0.4, 0.0], None)
    counts = Counter(e for n in range(5) for [e] in epochs.rows(n))
    assert [counts[e] for e in range(10)] == [5] * 10
    assert [counts[e] for e in range(10, 19)] == [2] * 9, "0.4 of 5 epochs is 2 passes: nobody is left out"
    assert all(e < 19 for e in counts)


@settings(max_examples=40)
@given(st.lists(st.integers(2, 20), min_size=1, max_size=25), st.integers(0, 60), st.sampled_from([None, 24]))
def test_epochs_resumed_anywhere_go_on_as_if_undisturbed(
    lengths: list[int], before: int, capacity: int | None
):
    store, epochs = epochs_of([lengths], [1.0], capacity)
    undisturbed, resumed = (EpochStream(store, epochs, None) for _ in range(2))
    undisturbed.next(before)
    resumed.restore(undisturbed.state())
    assert as_lists(undisturbed.next(9)) == as_lists(resumed.next(9))


def test_fractions_of_epochs():
    _, epochs = epochs_of([[5] * 10], [1.0], None)
    assert [rows_in(epochs, n) for n in (1, 2.5, 0.3)] == [10, 25, 3]


def test_padding_carries_positions_on():
    store = numbered([4, 3])
    long, short = row_of([store.piece(0, 0, 3), store.piece(1, 0, 2)]), row_of([store.piece(1, 0, 2)])
    batch = collate([long, short], pad=1)
    assert batch.tokens.tolist() == [[10, 11, 12, 14, 15], [14, 15, 1, 1, 1]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]]
    assert batch.labels.tolist() == [[11, 12, 13, 15, 16], [15, 16, -100, -100, -100]]


@given(DOCUMENTS.filter(lambda lengths: max(lengths) > 1), st.integers(1, 50), st.integers(0, 5))
def test_pieces_are_of_one_document_each_and_lose_no_token(lengths: list[int], length: int, seed: int):
    store = numbered(lengths)
    found = Pieces(store, length, (seed, 0))
    rows = [found.piece(k) for k in range(2 * len(found))]
    assert all(0 < len(row) <= length for row in rows)
    assert all(np.array_equal(row.labels, row.tokens + 1) for row in rows), "the next one is always learned"
    ends = set(store.tokens[np.cumsum(lengths) - 1])
    for part in (rows[: len(found)], rows[len(found) :]):
        seen = np.concatenate([row.tokens for row in part])
        assert len(seen) == found.tokens
        assert sorted(seen) == sorted(set(store.tokens) - ends), "each pass is complete"
    assert [found.piece(k).tokens.tolist() for k in reversed(range(len(rows)))] == [
        row.tokens.tolist() for row in reversed(rows)
    ]


def test_unpacked_sources_get_their_shares_of_the_tokens():
    stores = [numbered([41] * 30), numbered([5] * 50, start=5000)]
    stream = PieceStream(stores, [3.0, 1.0], 16, 0)
    rows = stream.next(400)
    short = sum(len(row) for row in rows if row.tokens[0] >= 5000)
    total = sum(map(len, rows))
    assert abs(short / total - 0.25) < 0.01
    assert abs(stream.mean_row - total / 400) < 0.1
    state = stream.state()
    after = [row.tokens.tolist() for row in stream.next(9)]
    again = PieceStream(stores, [3.0, 1.0], 16, 0)
    again.restore(state)
    assert [row.tokens.tolist() for row in again.next(9)] == after


def test_documents_of_one_token_are_nothing_to_learn_from():
    with pytest.raises(DataError, match="a source holds only documents of one token"):
        PieceStream([numbered([1, 1])], [1.0], 8, 0)
