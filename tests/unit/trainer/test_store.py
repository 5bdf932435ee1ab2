"""Tokens are kept as they are, in as few bytes as that takes."""

import numpy as np
import pytest

from kubetune_trainer.data.store import store_of
from kubetune_trainer.errors import InvalidSpec


def test_two_bytes_where_they_do():
    store = store_of([[1, 2], [3]], 65_536)
    assert store.tokens.dtype == np.uint16
    assert store.tokens.tolist() == [1, 2, 3]
    assert store_of([[1]], 65_537).tokens.dtype == np.uint32


def test_a_token_outside_the_vocabulary_is_kept_as_it_is():
    """The numbers of few tokens may have gaps; cut to 2 bytes, 65,540 would be 4."""
    store = store_of([np.array([1, 2], dtype=np.int32), np.array([65_540], dtype=np.int32)], 320)
    assert store.tokens.tolist() == [1, 2, 65_540]


@pytest.mark.parametrize("token", [-1, 2**32])
def test_what_is_no_token_is_refused(token: int):
    with pytest.raises(InvalidSpec, match=f"gives {token}, which is not a token id"):
        store_of([[1, token]], 320)


def test_an_empty_document():
    assert len(store_of([[], [1]], 320)) == 2
