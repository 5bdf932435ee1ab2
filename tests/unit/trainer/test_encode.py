"""What is trained on, as text: tokens whose `trained` is set, decoded."""

import copy
from importlib.resources import files

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from kubetune_trainer.data.encode import encode, examples_of, prompt_tokens, question, render
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
    [(_, rendered)] = examples_of(example, tokenizer)
    [encoded] = encode([rendered], tokenizer, **options)
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


PASSED = Conversation(
    (Message("user", "who?"), Message("assistant", "me.", trained=False), *TALK.messages[3:])
)


def test_answers_that_are_not_to_be_learned(tokenizer):
    assert taught(PASSED, tokenizer) == ["so.<|endoftext|>"]
    whole = render(PASSED, tokenizer).text
    before, _, after = whole.partition("me.<|endoftext|>")
    assert taught(PASSED, tokenizer, prompt_loss=True) == [before, after]
    other = copy.deepcopy(tokenizer)
    other.chat_template = FORGETFUL
    [(_, only)] = examples_of(PASSED, other)
    assert only.text == "who?;why?;so.;"


def test_prompt_loss_trains_on_everything(tokenizer):
    assert taught(TALK, tokenizer, prompt_loss=True) == [render(TALK, tokenizer).text]


def test_the_tokenizers_own_template_is_used(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = CHATML
    assert taught(TALK, other) == ["me.<|im_end|>\n", "so.<|im_end|>\n"]
    assert render(TALK, other).text.startswith("<|im_start|>system\nbe kind<|im_end|>\n")


def test_a_prompt_has_the_tokens_that_serving_gives_it(tokenizer):
    [encoded] = encode([render(TALK, tokenizer)], tokenizer)  # of which the last answer is trained on
    asked = question(TALK, tokenizer)
    assert asked is not None
    served = tokenizer(asked.prompt, add_special_tokens=asked.special)["input_ids"]
    assert encoded.tokens[: len(served)].tolist() == served
    assert encoded.trained[len(served) :].all()
    assert asked.answer == "so."


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (STRICT, "roles must alternate"),
        ("{{ 1 + 'a' }}", "refuses the conversation: unsupported operand"),
        ("the same", "does not show the words 'be kind' of role system"),
        (CHATML.replace("m.content", "m.content[0].text"), "refuses the conversation"),
        (CHATML.replace("assistant\n", "assistant\n<think>\n"), "opens an answer with .*<think>"),
    ],
)
def test_templates_that_cannot_be_masked_are_refused(tokenizer, template: str, message: str):
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    with pytest.raises(DataError, match=message):
        examples_of(TALK, other)


def test_a_template_without_end_is_refused(tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("kubetune_trainer.data.encode.TEMPLATE_SECONDS", 0.1)
    other = copy.deepcopy(tokenizer)
    many = "{% for i in range(99999) %}"
    other.chat_template = f"{many}{many}{{% endfor %}}{{% endfor %}}"
    with pytest.raises(DataError, match=r"refuses the conversation: it did not end within 0\.1 seconds"):
        examples_of(TALK, other)


def test_where_earlier_turns_are_rewritten_each_answer_is_an_example(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = FORGETFUL
    (first, one), (second, two) = examples_of(TALK, other)
    assert one.text == "be kind;who?;me.;"
    assert two.text == "be kind;who?;why?;so.;"
    assert [r.text[slice(*r.spans[0])] for r in (one, two)] == ["me.;", "so.;"]
    assert [question(e, other).answer for e in (first, second)] == ["me.", "so."]


TEMPLATES = files("trl") / "chat_templates"
OTHERWISE = {"deepseek_r1_distill", "deepseekv3", "nemotron_3_nano", "nemotron_3_super", "nemotron_3_ultra",
             "nemotron_3_5_lightning"}  # fmt: skip
"""They ask for an answer by an open <think>, and write none."""
PARTS = {"llava_next", "idefics3", "smolvlm"}
"""They show only content that is a list of parts."""


@pytest.mark.parametrize(
    "name", sorted(f.name.removesuffix(".jinja") for f in TEMPLATES.iterdir() if f.name.endswith(".jinja"))
)
def test_templates_of_well_known_models(tokenizer, name: str):
    """What is trained on is what the model says when it is served."""
    other = copy.deepcopy(tokenizer)
    other.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    other.bos_token = other.eos_token
    talk = Conversation(TALK.messages[1:])
    if name.removesuffix("_training") in OTHERWISE | PARTS:
        with pytest.raises(DataError, match=r"chat template (opens|refuses|does not show)"):
            examples_of(talk, other)
        return
    said = []
    for example, rendered in examples_of(talk, other):
        served = question(example, other).prompt
        last = rendered.spans[-1]
        assert rendered.text[: last[0]] == served
        said += [rendered.text[low:high] for low, high in rendered.spans]
    assert len(said) == 2
    assert "me." in said[0]
    assert "so." in said[1]


def test_a_space_that_is_left_out_of_offsets_belongs_to_its_token(tokenizer):
    """GPT-2's tokenizer trims them."""
    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    for prompt, answer in (("the cat sat on ", "the mat"), ("the cat", " sat "), ("", "a dog")):
        example = Completion(prompt, answer)
        [plain], [trimmed] = (encode([render(example, t)], t) for t in (tokenizer, other))
        assert trimmed.tokens.tolist() == plain.tokens.tolist()
        assert trimmed.trained.tolist() == plain.trained.tolist()
        served = prompt_tokens(prompt, True, other) if prompt else []
        assert trimmed.tokens[: len(served)].tolist() == served


def test_a_tokenizer_that_knows_not_every_word_says_so():
    words = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    few = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    with pytest.raises(DataError, match="cannot read the texts"):
        list(encode([render(Text("a b"), few)], few))


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
