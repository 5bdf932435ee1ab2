"""Answers are rewritten, streams event by event, however they are cut."""

import json

import pytest

from kubetune.gateway.rename import Renamer

STREAM = (
    b'data: {"model":"a-1","choices":[{"text":"x\\u00e4"}]}\n\n'
    b": comment\n\n"
    b'event: x\ndata: {"model":"other","choices":[]}\n\n'
    b"data: [DONE]\n\n"
)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
def test_any_cut_gives_the_same_events(size: int):
    events = Renamer("a-1", "a")
    pieces = [events.feed(STREAM[i : i + size]) for i in range(0, len(STREAM), size)]
    out = b"".join(pieces) + events.flush()
    blocks = out.split(b"\n\n")
    assert json.loads(blocks[0][6:]) == {"model": "a", "choices": [{"text": "xä"}]}
    assert blocks[1] == b": comment"
    assert blocks[2].splitlines()[0] == b"event: x"
    assert json.loads(blocks[2].splitlines()[1][6:])["model"] == "other"
    assert blocks[3:] == [b"data: [DONE]", b""]


def test_an_event_leaves_as_soon_as_it_is_whole():
    events = Renamer("a-1", "a")
    assert events.feed(b'data: {"model":') == b""
    assert events.feed(b'"a-1"}\n\ndata: ') == b'data: {"model":"a"}\n\n'


def test_a_stream_that_ends_early_loses_nothing():
    events = Renamer("a-1", "a")
    assert events.feed(b'data: {"model":"a-1"}') == b""
    assert events.flush() == b'data: {"model":"a"}'
    assert events.flush() == b""


def test_what_a_model_says_stays_as_it_is():
    """The engine's name in an answer's text is text."""
    said = {"model": "a-1", "choices": [{"text": '"model":"a-1" a-1'}]}
    for separators in ((",", ":"), (", ", ": ")):
        text = json.dumps(said, separators=separators).encode()
        assert json.loads(Renamer("a-1", "a").whole(text)) == said | {"model": "a"}
        events = Renamer("a-1", "a").feed(b"data: " + text + b"\n\n")
        assert events.endswith(b"\n\n")
        assert json.loads(events[6:]) == said | {"model": "a"}


def test_the_base_is_passed_through_as_it_comes():
    piece = b'data: {"model":"base","choic'
    assert Renamer("base", "base").feed(piece) == piece


def test_errors_name_the_alias():
    error = json.dumps({"error": {"message": "no a-1 here, a-1", "code": 404}}).encode()
    assert json.loads(Renamer("a-1", "a").whole(error))["error"]["message"] == "no a here, a"
    assert Renamer("a-1", "a").whole(b"a-1 is no JSON") == b"a-1 is no JSON"
