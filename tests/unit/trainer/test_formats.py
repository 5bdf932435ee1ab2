import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kubetune.api.data import FIELDS
from kubetune_trainer.data.examples import read_examples
from kubetune_trainer.data.formats import (
    Completion,
    Conversation,
    Labelled,
    Message,
    Preference,
    Prompt,
    Text,
    content_hash,
    to_example,
)
from kubetune_trainer.data.read import Record
from kubetune_trainer.errors import DataError
from kubetune_trainer.signals import Stop
from tests.fixtures.runs import source


def example(form: str, data: Mapping[str, Any], field: str = "text", fields: dict[str, str] | None = None):
    return to_example(Record(data, "f.jsonl", 7), form, field, fields)


def talk(*turns: tuple[str, str]) -> Conversation:
    return Conversation(tuple(Message(*t) for t in turns))


def messages(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def shared(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": speaker, "value": value} for speaker, value in turns]


S, Q, A, B = ("system", "S"), ("user", "Q"), ("assistant", "A"), ("assistant", "B")
QA = talk(Q, A)
A_NOT_B = Preference(talk(Q, A), talk(Q, B))


@pytest.mark.parametrize(
    ("form", "data", "expected"),
    [
        ("alpaca", {"instruction": "Q", "output": "A"}, QA),
        ("alpaca", {"instruction": "Q", "input": "", "output": "A"}, QA),
        ("alpaca", {"instruction": "Q", "input": None, "output": "A"}, QA),
        ("alpaca", {"instruction": "Q", "input": "I", "output": "A"},
         talk(("user", "Q\n\nI"), ("assistant", "A"))),
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
        (
            "messages",
            {"id": 1, "messages": [{"role": r, "content": c} for r, c in
                          [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "unanswered")]]},
            talk(("system", "S"), ("user", "U"), ("assistant", "A")),
        ),
        ("classification", {"text": "T", "label": 1}, Labelled("T", None, "1")),
        ("classification", {"text": "T", "label": 1.0}, Labelled("T", None, "1")),
        ("classification", {"text": "T", "text_pair": "U", "label": "1.0"}, Labelled("T", "U", "1.0")),
        ("prompts", {"prompt": "P", "answer": None}, Prompt("P")),
        ("prompts", {"prompt": "P", "answer": 7}, Prompt("P", "7")),
        ("prompts", {"prompt": "P", "answer": -0.5}, Prompt("P", "-0.5")),
        ("prompts", {"prompt": messages(S, Q)}, Prompt((Message(*S), Message(*Q)))),
    ],
)  # fmt: skip
def test_shapes(form: str, data: dict, expected: object):
    assert example(form, data) == expected


@pytest.mark.parametrize(
    ("form", "data", "message"),
    [
        ("alpaca", {"output": "A"}, "'instruction' is missing"),
        ("alpaca", {"instruction": "Q"}, "'output' is missing"),
        ("alpaca", {"instruction": "Q", "output": 3}, "'output' is a number"),
        ("alpaca", {"instruction": "Q", "input": [], "output": "A"}, "'input' is a list"),
        ("dolly", {"instruction": "Q"}, "'response' is missing"),
        ("flan", {"inputs": "Q", "targets": ["A"]}, "'targets' is a list"),
        ("sharegpt", {"conversations": {}}, 'needs "conversations"'),
        ("sharegpt", {"conversations": [{"from": "human"}]}, "turn 1 must be an object"),
        ("sharegpt", {"conversations": shared(("narrator", "x"))}, "turn 1 is from 'narrator': use system"),
        ("sharegpt", {"conversations": [{"from": "human", "value": "x"}]}, "no message of the assistant"),
        ("prompt-completion", {"prompt": "P"}, "'completion' is missing"),
        ("text", {"content": "T"}, "'text' is missing"),
        ("messages", {"messages": "hello"}, 'needs "messages"'),
        ("messages", {"messages": [{"role": "user"}]}, "message 1 must be an object"),
        ("messages", {"messages": messages(("function", "x"))}, "message 1 has role 'function': use system"),
        ("messages", {"messages": messages(Q)}, "no message of the assistant"),
        ("alpaca", {"instruction": True}, "'instruction' is true or false"),
        ("alpaca", {"instruction": {}}, "'instruction' is an object"),
        ("alpaca", {"instruction": b"x"}, "'instruction' is of type bytes"),
        ("classification", {"text": "T", "label": 1.5}, "'label' is 1.5; .* a string or an integer"),
        ("classification", {"text": "T", "label": math.nan}, "'label' is nan"),
        ("classification", {"text": "T", "label": True}, "'label' is True"),
        ("prompts", {"prompt": "P", "answer": True}, "'answer' is true or false; .* a string or a number"),
        ("prompts", {"prompt": "P", "answer": math.nan}, "'answer' is nan"),
        ("prompts", {"prompt": "P", "answer": ["x"]}, "'answer' is a list"),
        ("prompts", {"prompt": 3}, "format prompts needs 'prompt'"),
        ("prompts", {"prompt": messages(Q, A)}, "'prompt' ends with the assistant's words"),
        ("prompts", {"prompt": "P", "tools": [{"name": "f"}]}, "'tools' is not read in format prompts"),
    ],
)
def test_other_shapes_name_file_line_and_field(form: str, data: dict, message: str):
    with pytest.raises(DataError, match=f"f.jsonl, line 7: .*{message}"):
        example(form, data)


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("text", {"text": " \n"}),
        ("text", {"text": None}),
        ("alpaca", {"instruction": "Q", "output": ""}),
        ("alpaca", {"instruction": "Q", "output": None}),
        ("alpaca", {"instruction": None, "output": "A"}),
        ("dolly", {"instruction": "Q", "response": "\n"}),
        ("flan", {"inputs": "Q", "targets": None}),
        ("prompt-completion", {"prompt": "P", "completion": None}),
        ("prompt-completion", {"prompt": "P", "completion": ""}),
        ("messages", {"messages": None}),
        ("messages", {"messages": []}),
        ("messages", {"messages": messages(Q, ("assistant", " "))}),
        ("messages", {"messages": [*messages(Q), {"role": "assistant", "content": "A", "weight": 0}]}),
        ("sharegpt", {"conversations": None}),
        ("preference", {"prompt": "P", "chosen": "A", "rejected": None}),
        ("classification", {"text": "", "label": 1}),
        ("classification", {"text": None, "label": 1}),
        ("prompts", {"prompt": None}),
        ("prompts", {"prompt": " "}),
        ("prompts", {"prompt": []}),
    ],
)
def test_null_and_empty_texts_are_left_out_alike(form: str, data: dict):
    assert example(form, data) is None


