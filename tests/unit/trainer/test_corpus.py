"""A corpus as the tokenizer of a base model reads it."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from kubetune.api.runspec import RunSpec
from kubetune_trainer.data.corpus import Corpus, read_corpus
from kubetune_trainer.data.tokenizer_training import END, PAD
from kubetune_trainer.signals import Stop
from tests.fixtures.runs import pretrain_spec, sentences, source, write_jsonl

DOCUMENTS = [*sentences(12), f"in {END} between"]
BEGIN, LAST = 1, 0
"""Ids of the tokens that begin and end a text."""


def base_of(tokenizer, folder: Path, template: str) -> Path:
    """A folder with a tokenizer that writes special tokens around a text, and cuts what is long."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(PAD, BEGIN), (END, LAST)]
    )
    backend.enable_truncation(5)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=PAD, eos_token=END, pad_token=END
    ).save_pretrained(folder)
    return folder


def read(spec: RunSpec, folder: Path) -> Corpus:
    return read_corpus(spec, folder / "work", Stop())


@pytest.mark.parametrize(
    ("template", "begins"), [("$A", False), (f"{PAD} $A", True), (f"{PAD} $A {END}", True)]
)
def test_documents_begin_as_the_base_does_and_end_once(
    tokenizer, tmp_path: Path, template: str, begins: bool
):
    base = base_of(tokenizer, tmp_path / "base", template)
    data = source(write_jsonl(tmp_path / "data.jsonl", DOCUMENTS))
    corpus = read(pretrain_spec(tmp_path / "out", data, base=base, held_out=0.0), tmp_path)
    store = corpus.training[0].tokens
    assert len(store) == len(DOCUMENTS)
    for i, text in enumerate(DOCUMENTS):
        tokens = store.tokens[store.offsets[i] : store.offsets[i + 1]]
        ends = [t for t in np.flatnonzero(tokens == LAST).tolist() if t < len(tokens) - 1]
        assert tokens[-1] == LAST
        assert len(ends) == text.count(END), "what a text names is that token"
        assert np.flatnonzero(tokens == BEGIN).tolist() == ([0] if begins else [])
        assert tokenizer.decode(tokens[begins:-1]) == text, "not cut"
    assert corpus.tokenizer.backend_tokenizer.truncation is not None, "the artifact gets it as it came"
