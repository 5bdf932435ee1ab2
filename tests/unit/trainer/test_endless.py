"""Answers that go on after their end, as with many a base and its own chat template."""

import copy

import pytest
from tokenizers import AddedToken

from kubetune_trainer import endless, warned
from kubetune_trainer.data.tokenizer import CHAT_TEMPLATE

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{{ m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture
def chatml(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = CHATML
    other.add_tokens([AddedToken(mark, special=True) for mark in ("<|im_start|>", "<|im_end|>")])
    return other


def given() -> list[str]:
    return [w.reason for w in warned.given()]


def test_a_template_whose_end_ends_nothing_is_told(tiny, chatml):
    endless.tell(tiny, chatml, ["text", "messages"])
    assert given() == ["AnswersDoNotEnd"]
    assert "'<|im_end|>\\n'" in warned.given()[0].message


def test_other_formats_end_by_the_tokenizers_token(tiny, chatml):
    endless.tell(tiny, chatml, ["text", "prompt-completion"])
    assert not given()


def test_it_may_stand_in_the_generation_config(tiny, chatml):
    tiny.generation_config.eos_token_id = [chatml.eos_token_id, chatml.convert_tokens_to_ids("<|im_end|>")]
    endless.tell(tiny, chatml, ["messages"])
    assert not given()


def test_our_own_template_ends_by_the_tokenizers_token(tiny, chatml):
    chatml.chat_template = CHAT_TEMPLATE
    endless.tell(tiny, chatml, ["messages"])
    assert not given()
