"""What is trained on, as text: tokens whose `trained` is set, decoded."""

import copy

import pytest

from kubetune_trainer.data.encode import encode, question, render
from kubetune_trainer.data.formats import Completion, Conversation, Example, Message, Text
from kubetune_trainer.errors import DataError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}{% if loop.last or m.role != 'assistant' %}"
    "{{ m.content + ';' }}{% endif %}{% endfor %}"
)
STRICT = "{{ raise_exception('roles must alternate') }}"
TALK = Conversation(
    tuple(
        Message(*m)
        for m in [
            ("system", "be kind"),
            ("user", "who?"),
            ("assistant", "me."),
            ("user", "why?"),
            ("assistant", "so."),
        ]
    )
)


def taught(example: Example, tokenizer, **options) -> list[str]:
    """Runs of trained tokens, decoded."""
    [encoded] = encode([render(example, tokenizer)], tokenizer, **options)
    runs: list[list[int]] = [[]]
    for token, trained in zip(encoded.tokens.tolist(), encoded.trained.tolist(), strict=True):
        if trained:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (Text("a dog ran"), ["a dog ran<|endoftext|>"]),
        (Completion("the cat ", "sat on"), ["sat on<|endoftext|>"]),
        (Completion("", "sat on"), ["sat on<|endoftext|>"]),
        (Completion("the cat", ""), ["<|endoftext|>"]),
        (TALK, ["me.<|endoftext|>", "so.<|endoftext|>"]),
        (Conversation((Message("user", "q"), Message("assistant", ""))), ["<|endoftext|>"]),
        (
            Conversation((Message("user", "q\n"), Message("assistant", "ünïcödé 漢字"))),
            ["ünïcödé 漢字<|endoftext|>"],
        ),
    ],
)
def test_only_what_the_model_is_to_say_is_trained(tokenizer, example: Example, expected: list[str]):
    assert taught(example, tokenizer) == expected


def test_prompt_loss_trains_on_everything(tokenizer):
    assert taught(TALK, tokenizer, prompt_loss=True) == [render(TALK, tokenizer).text]


def test_the_tokenizers_own_template_is_used(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = CHATML
    assert taught(TALK, other) == ["me.<|im_end|>\n", "so.<|im_end|>\n"]
    assert render(TALK, other).text.startswith("<|im_start|>system\nbe kind<|im_end|>\n")


def test_a_prompt_has_the_tokens_that_serving_gives_it(tokenizer):
    [encoded] = encode([render(TALK, tokenizer)], tokenizer)
    asked = question(TALK, tokenizer)
    assert asked is not None
    served = tokenizer(asked.prompt, add_special_tokens=asked.special)["input_ids"]
    assert encoded.tokens[: len(served)].tolist() == served
    assert encoded.trained[len(served) :].all()
    assert asked.answer == "so."


@pytest.mark.parametrize(
    ("template", "message"), [(FORGETFUL, "rewrites earlier turns"), (STRICT, "roles must alternate")]
)
def test_templates_that_cannot_be_masked_are_refused(tokenizer, template: str, message: str):
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    with pytest.raises(DataError, match=message):
        render(TALK, other)


def test_a_tokenizer_that_adds_its_own_end_gets_no_second_one(tokenizer):
    from tokenizers.processors import TemplateProcessing

    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|pad|> $A <|endoftext|>", special_tokens=[("<|pad|>", 1), ("<|endoftext|>", 0)]
    )
    [encoded] = encode([render(Completion("the cat ", "sat"), other)], other)
    assert encoded.tokens.tolist().count(0) == 1
    assert encoded.tokens[0] == 1
    assert encoded.trained[-1]
    assert not encoded.trained[0]


def test_order_is_kept_when_kinds_are_mixed(tokenizer):
    examples = [Text("one"), TALK, Text("two"), Completion("th", "ree"), TALK]
    texts = [tokenizer.decode(e.tokens) for e in encode((render(e, tokenizer) for e in examples), tokenizer)]
    assert [t[:3] for t in texts] == ["one", "be ", "two", "thr", "be "]
