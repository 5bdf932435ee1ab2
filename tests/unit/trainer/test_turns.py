import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from kubetune_trainer.data.formats import Conversation, Message, content_hash, to_example
from kubetune_trainer.data.read import Record, read_records
from kubetune_trainer.errors import DataError
from tests.fixtures.runs import source

Q = {"role": "user", "content": "Q"}
SUNNY = {"role": "assistant", "content": "Sunny."}
ARGUMENTS = {"city": "Rome", "at": None}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def conversation(form: str, data: dict[str, Any]) -> Conversation:
    found = to_example(Record(data, "f.jsonl", 7), form)
    assert isinstance(found, Conversation)
    return found


def message(entry: dict[str, Any]) -> Message:
    """One that is not the last."""
    return conversation("messages", {"messages": [Q, entry, Q, SUNNY]}).messages[1]


def more(entry: dict[str, Any]) -> Any:
    return json.loads(message(entry).more)


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_roles(role: str):
    assert message({"role": role, "content": "x"}) == Message(role, "x")


@pytest.mark.parametrize(
    ("content", "joined"),
    [
        ("", ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": " b", "image_url": None}], "a b"),
        ([], ""),
    ],
)
def test_content(content: object, joined: str):
    assert message({"role": "user", "content": content}) == Message("user", joined)


@pytest.mark.parametrize("entry", [{"content": None}, {}, {"content": ""}, {"content": []}])
def test_calls_need_no_content(entry: dict):
    called = message({"role": "assistant", "tool_calls": [CALL]} | entry)
    assert (called.content, json.loads(called.more)) == ("", {"tool_calls": [CALL]})


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        CALL | {"function": CALL["function"] | {"arguments": '{"city": "Rome"}'}},
        CALL | {"function": CALL["function"] | {"arguments": {"city": "Rome", "unit": None}, "strict": None}},
        {"id": "c1", "function": CALL["function"]},
    ],
    ids=["object", "string", "row of a table", "without type"],
)
def test_calls_are_alike(call: dict):
    assert more({"role": "assistant", "tool_calls": [call]}) == {"tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {}),
        (None, {}),  # what a table makes of an object without members
        ("{}", {}),
        ('{"city": "Rome", "at": null}', ARGUMENTS),  # not filled in by a table: the assistant's own word
    ],
)
def test_arguments_are_an_object(arguments: object, expected: dict):
    found = more({"role": "assistant", "tool_calls": [{"name": "weather", "arguments": arguments}]})
    assert found == {
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": expected}}]
    }


def test_what_else_the_template_gets():
    extra = {"name": "N", "tool_call_id": "c1", "reasoning_content": "R", "thinking": "T"}
    found = message(
        {"content": "x", "role": "assistant", "tool_calls": None, "weight": 1, **extra, "refusal": None,
         "annotations": []}
    )  # fmt: skip
    assert json.loads(found.more) == extra
    assert list(json.loads(found.more)) == sorted(extra), "equal whatever the order in the record"
    assert message(Q | {"name": None, "tool_calls": []}).more == ""


@pytest.mark.parametrize(
    "untrained", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"train": False, "weight": 0}]
)
@pytest.mark.parametrize("form", ["messages", "sharegpt"])
def test_turns_that_are_not_trained_on(form: str, untrained: dict):
    said = [("Q", {}), ("A", untrained), ("R", {"weight": 0}), ("B", {"train": True, "weight": 1}),
            ("S", {"weight": None}), ("C", untrained)]  # fmt: skip
    record = {
        "messages": [
            {"role": ("user", "assistant")[n % 2], "content": t} | m for n, (t, m) in enumerate(said)
        ],
        "conversations": [{"from": ("human", "gpt")[n % 2], "value": t} | m for n, (t, m) in enumerate(said)],
    }
    found = conversation(form, record).messages
    assert [m.content for m in found if m.trained and m.role == "assistant"] == ["B"]
    assert [m.content for m in found] == ["Q", "A", "R", "B"], "nothing is learned from what follows"


def test_turns_of_stages_that_compare_have_no_weights():
    record = {"prompt": [Q], "chosen": [SUNNY | {"weight": 1}], "rejected": [SUNNY | {"content": "B"}]}
    with pytest.raises(DataError, match="has 'weight', which goes with formats messages and sharegpt"):
        to_example(Record(record, "f.jsonl", 7), "preference")
    with pytest.raises(DataError, match="has 'train', which goes with"):
        to_example(Record({"prompt": [Q | {"train": False}]}, "f.jsonl", 7), "prompts")


def test_other_members_of_sharegpt_are_refused():
    turns = [{"from": "human", "value": "Q", "lang": "en"}, {"from": "gpt", "value": "A"}]
    with pytest.raises(DataError, match=r"^f\.jsonl, line 7: turn 1 has 'lang', which is not understood"):
        conversation("sharegpt", {"conversations": turns})


