"""Which releases are in one another's way."""

from collections.abc import Sequence

import pytest

from kubetune.controller.rivals import SCOPE_ANNOTATION, overlap, scope_of


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((), (), ["*"]),
        ((), ("b", "a"), ["a", "b"]),
        (("a",), (), ["a"]),
        (("a", "b", "c"), ("c", "b"), ["b", "c"]),
        (("a",), ("b",), []),
    ],
)
def test_where_two_scopes_overlap(one: Sequence[str], other: Sequence[str], expected: list[str]):
    assert overlap(one, other) == expected
    assert overlap(other, one) == expected


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [(None, ()), ({}, ()), ({SCOPE_ANNOTATION: "*"}, ()), ({SCOPE_ANNOTATION: "a,b"}, ("a", "b"))],
)
def test_what_a_lease_says(annotations: dict[str, str] | None, expected: tuple[str, ...]):
    assert scope_of({"metadata": {"annotations": annotations}}) == expected
