"""What a chat template does not show of a conversation is refused, for nobody would learn it."""

import copy
import json
from importlib.resources import files
from typing import Any

import pytest

from kubetune_trainer.data.encode import examples_of, render
from kubetune_trainer.data.formats import Conversation, to_example
from kubetune_trainer.data.read import Record
from kubetune_trainer.errors import DataError
from tests.unit.trainer.test_encode import CHATML, FORGETFUL

TEMPLATES = files("trl") / "chat_templates"
NAMES = sorted(f.name.removesuffix(".jinja") for f in TEMPLATES.iterdir() if f.name.endswith(".jinja"))
CALL = {"id": "abcdefghi", "type": "function",
        "function": {"name": "fnweather", "arguments": {"argcity": "valrome", "argdays": 3}}}  # fmt: skip
TOOL = {"type": "function", "function": {
    "name": "fnweather", "description": "desctells the weather",
    "parameters": {"type": "object", "required": ["argcity"],
                   "properties": {"argcity": {"type": "string", "description": "a city"},
                                  "argdays": {"type": "integer", "description": "how many"}}}}}  # fmt: skip
ASKED = {"role": "user", "content": "textasked"}
SAID = {"role": "assistant", "content": "textsaid"}
ANSWERED = {"role": "tool", "content": "texttool", "tool_call_id": "abcdefghi", "name": "fnweather"}
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[Any] | None, list[str]]] = {
    "plain": ([ASKED, SAID], None, ["textasked", "textsaid"]),
    "system": ([{"role": "system", "content": "textsystem"}, ASKED, SAID], None, ["textsystem", "textsaid"]),
    "developer": ([{"role": "developer", "content": "textdev"}, ASKED, SAID], None, ["textdev", "textsaid"]),
    "tools": ([ASKED, SAID], [TOOL], ["fnweather", "desctells the weather", "argcity", "textsaid"]),
    "call": (
        [ASKED, {"role": "assistant", "content": "", "tool_calls": [CALL]}, ANSWERED, SAID], [TOOL],
        ["fnweather", "valrome", "argdays", "texttool", "textsaid"],
    ),
    "call without tools": (
        [ASKED, {"role": "assistant", "content": "", "tool_calls": [CALL]}, ANSWERED, SAID], None,
        ["fnweather", "valrome", "argcity", "texttool", "textsaid"],
    ),
    "call with words": (
        [ASKED, {"role": "assistant", "content": "textbefore", "tool_calls": [CALL]}, ANSWERED, SAID], [TOOL],
        ["textbefore", "fnweather", "texttool"],
    ),
    "reasoning": ([ASKED, SAID | {"reasoning_content": "textthought"}], None, ["textthought", "textsaid"]),
    "thinking": ([ASKED, SAID | {"thinking": "textthought"}], None, ["textthought", "textsaid"]),
    "thought in the content": (
        [ASKED, SAID | {"content": "<think>\ntextthought\n</think>\n\ntextsaid"}], None,
        ["textthought", "textsaid"],
    ),
    "name": ([ASKED | {"name": "nameasker"}, SAID], None, ["nameasker", "textsaid"]),
}  # fmt: skip


def conversation(turns: list[dict[str, Any]], tools: list[Any] | None) -> Conversation:
    found = to_example(Record({"messages": turns, "tools": tools}, "f.jsonl", 7), "messages")
    assert isinstance(found, Conversation)
    return found


def with_template(tokenizer, template: str):
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    other.bos_token = other.eos_token
    return other