def test_objects_keep_their_order():
    """A template writes calls and tools as they are given: the model is to see what serving shows it."""
    call = {"type": "function", "function": {"name": "f", "arguments": {"z": 1, "a": "\u00e9"}}}
    assert message({"role": "assistant", "tool_calls": [call]}).more == (
        '{"tool_calls":[{"type":"function","function":{"name":"f","arguments":{"z":1,"a":"\u00e9"}}}]}'
    )
    turned = json.loads(json.dumps(call, sort_keys=True))
    both = [
        conversation("messages", {"messages": [Q, {"role": "assistant", "tool_calls": [c]}]})
        for c in (call, turned)
    ]
    assert content_hash(both[0]) == content_hash(both[1])


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("hello", "message 2 must be an object with role and content"),
        ({"role": ["user"]}, "message 2 has role"),
        ({"role": "assistant"}, "message 2 must be an object .*, content a string or a list of text parts"),
        ({"role": "assistant", "content": 3}, "content a string or a list of text parts"),
        ({"role": "assistant", "tool_calls": []}, "content a string or a list of text parts"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
         "message 2 has a part 'image_url' in its content, but only text is trained on: remove"),
        ({"role": "user", "content": ["x"]}, "has a part 'x' in its content, but only text"),
        ({"role": "user", "content": [{"type": "text"}]}, "a part of its content must be"),
        (Q | {"name": 3}, "message 2: name is a number; it must be a string"),
        (SUNNY | {"function_call": {"name": "f"}}, "has a function_call: write it as tool_calls"),
        (SUNNY | {"tool_calls": {}}, "tool_calls is an object; it must be a list"),
        (SUNNY | {"refusal": "no"}, "message 2 has 'refusal', which is not understood: remove it"),
        (SUNNY | {"id": 0}, "message 2 has 'id', which is not understood"),
        ({"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"a": 1}}]},
         "a part of the content of message 2 has 'cache_control', which is not understood"),
        (SUNNY | {"tool_calls": [CALL | {"index": 0}]}, "tool call 1 of message 2 has 'index'"),
        (SUNNY | {"tool_calls": [{"function": CALL["function"] | {"strict": True}}]},
         "tool call 1 of message 2 has 'strict'"),
        (SUNNY | {"weight": 0.5}, "message 2: weight is 0.5; it must be 0 or 1"),
        (SUNNY | {"weight": True}, "message 2: weight is True; it must be 0 or 1"),
        (SUNNY | {"weight": "1"}, "message 2: weight is a string; it must be 0 or 1"),
        (SUNNY | {"weight": [1]}, "message 2: weight is a list; it must be 0 or 1"),
        (SUNNY | {"train": 1}, "message 2: train is 1; it must be true or false"),
        (SUNNY | {"train": True, "weight": 0}, "message 2: weight and train contradict each other"),
        (Q | {"weight": 1}, "message 2 has 'weight', but role user: only the assistant's turns"),
        (Q | {"train": True}, "message 2 has 'train', but role user: only the assistant's turns"),
        (Q | {"tool_calls": [CALL]}, "has tool_calls, but role user: only the assistant"),
        (SUNNY | {"tool_calls": [CALL, "f()"]}, "tool call 2 of message 2 must be"),
        (SUNNY | {"tool_calls": [CALL | {"type": "custom"}]}, "tool call 1 of message 2 must be"),
        (SUNNY | {"tool_calls": [{"function": {"arguments": {}}}]}, "tool call 1 of message 2 must be"),
        (SUNNY | {"tool_calls": [{"name": "f", "arguments": "city=Rome"}]},
         "the string of arguments of tool call 1 of message 2 is not JSON .* at character 0"),
        (SUNNY | {"tool_calls": [{"name": "f", "arguments": "1" * 5000}]}, "cannot be read"),
        (SUNNY | {"tool_calls": [{"name": "f", "arguments": "[1]"}]}, "arguments is a list; it must be"),
        (SUNNY | {"tool_calls": [{"name": "f", "arguments": {"at": datetime.date(2024, 1, 1)}}]},
         "message 2 holds a value that JSON cannot express"),
        (SUNNY | {"tool_calls": [{"name": "f", "arguments": "[" * 100_000}]}, "is nested too deep"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(entry: object, problem: str):
    with pytest.raises(DataError, match=rf"^f\.jsonl, line 7: .*{problem}"):
        conversation("messages", {"messages": [Q, entry, SUNNY]})


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        (None, []),
        ([], []),
        ("", []),
        ("[]", []),
        ([TOOL], [TOOL]),
        (json.dumps([TOOL]), [TOOL]),
        ([TOOL["function"] | {"type": "function"}], [TOOL]),
        ([{"type": "function", "function": TOOL["function"] | {"strict": None}}], [TOOL]),
    ],
)
@pytest.mark.parametrize("form", ["messages", "sharegpt"])
def test_tools(form: str, tools: object, expected: list):
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    found = conversation(form, {"messages": [Q, SUNNY], "conversations": turns, "tools": tools}).tools
    assert found == (json.dumps(expected, separators=(",", ":")) if expected else "")


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ({"weather": TOOL}, "field 'tools' is an object; it must be a list of functions, or its JSON"),
        ("weather(city)", "field 'tools' is not JSON"),
        (3, "field 'tools' is a number"),
        ([TOOL, "weather"], "function 2 of field 'tools' must be"),
        ([{"type": "web_search"}], "function 1 of field 'tools' must be"),
    ],
)
def test_other_tools_are_refused(tools: object, problem: str):
    with pytest.raises(DataError, match=rf"^f\.jsonl, line 7: {problem}"):
        conversation("messages", {"messages": [Q, SUNNY], "tools": tools})