@pytest.mark.parametrize(
    ("turns", "kept"),
    [
        ([A, Q, B], [Q, B]),
        ([S, A, B, Q, A], [S, Q, A]),
        ([("developer", "D"), A, S, Q, A], [("developer", "D"), S, Q, A]),
        ([("tool", "3"), A, Q, B], [Q, B]),
        ([Q, S, A], [Q, S, A]),
    ],
)
def test_answers_to_what_was_cut_off_are_left_out(turns: list[tuple[str, str]], kept: list[tuple[str, str]]):
    assert example("messages", {"messages": messages(*turns)}) == talk(*kept)


@pytest.mark.parametrize("turns", [[A], [S, A, B], [A, Q], [S, Q], [("tool", "3"), A]])
def test_of_a_conversation_an_answer_must_be_left(turns: list[tuple[str, str]]):
    with pytest.raises(DataError, match=r"f\.jsonl, line 7: no message of the assistant answers the user"):
        example("messages", {"messages": messages(*turns)})


PAIR = {"chosen": messages(A), "rejected": messages(B)}
WHOLE = {"chosen": messages(Q, A), "rejected": messages(Q, B)}
TURNS = {"chosen": shared(("gpt", "A"))[0], "rejected": shared(("bard", "B"))[0]}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"prompt": "P", "chosen": "A", "rejected": "B"},
         Preference(Completion("P", "A"), Completion("P", "B"))),
        (PAIR | {"prompt": messages(Q)}, A_NOT_B),
        (PAIR | {"prompt": "Q"}, A_NOT_B),
        (WHOLE | {"prompt": "Q", "messages": messages(Q, A)}, A_NOT_B),
        (WHOLE | {"prompt": "Q ", "rejected": messages(Q, B)}, A_NOT_B),
        ({"prompt": "Q", "chosen": messages(Q, A), "rejected": messages(B)}, A_NOT_B),
        ({"prompt": "Q", "chosen": messages(S, Q, A), "rejected": messages(S, Q, B)},
         Preference(talk(S, Q, A), talk(S, Q, B))),
        (WHOLE, A_NOT_B),
        (WHOLE | {"prompt": None}, A_NOT_B),
        ({"chosen": messages(Q, A, Q, A), "rejected": messages(Q, A, Q, B)},
         Preference(talk(Q, A, Q, A), talk(Q, A, Q, B))),
        (TURNS | {"conversations": shared(("human", "Q"))}, A_NOT_B),
        (TURNS | {"conversations": shared(("human", "Q")), "system": "S"},
         Preference(talk(S, Q, A), talk(S, Q, B))),
    ],
)  # fmt: skip
def test_preferences(data: dict, expected: Preference):
    assert example("preference", data) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"chosen": "PA", "rejected": "PB"}, "'prompt' is missing: move there what 'chosen' and 'rejected'"),
        ({"prompt": "P", "chosen": "A"}, 'needs "prompt", "chosen" and "rejected", all of them strings'),
        (PAIR | {"prompt": 3}, "all of them strings or all of them lists of messages"),
        (PAIR | {"prompt": "Q", "chosen": "A"}, "all of them strings or all of them lists of messages"),
        (PAIR | {"prompt": []}, "there is no prompt"),
        (PAIR | {"prompt": " "}, "there is no prompt"),
        (PAIR, "there is no prompt"),
        (WHOLE | {"prompt": messages(Q)}, "'chosen' must be one message of the assistant"),
        (WHOLE | {"prompt": "other"}, "'chosen' must be one message of the assistant, or .* with 'prompt'"),
        (PAIR | {"prompt": "Q", "rejected": []}, "'rejected' must be one message of the assistant, or"),
        (WHOLE | {"chosen": messages(A, Q)}, "'chosen' must end with a message of the assistant"),
        (WHOLE | {"rejected": []}, "'rejected' must end with a message of the assistant"),
        (WHOLE | {"rejected": messages(("user", "other"), B)}, "must be the same except for the last"),
        (WHOLE | {"rejected": messages(Q, A, Q, B)}, "must be the same except for the last"),
        (WHOLE | {"rejected": messages(Q, A)}, "'chosen' and 'rejected' are equal"),
        (TURNS, 'needs "conversations"'),
        (TURNS | {"conversations": shared(("human", "Q")), "chosen": shared(("human", "A"))[0]},
         "'chosen' must end with a message of the assistant"),
        (TURNS | {"conversations": shared(("human", "Q")), "rejected": {"value": "B"}},
         "'rejected' is from None: use"),
    ],
)  # fmt: skip
def test_other_preferences_are_refused(data: dict, message: str):
    with pytest.raises(DataError, match=f"f.jsonl, line 7: .*{message}"):
        example("preference", data)


