"""Streams are rewritten event by event, however they are cut."""

import json

import pytest

from kubetune.gateway.sse import EventRewriter

STREAM = (
    b'data: {"model":"a-1","choices":[{"text":"x\\u00e4"}]}\n\n'
    b": comment\n\n"
    b'event: x\ndata: {"model":"other","choices":[]}\n\n'
    b"data: [DONE]\n\n"
)


def rename(event: dict) -> None:
    if event.get("model") == "a-1":
        event["model"] = "a"


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
def test_any_cut_gives_the_same_events(size: int):
    events = EventRewriter(rename)
    pieces = [events.feed(STREAM[i : i + size]) for i in range(0, len(STREAM), size)]
    out = b"".join(pieces) + events.flush()
    blocks = out.split(b"\n\n")
    assert json.loads(blocks[0][6:]) == {"model": "a", "choices": [{"text": "xä"}]}
    assert blocks[1] == b": comment"
    assert blocks[2].splitlines()[0] == b"event: x"
    assert json.loads(blocks[2].splitlines()[1][6:])["model"] == "other"
    assert blocks[3:] == [b"data: [DONE]", b""]


def test_an_event_leaves_as_soon_as_it_is_whole():
    events = EventRewriter(rename)
    assert events.feed(b'data: {"model":') == b""
    assert events.feed(b'"a-1"}\n\ndata: ') == b'data: {"model":"a"}\n\n'


def test_a_stream_that_ends_early_loses_nothing():
    events = EventRewriter(rename)
    assert events.feed(b'data: {"model":"a-1"}') == b""
    assert b'"model":"a"' in events.flush()
    assert events.flush() == b""
