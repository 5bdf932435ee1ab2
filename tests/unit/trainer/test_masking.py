import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetune_trainer.data.masking import MaskedStream, Masker
from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.data.streams import MixtureStream
from kubetune_trainer.data.tokenizer_training import train
from tests.fixtures.runs import numbered, sentences


@pytest.fixture(scope="module")
def masked():
    return train(iter(sentences(200)), 320, masked=True)


def test_shares(masked):
    """15% are chosen; of these 80% hidden, 10% replaced, 10% left."""
    masker = Masker(masked, 0.15, 0)
    piece = np.arange(4, 304)
    rows = [masker.row(piece, None, n) for n in range(200)]
    assert {r.targets for r in rows} == {45}
    chosen = np.concatenate([r.labels != IGNORED for r in rows])
    tokens = np.concatenate([r.tokens for r in rows])[chosen]
    labels = np.concatenate([r.labels for r in rows])[chosen]
    assert np.mean(tokens == masked.mask_token_id) == pytest.approx(0.8, abs=0.02)
    assert np.mean(tokens == labels) == pytest.approx(0.1, abs=0.02)
    replaced = tokens[(tokens != masked.mask_token_id) & (tokens != labels)]
    assert replaced.min() > 3, "never by a special token"
    counts = np.sum([r.labels != IGNORED for r in rows], axis=0)
    assert counts[0] == counts[-1] == 0, "[CLS] and [SEP] are never hidden"
    assert counts[1:-1].min() > 0, "any token may be"


@given(st.lists(st.integers(4, 300), max_size=40), st.integers(0, 9), st.floats(0.01, 0.5))
def test_whole_words(masked, piece: list[int], key: int, probability: float):
    inner = np.array([0, *(t % 2 for t in piece[1:])][: len(piece)], dtype=np.int64)
    row = Masker(masked, probability, 1).row(np.array(piece, dtype=np.int64), inner, key)
    chosen = row.labels[1:-1] != IGNORED
    for i in range(1, len(piece)):
        assert not inner[i] or chosen[i] == chosen[i - 1], "a word is chosen as a whole"
    assert row.targets >= min(1, len(piece))
    assert np.array_equal(np.where(chosen, row.labels[1:-1], row.tokens[1:-1]), piece)


def test_separators_inside_are_never_hidden(masked):
    piece = np.array([10, 2, 11, 2, 2, 12])
    for n in range(30):
        row = Masker(masked, 0.5, 0).row(piece, None, n)
        assert not np.isin(row.labels, [0, 1, 2, 3]).any()
    assert Masker(masked, 0.5, 0).row(np.array([2, 2]), None, 0).targets == 0


def test_a_resumed_stream_hides_the_same_and_each_pass_something_else(masked):
    def stream() -> MaskedStream:
        tokens = MixtureStream([numbered([30, 7, 12]), numbered([20], start=200)], [2.0, 1.0], 14, 0)
        return MaskedStream(tokens, None, Masker(masked, 0.15, 0))

    first, second = stream(), stream()
    rows = [r for _ in range(6) for r in first.next(5)]
    second.next(5)
    third = stream()
    third.restore(second.state())
    again = [r for _ in range(5) for r in third.next(5)]
    assert all(
        np.array_equal(a.tokens, b.tokens) and np.array_equal(a.labels, b.labels)
        for a, b in zip(rows[5:], again, strict=True)
    )
    assert len({r.tokens.tobytes() for r in rows}) > 20
