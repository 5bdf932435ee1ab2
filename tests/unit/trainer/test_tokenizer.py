import json
from importlib.resources import files
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from kubetune_trainer.data.encode import chat, examples_of
from kubetune_trainer.data.formats import Conversation, Message
from kubetune_trainer.data.tokenizer import load, save_template, vocabulary
from kubetune_trainer.data.tokenizer_training import END, PAD, train
from kubetune_trainer.errors import InvalidSpec
from tests.fixtures.runs import sentences

TALK = [
    {"role": r, "content": c} for r, c in [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V")]
]


def test_special_tokens_bytes_and_size(tokenizer):
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.pad_token, tokenizer.pad_token_id) == (
        END,
        0,
        PAD,
        1,
    )
    assert tokenizer.bos_token is None
    assert len(tokenizer) == 320
    for text in ("plain", "Ünïcödé 漢字 🙂", "\t tabs\nand  spaces ", "\x00"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_same_corpus_gives_the_same_tokenizer(tokenizer):
    again = train(iter(sentences(200)), 320)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_a_small_corpus_gives_fewer_tokens():
    assert 258 < len(train(iter(["abc abc abc"]), 5000)) < 300


def test_chat_template_survives_saving(tokenizer, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    text = saved.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    assert text == (
        "S\n\n### Instruction:\nU\n\n### Response:\nA<|endoftext|>### Instruction:\nV\n\n### Response:\n"
    )
    assert saved(text)["input_ids"].count(saved.eos_token_id) == 1


def test_a_base_without_padding_and_template_gets_both(tokenizer, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    config = (tmp_path / "tokenizer_config.json").read_text().replace('"pad_token": "<|pad|>",', "")
    (tmp_path / "tokenizer_config.json").write_text(config)
    loaded = load(tmp_path)
    assert loaded.pad_token_id == loaded.eos_token_id
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.template_added
    (tmp_path / "adapter").mkdir()
    save_template(loaded, tmp_path / "adapter")
    assert (tmp_path / "adapter/chat_template.jinja").read_text() == tokenizer.chat_template
    assert not load(tmp_path, speaks=False).template_added


def test_a_base_without_tokenizer_is_refused(tmp_path: Path):
    with pytest.raises(InvalidSpec, match="no usable tokenizer"):
        load(tmp_path)


def test_the_vocabulary_reaches_to_the_largest_id(tokenizer, tmp_path: Path):
    assert vocabulary(tokenizer) == 320
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    whole = json.loads(path.read_text())
    whole["added_tokens"].append(
        {"id": 70_000, "content": "<far>", "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    )
    path.write_text(json.dumps(whole))
    loaded = load(tmp_path)
    assert vocabulary(loaded) == max(loaded.get_vocab().values()) + 1
    whole["post_processor"] = {
        "type": "Sequence",
        "processors": [{"type": "BertProcessing", "sep": ["[SEP]", 80_000], "cls": ["[CLS]", 7]}],
    }
    path.write_text(json.dumps(whole))
    assert vocabulary(load(tmp_path)) == 80_001


def test_loading_leaves_a_tokenizer_as_it_came(tokenizer, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    cuts = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    pads = {
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1,
        "pad_type_id": 0, "pad_token": PAD,
    }  # fmt: skip
    path.write_text(json.dumps(json.loads(path.read_text()) | {"truncation": cuts, "padding": pads}))
    backend = load(tmp_path).backend_tokenizer
    assert (backend.truncation["max_length"], backend.padding["length"]) == (4, 9)


def test_thinking_is_for_templates_that_know_it(tokenizer, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        InvalidSpec, match=r"data.enableThinking: the base model's chat template does not use"
    ):
        load(tmp_path, thinking=False)
    template = (files("trl") / "chat_templates/qwen3.jinja").read_text()
    (tmp_path / "chat_template.jinja").write_text(template)
    asked = Conversation((Message("user", "Q"),))
    texts = {t: chat(asked, 1, load(tmp_path, thinking=t), answer=True) for t in (None, True, False)}
    assert texts[None] == texts[True]
    assert texts[False] == texts[True] + "<think>\n\n</think>\n\n"
    answered = Conversation((Message("user", "Q"), Message("assistant", "A")))
    [(_, rendered)] = examples_of(answered, load(tmp_path, thinking=False))
    assert rendered.text.startswith(texts[False])
    assert rendered.text[slice(*rendered.spans[0])] == "A<|im_end|>\n"