def test_tools_of_a_preference_go_to_both_sides():
    answers = [[Q, SUNNY | {"content": content}] for content in ("A", "B")]
    record = {"chosen": answers[0], "rejected": answers[1], "tools": [TOOL]}
    found: Any = to_example(Record(record, "f.jsonl", 7), "preference")
    assert json.loads(found.chosen.tools) == json.loads(found.rejected.tools) == [TOOL]


@pytest.mark.parametrize(
    ("speaker", "role"),
    [
        ("system", "system"), ("human", "user"), ("user", "user"), ("tool", "tool"), ("observation", "tool"),
        ("gpt", "assistant"), ("assistant", "assistant"), ("chatgpt", "assistant"), ("bing", "assistant"),
        ("bard", "assistant"), ("model", "assistant"),
    ],
)  # fmt: skip
def test_speakers(speaker: str, role: str):
    turns = [("human", "Q"), (speaker, "x"), ("human", "Q"), ("gpt", "A")]
    record = {"conversations": [{"from": who, "value": said} for who, said in turns]}
    assert conversation("sharegpt", record).messages[1] == Message(role, "x")


def called(value: object) -> Message:
    turns = [("human", "Q"), ("function_call", value), ("observation", "3"), ("gpt", "A")]
    record = {"conversations": [{"from": who, "value": said} for who, said in turns]}
    return conversation("sharegpt", record).messages[1]


@pytest.mark.parametrize("arguments", [{"city": "Rome"}, '{"city": "Rome"}'])
def test_a_call_of_sharegpt(arguments: object):
    found = called(json.dumps({"name": "weather", "arguments": arguments}))
    assert (found.role, found.content) == ("assistant", "")
    assert json.loads(found.more) == {
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}]
    }


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("weather(Rome)", "the value of turn 2 is not JSON"),
        ("3", "turn 2 is a function_call: its value must be JSON"),
        ('{"name": "weather"}', "turn 2 is a function_call: its value must be JSON"),
        ('{"name": 3, "arguments": {}}', "turn 2 must be"),
        ('{"name": "weather", "arguments": 3}', "turn 2: arguments is a number"),
        (
            {"name": "weather", "arguments": {}},
            "turn 2 must be an object with from and value, value a string",
        ),
    ],
)
def test_other_calls_of_sharegpt_are_refused(value: object, problem: str):
    with pytest.raises(DataError, match=rf"^f\.jsonl, line 7: {problem}"):
        called(value)


def test_a_row_of_a_table_is_the_same_conversation(tmp_path: Path):
    """A table fills in null what other rows have."""
    records = [
        {"messages": [Q, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                      {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "weather"}, SUNNY],
         "tools": [TOOL]},
        {"messages": [Q, {"role": "assistant", "content": "B", "reasoning_content": "R"}]},
        {"messages": [Q, {"role": "assistant", "tool_calls": [
            {"id": "c2", "type": "function", "function": {"name": "time", "arguments": {"zone": "CET"}}}]}],
         "tools": [{"type": "function", "function": {"name": "time", "description": "Now."}}]},
    ]  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "x.parquet")
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    table, lines = (
        [to_example(r, "messages") for r in read_records(source(tmp_path / name, "messages"))]
        for name in ("x.parquet", "x.jsonl")
    )
    assert [content_hash(e) for e in table] == [content_hash(e) for e in lines]


def test_half_a_surrogate_pair_is_found_wherever_it_is():
    call = {"name": "f", "arguments": '{"a": "\\ud800"}'}
    found = conversation("messages", {"messages": [Q, {"role": "assistant", "tool_calls": [call]}]})
    with pytest.raises(UnicodeEncodeError):
        content_hash(found)