def test_the_text_field_is_chosen():
    assert example("text", {"body": "T"}, "body") == Text("T")


@pytest.mark.parametrize(
    ("form", "data", "fields", "expected"),
    [
        ("text", {"sentence": "T", "text": 3}, {"text": "sentence"}, Text("T")),
        ("prompt-completion", {"prompt": "Q", "a": "A"}, {"completion": "a"}, Completion("Q", "A")),
        ("prompt-completion", {"prompt": "A", "completion": "Q"},
         {"prompt": "completion", "completion": "prompt"}, Completion("Q", "A")),
        ("alpaca", {"instruction": "Q", "input": "left alone", "output": "A"}, {"input": "context"}, QA),
        ("messages", {"talk": messages(Q, A)}, {"messages": "talk"}, QA),
        ("sharegpt", {"talk": shared(("human", "Q"), ("gpt", "A"))}, {"conversations": "talk"}, QA),
        ("preference", {"q": "Q", "good": messages(A), "bad": messages(B)},
         {"prompt": "q", "chosen": "good", "rejected": "bad"}, A_NOT_B),
        ("classification", {"sentence1": "T", "sentence2": "U", "class": 0},
         {"text": "sentence1", "text_pair": "sentence2", "label": "class"}, Labelled("T", "U", "0")),
        ("prompts", {"question": "Q", "answer": 1}, {"prompt": "question"}, Prompt("Q", "1")),
    ],
)  # fmt: skip
def test_a_source_says_what_the_fields_are_called(form: str, data: dict, fields: dict, expected: object):
    assert example(form, data, fields=fields) == expected


