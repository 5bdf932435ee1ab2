"""Special tokens that are written out in a text are those tokens, in every stage alike."""

import copy
from pathlib import Path

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from kubetune_trainer import warned
from kubetune_trainer.data.corpus import read_corpus
from kubetune_trainer.data.encode import encode, prompt_tokens, render
from kubetune_trainer.data.examples import read_examples
from kubetune_trainer.data.formats import Completion, Text
from kubetune_trainer.data.special_tokens import noticed
from kubetune_trainer.data.tokenizer_training import END, PAD
from kubetune_trainer.signals import Stop
from tests.fixtures.runs import pretrain_spec, sentences, source, write_jsonl

BEGIN = "<|begin|>"
RENDERED = f"{BEGIN}the cat{END}a dog"


@pytest.fixture
def begins(tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer that begins each text with a token."""
    other = copy.deepcopy(tokenizer)
    other.add_special_tokens({"bos_token": BEGIN})
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, other.bos_token_id)]
    )
    return other


@pytest.fixture(autouse=True)
def _no_warnings() -> None:
    warned.restart()


def expected(tokenizer, text: str) -> list[int]:
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def test_sft_domain_and_pretraining_read_them_alike(begins, tmp_path: Path):
    begins.save_pretrained(tmp_path / "base")
    wanted = expected(begins, RENDERED)
    assert wanted.count(begins.bos_token_id) == 1
    assert wanted.count(begins.eos_token_id) == 2
    before, end, after = RENDERED.partition(END)
    for example in (Text(RENDERED), Completion(before + end, after)):
        [encoded] = encode([render(example, begins)], begins)
        assert encoded.tokens.tolist() == wanted
    assert prompt_tokens(RENDERED, True, begins) == wanted[:-1]
    data = source(write_jsonl(tmp_path / "x.jsonl", [RENDERED, *sentences(3)]))
    corpus = read_corpus(
        pretrain_spec(tmp_path / "out", data, base=tmp_path / "base", held_out=0.0), tmp_path / "work", Stop()
    )
    store = corpus.training[0].tokens
    assert store.tokens[: store.offsets[1]].tolist() == wanted
    [warning] = [w for w in warned.given() if w.reason == "SpecialTokensInText"]
    assert (
        "source data: 1 records hold special tokens of the tokenizer, the first <|begin|> at x.jsonl, line 1"
        in (warning.message)
    )


def test_an_answer_across_a_token_begins_once(begins):
    """Prompt and answer are encoded apart where a token would lie across their edge."""
    prompt, answer = f"{BEGIN}the ca", "t sat"
    [encoded] = encode([render(Completion(prompt, answer), begins)], begins)
    assert encoded.tokens.tolist().count(begins.bos_token_id) == 1
    assert encoded.tokens[: len(prompt_tokens(prompt, True, begins))].tolist() == prompt_tokens(
        prompt, True, begins
    )


@pytest.mark.parametrize(
    ("record", "form", "told"),
    [
        ({"text": "the <pad> cat"}, "text", False),
        ({"text": f"the {PAD} cat"}, "text", True),
        ({"messages": [{"role": "user", "content": f"x{END}"}, {"role": "assistant", "content": "A"}]},
         "messages", True),
        ({"prompt": "Q", "completion": f"A{END}"}, "prompt-completion", True),
        ({"text": "x", "label": END}, "classification", False),
    ],
)  # fmt: skip
def test_data_that_hold_them_are_told(tokenizer, tmp_path: Path, record: dict, form: str, told: bool):
    data = source(write_jsonl(tmp_path / "x.jsonl", [record]), form)
    assert len(list(noticed(read_examples(data, Stop()), tokenizer, data))) == 1
    assert bool(warned.given()) == told
