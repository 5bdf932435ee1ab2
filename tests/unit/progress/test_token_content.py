"""What a token must claim before the API server is asked about it."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetune.progress.token_content import refuted

pytestmark = pytest.mark.unit

NOW = 1_800_000_000.0
CLAIMS: dict[str, Any] = {
    "aud": ["kubetune-progress"],
    "exp": NOW + 60,
    "kubernetes.io": {"namespace": "team", "pod": {"name": "p", "uid": "u"}},
}


def packed(claims: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")


def judged(token: str) -> int | None:
    found = refuted(token, "kubetune-progress", "team", NOW)
    return found[0] if found else None


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, None),
        ({"aud": "kubetune-progress"}, None),
        ({"aud": ["other", "kubetune-progress"]}, None),
        ({"exp": NOW - 60}, None),  # clocks differ; the API server knows
        ({"iss": "anybody", "more": [1]}, None),
        ({"aud": ["other"]}, 401),
        ({"aud": None}, 401),
        ({"aud": {"kubetune-progress": 1}}, 401),
        ({"exp": NOW - 3600}, 401),
        ({"exp": None}, 401),
        ({"exp": "never"}, 401),
        ({"kubernetes.io": None}, 403),
        ({"kubernetes.io": "team"}, 403),
        ({"kubernetes.io": {"namespace": "team"}}, 403),
        ({"kubernetes.io": {"namespace": "other", "pod": {"name": "p", "uid": "u"}}}, 403),
    ],
)
def test_claims(change: dict[str, Any], status: int | None):
    assert judged(f"e30.{packed(CLAIMS | change)}.c2ln") == status


@pytest.mark.parametrize(
    "token",
    [
        "", ".", "..", "x", f"e30.{packed(CLAIMS)}", f"e30.{packed(CLAIMS)}.", f"e30.{packed(CLAIMS)}.s.t",
        f"e30.{packed([CLAIMS])}.s", f"e30.{packed(CLAIMS)[:-3]}.s", f"e30.{packed('x')}.s",
        "e30.é.s", "e30.!.s",
        f"e30.{base64.urlsafe_b64encode(b'[' * 9000).decode()}.s",
    ],
)  # fmt: skip
def test_what_is_no_token_at_all(token: str):
    assert judged(token) == 401


@given(
    st.text()
    | st.builds(
        "{}.{}.{}".format,
        st.text(),
        st.binary().map(lambda b: base64.urlsafe_b64encode(b).decode()),
        st.text(),
    )
)
def test_nothing_breaks_it(token: str):
    assert judged(token) in (401, 403)
