import pytest

from kubetune_trainer.data.formats import (
    Completion,
    Conversation,
    Message,
    Text,
    content_hash,
    to_example,
)
from kubetune_trainer.data.read import Record
from kubetune_trainer.errors import DataError


def example(form: str, data: dict, field: str = "text"):
    return to_example(Record(data, "f.jsonl", 7), form, field)


def talk(*turns: tuple[str, str]) -> Conversation:
    return Conversation(tuple(Message(*t) for t in turns))


QA = talk(("user", "Q"), ("assistant", "A"))


@pytest.mark.parametrize(
    ("form", "data", "expected"),
    [
        ("alpaca", {"instruction": "Q", "output": "A"}, QA),
        ("alpaca", {"instruction": "Q", "input": "", "output": "A"}, QA),
        ("alpaca", {"instruction": "Q", "input": None, "output": "A"}, QA),
        ("alpaca", {"instruction": "Q", "input": "I", "output": ""},
         talk(("user", "Q\n\nI"), ("assistant", ""))),
        ("dolly", {"instruction": "Q", "context": "", "response": "A", "category": "open_qa"}, QA),
        ("dolly", {"instruction": "Q", "context": "C", "response": "A"},
         talk(("user", "Q\n\nC"), ("assistant", "A"))),
        ("flan", {"inputs": "Q", "targets": "A", "task": "x"}, QA),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, QA),
        ("sharegpt", {"system": "S", "conversations": [{"from": f, "value": v} for f, v in
                      [("user", "Q"), ("assistant", "A"), ("human", "unanswered")]]},
         talk(("system", "S"), ("user", "Q"), ("assistant", "A"))),
        ("prompt-completion", {"prompt": " P", "completion": "C "}, Completion(" P", "C ")),
        ("text", {"text": "T", "other": 1}, Text("T")),
        ("text", {"text": " \n"}, None),
        (
            "messages",
            {"messages": [{"role": r, "content": c, "id": 1} for r, c in
                          [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "unanswered")]]},
            talk(("system", "S"), ("user", "U"), ("assistant", "A")),
        ),
    ],
)  # fmt: skip
def test_shapes(form: str, data: dict, expected: object):
    assert example(form, data) == expected


@pytest.mark.parametrize(
    ("form", "data", "message"),
    [
        ("alpaca", {"output": "A"}, "'instruction' is missing"),
        ("alpaca", {"instruction": "Q"}, "'output' is missing"),
        ("alpaca", {"instruction": "Q", "output": 3}, "'output' is a int"),
        ("alpaca", {"instruction": "Q", "input": [], "output": "A"}, "'input' is a list"),
        ("dolly", {"instruction": "Q"}, "'response' is missing"),
        ("flan", {"inputs": "Q", "targets": ["A"]}, "'targets' is a list"),
        ("sharegpt", {"conversations": {}}, 'needs "conversations"'),
        ("sharegpt", {"conversations": [{"from": "human"}]}, "turn 1 must be an object"),
        ("sharegpt", {"conversations": [{"from": "tool", "value": "x"}]}, "turn 1 is from 'tool'"),
        ("sharegpt", {"conversations": [{"from": "human", "value": "x"}]}, "no message of the assistant"),
        ("prompt-completion", {"prompt": "P"}, "'completion' is missing"),
        ("text", {"content": "T"}, "'text' is missing"),
        ("messages", {"messages": []}, 'needs "messages"'),
        ("messages", {"messages": "hello"}, 'needs "messages"'),
        ("messages", {"messages": [{"role": "user"}]}, "message 1 must be an object"),
        (
            "messages",
            {"messages": [{"role": "tool", "content": "x"}]},
            "message 1 has role 'tool': use system",
        ),
        ("messages", {"messages": [{"role": "user", "content": "x"}]}, "no message of the assistant"),
    ],
)
def test_other_shapes_name_file_line_and_field(form: str, data: dict, message: str):
    with pytest.raises(DataError, match=f"f.jsonl, line 7: .*{message}"):
        example(form, data)


def test_the_text_field_is_chosen():
    assert example("text", {"body": "T"}, "body") == Text("T")


def test_equal_contents_have_equal_hashes():
    assert content_hash(Text("a")) == content_hash(Text("a")) != content_hash(Text("b"))
    assert content_hash(Completion("ab", "c")) != content_hash(Completion("a", "bc"))
    assert 0 <= content_hash(Text("a")) < 2**64