@pytest.mark.parametrize(
    ("form", "data", "fields", "message"),
    [
        ("text", {"text": "T"}, {"text": "sentence"}, "'sentence' is missing"),
        ("alpaca", {"instruction": "Q", "output": "A"}, {"output": "a"}, "'a' is missing"),
        ("messages", {"messages": messages(Q, A)}, {"messages": "talk"}, 'needs "talk"'),
        ("preference", {"prompt": "Q", "chosen": "A", "rejected": "B"}, {"chosen": "good"}, '"good"'),
        ("preference", {"a": "Q A", "b": "Q B"}, {"chosen": "a", "rejected": "b"}, "what 'a' and 'b' both"),
        ("classification", {"text": "T", "label": 1}, {"label": "class"}, "'class' is missing"),
        ("prompts", {"prompt": "Q"}, {"prompt": "question"}, "needs 'question'"),
    ],
)
def test_what_is_missing_is_named_as_the_record_would(form: str, data: dict, fields: dict, message: str):
    with pytest.raises(DataError, match=f"f.jsonl, line 7: .*{message}"):
        example(form, data, fields=fields)


def test_the_fields_of_a_source_are_those_of_its_records(tmp_path: Path):
    (tmp_path / "x.jsonl").write_text('{"q": "Q", "a": "A"}\n')
    renamed = source(tmp_path / "x.jsonl", "prompt-completion", fields={"prompt": "q", "completion": "a"})
    assert [found for _, found, _ in read_examples(renamed, Stop())] == [Completion("Q", "A")]


