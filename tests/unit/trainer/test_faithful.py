"""A tokenizer reads and writes text as its tokenizer.json says, whatever class transformers reads it by."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from kubetune_trainer import warned
from kubetune_trainer.data.faithful import PROBE, by_class, difference, left_as_it_came
from kubetune_trainer.data.tokenizer import load, load_masked, save
from kubetune_trainer.data.tokenizer_training import train
from kubetune_trainer.model.heads import CAUSAL_LM, MASKED_LM
from tests.fixtures.runs import sentences

TEXTS = [*sentences(30), *PROBE]
LLAMA = "LlamaTokenizerFast"
COMPOSED = {"musicgen", "musicgen_melody"}
"""Of several models: their config needs those of all."""


def folder_of(tokenizer: PreTrainedTokenizerBase, folder: Path, model_type: str, **settings: str) -> Path:
    """A base's folder, so far as its tokenizer is concerned."""
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.fixture(autouse=True)
def _no_warnings() -> None:
    warned.restart()


def test_a_byte_level_tokenizer_under_llamas_class(tokenizer, tmp_path: Path):
    """As distilled and coder models ship it (transformers#45488)."""
    folder = folder_of(tokenizer, tmp_path / "base", "llama", tokenizer_class=LLAMA)
    mangled = AutoTokenizer.from_pretrained(folder)
    assert mangled.decode(mangled("hello world")["input_ids"]) == "helloworld"
    loaded = load(folder)
    assert loaded.decode(loaded("hello world")["input_ids"]) == "hello world"
    assert difference(loaded, folder) is None
    assert (loaded.eos_token, loaded.pad_token) == (tokenizer.eos_token, tokenizer.pad_token)
    assert loaded.chat_template == tokenizer.chat_template
    [warning] = warned.given()
    assert warning.reason == "TokenizerClassDiffers"
    assert "as a LlamaTokenizer" in warning.message
    assert "set tokenizer_class in its tokenizer_config.json to PreTrainedTokenizerFast" in warning.message

    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "config.json").write_text((folder / "config.json").read_text())
    save(loaded, artifact)
    assert len(warned.given()) == 1
    assert difference(by_class(artifact), folder) is None, "everybody reads it as it was trained"


def test_a_class_that_comes_with_the_type_of_the_model(tokenizer, tmp_path: Path):
    folder = folder_of(tokenizer, tmp_path / "base", "qwen2")
    loaded = load(folder)
    assert difference(loaded, folder) is None
    [warning] = warned.given()
    assert "that class comes with the model_type in config.json" in warning.message
    save(loaded, folder)
    assert "load it with PreTrainedTokenizerFast" in warned.given()[1].message


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_what_is_pretrained_is_read_as_it_was_written(tmp_path: Path, kind: str):
    """By AutoTokenizer and by later jobs, for every type of model that a PretrainJob takes."""
    masked = kind == "masked"
    wrong = []
    for model_type in sorted((MASKED_LM if masked else CAUSAL_LM).types.keys() - COMPOSED):
        made = train(iter(TEXTS), 400, masked=masked, config={"model_type": model_type})
        folder = tmp_path / model_type
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        save(made, folder)  # which warns if AutoTokenizer reads it otherwise
        read = (load_masked if masked else load)(folder)
        same = read(TEXTS)["input_ids"] == made(TEXTS)["input_ids"]
        names = (read.eos_token, read.pad_token) == (made.eos_token, made.pad_token)
        if warned.given() or not same or not names or difference(read, folder):
            wrong.append(model_type)
        warned.restart()
    assert wrong == []


def test_a_tokenizer_is_left_as_it_came_whatever_happens(tokenizer):
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.enable_padding(length=7)

    def cut_and_fail() -> None:
        with left_as_it_came(tokenizer):
            tokenizer("text", truncation=True, max_length=3)
            assert (backend.truncation["max_length"], backend.padding) == (3, None)
            raise KeyError

    with pytest.raises(KeyError):
        cut_and_fail()
    assert backend.truncation is None
    assert backend.padding["length"] == 7
    backend.no_padding()