@pytest.mark.parametrize("case", CONVERSATIONS)
def test_all_that_is_given_is_shown_or_refused(tokenizer, case: str):
    """By every template that TRL knows, ChatML's and our own: what is trained on holds every word."""
    turns, tools, words = CONVERSATIONS[case]
    shown = 0
    for name in [*NAMES, "chatml", "own"]:
        own = {"chatml": CHATML, "own": tokenizer.chat_template}
        template = own[name] if name in own else (TEMPLATES / f"{name}.jinja").read_text()
        try:
            parts = examples_of(conversation(turns, tools), with_template(tokenizer, template))
        except DataError:
            continue
        shown += 1
        text = " ".join(rendered.text for _, rendered in parts)
        assert [w for w in words if w not in text] == [], name
    assert shown > (-1 if case == "name" else 4), "no template shows names"


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        ("developer", r"does not show the words 'textdev' of role developer: remove it"),
        ("tools", r"does not show the tool 'fnweather'"),
        ("call", r"does not show the call of 'fnweather'"),
        ("reasoning", r"does not show reasoning_content 'textthought'"),
        ("thinking", r"does not show thinking 'textthought'"),
        ("name", r"does not show the name 'nameasker' of a message of role user"),
    ],
)
def test_our_own_template_says_what_it_leaves_out(tokenizer, case: str, problem: str):
    turns, tools, _ = CONVERSATIONS[case]
    with pytest.raises(DataError, match=problem):
        examples_of(conversation(turns, tools), tokenizer)
    with pytest.raises(DataError, match=problem):
        render(conversation(turns, tools), tokenizer)


def test_arguments_that_are_left_out(tokenizer):
    template = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
        "{% endfor %};{% endfor %}"
    )
    turns, _, _ = CONVERSATIONS["call"]
    with pytest.raises(DataError, match="does not show the arguments of the call of 'fnweather'"):
        examples_of(conversation(turns, None), with_template(tokenizer, template))


def test_short_texts_are_not_taken_for_others(tokenizer):
    """A tool's answer of one letter stands elsewhere in the text."""
    turns = [
        ASKED,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        ANSWERED | {"content": "s"},
        SAID,
    ]
    template = CHATML.replace("for m in messages", "for m in messages if m.role != 'tool'")
    with pytest.raises(DataError, match="does not show the call"):
        examples_of(conversation(turns, None), with_template(tokenizer, template))
    turns[1] = {"role": "assistant", "content": "I look."}
    with pytest.raises(DataError, match="does not show the words 's' of role tool"):
        examples_of(conversation(turns, None), with_template(tokenizer, template))


def test_what_a_template_forgets_by_its_rules_is_allowed(tokenizer):
    """Qwen3 shows a thought until the next question; others show the last answer alone."""
    thought = SAID | {"reasoning_content": "textthought"}
    turns = [ASKED, thought, ASKED, SAID | {"content": "textlater"}]
    qwen = with_template(tokenizer, (TEMPLATES / "qwen3.jinja").read_text())
    (_, first), (_, second) = examples_of(conversation(turns, None), qwen)
    assert "textthought" in first.text
    assert "textthought" not in second.text
    forgetful = with_template(tokenizer, FORGETFUL)
    turns = [ASKED, SAID, ASKED, SAID | {"content": "textlater"}]
    assert len(examples_of(conversation(turns, None), forgetful)) == 2


def test_a_template_that_marks_disturb_is_read_as_it_is(tokenizer):
    strict = "{% for m in messages %}{% if m.content != 'textasked' and m.role == 'user' %}"
    strict += "{{ raise_exception('what?') }}{% endif %}{{ m.content }};{% endfor %}"
    other = with_template(tokenizer, strict)
    assert examples_of(conversation([ASKED, SAID], None), other)
    with pytest.raises(DataError, match="does not show the tool"):
        examples_of(conversation([ASKED, SAID], [TOOL]), other)


def test_json_in_arguments_is_shown_as_json(tokenizer):
    template = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c | tojson }}"
        "{% endfor %};{% endfor %}"
    )
    call = json.loads(json.dumps(CALL))
    call["function"]["arguments"] = {"a": 'say "é"\n', "b": [{"c": "d"}], "e": {}, "f": None}
    turns = [ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}]
    assert examples_of(conversation(turns, None), with_template(tokenizer, template))