class Asked(dict):
    """A record that notes what it is asked for."""

    def __init__(self, data: dict) -> None:
        super().__init__(data)
        self.names: set[str] = set()

    def get(self, name: str, default: object = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


RECORDS = [
    ("alpaca", {"instruction": "Q", "output": "A"}),
    ("dolly", {"instruction": "Q", "response": "A"}),
    ("flan", {"inputs": "Q", "targets": "A"}),
    ("messages", {"messages": messages(Q, A)}),
    ("sharegpt", {"conversations": shared(("human", "Q"), ("gpt", "A"))}),
    ("prompt-completion", {"prompt": "P", "completion": "C"}),
    ("text", {"text": "T"}),
    ("preference", TURNS | {"conversations": shared(("human", "Q"))}),
    ("classification", {"text": "T", "text_pair": "U", "label": "x"}),
    ("prompts", {"prompt": "P"}),
]


@pytest.mark.parametrize(("form", "data"), RECORDS, ids=[form for form, _ in RECORDS])
def test_every_field_can_be_called_otherwise(form: str, data: dict):
    record = Asked({name.upper(): value for name, value in data.items()})
    assert example(form, record, fields={name: name.upper() for name in FIELDS[form]}) == example(form, data)
    assert record.names - {"tools"} == {name.upper() for name in FIELDS[form]}


def test_every_format_says_what_its_fields_are_called():
    assert FIELDS.keys() == {form for form, _ in RECORDS}


def test_calls_and_tools_are_content():
    def asks(more: str = "", tools: str = "") -> int:
        return content_hash(Conversation((Message("user", "Q"), Message("assistant", "", more)), tools))

    assert len({asks(), asks('{"a":1,"b":2}'), asks('{"a":1}'), asks(tools='[{"a":1}]')}) == 4
    assert asks('{"a":1,"b":2}') == asks('{"b":2,"a":1}')


def test_equal_contents_have_equal_hashes():
    assert content_hash(Text("a")) == content_hash(Text("a")) != content_hash(Text("b"))
    assert content_hash(Completion("ab", "c")) != content_hash(Completion("a", "bc"))
    assert 0 <= content_hash(Text("a")) < 2**64


@pytest.mark.parametrize(
    ("form", "more", "problem"),
    [
        (
            "alpaca",
            {"system": "Be kind."},
            "field 'system' is not read in format alpaca: write it as the first",
        ),
        ("alpaca", {"history": [["Q", "A"]]}, "field 'history' is not read"),
        ("messages", {"system": "Be kind."}, "field 'system' is not read in format messages"),
        ("messages", {"functions": [{"name": "f"}]}, r"or name it by fields: \{tools: functions\}"),
        ("messages", {"images": ["x.png"]}, "only text is trained on"),
        ("messages", {"chat_template_kwargs": {"x": 1}}, "templates get data.enableThinking alone"),
        ("messages", {"system": None, "images": [], "id": 7, "source": "x", "category": {"a": 1}}, None),
    ],
)
def test_what_others_read_as_part_of_a_conversation(form: str, more: dict, problem: str | None):
    record = {"instruction": "Q", "output": "A", "messages": messages(Q, A)} | more
    if problem is None:
        assert example(form, record) == QA
        return
    with pytest.raises(DataError, match=f"f.jsonl, line 7: .*{problem}"):
        example(form, record)


@pytest.mark.parametrize(
    ("form", "data", "told"),
    [
        ("sharegpt", {"messages": messages(Q, A)}, "the record fits format messages"),
        ("sharegpt", {"conversations": messages(Q, A)},
         "format messages with fields: {messages: conversations}"),
        ("messages", {"conversations": shared(("human", "Q"), ("gpt", "A"))},
         "the record fits format sharegpt"),
        ("messages", {"messages": shared(("human", "Q"), ("gpt", "A"))},
         "format sharegpt with fields: {conversations: messages}"),
        ("messages", {"turns": messages(Q, A)}, "format messages with fields: {messages: turns}"),
        ("prompt-completion", {"instruction": "Q", "output": "A"}, "the record fits format alpaca"),
        ("alpaca", {"prompt": "Q", "completion": "A"}, "the record fits format prompt-completion"),
        ("alpaca", {"question": "Q", "answer": "A", "id": "7"},
         "format alpaca with fields: {instruction: question, output: answer}"),
        ("alpaca", {"prompt": "Q", "chosen": "A", "rejected": "B"},
         "the record fits format preference, which goes with stage dpo or reward"),
        ("alpaca", {"text": "T", "label": 1},
         "the record fits format classification, which goes with stage classification"),
        ("text", {"content": "T", "n": 3},
         "format text with fields: {text: content} (in a PretrainJob textField: content)"),
        ("messages", {"text": "T"}, "the record fits format text"),
        ("alpaca", {"input": 3}, None),
    ],
)  # fmt: skip
def test_which_format_would_fit_is_said(form: str, data: dict, told: str | None):
    with pytest.raises(DataError) as raised:
        example(form, data)
    assert str(raised.value).startswith("f.jsonl, line 7: ")
    assert (told in str(raised.value)) if told else ("fits format" not in str(raised.value))
