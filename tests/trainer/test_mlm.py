"""Objective mlm: a whole run, and its loss against transformers'."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from kubetune.api.pretrainjob import Mlm
from kubetune.api.training import Checkpoint
from kubetune.artifacts.digest import folder_digest
from kubetune.artifacts.manifest import read_manifest
from kubetune_trainer.data.masking import Masker, collate_masked
from kubetune_trainer.masked import MaskedLossModel
from kubetune_trainer.model.heads import MASKED_LM
from kubetune_trainer.model.making import create
from tests.fixtures.runs import TINY_BERT, pretrain_spec, sentences, source
from tests.trainer.conftest import Run
from tests.trainer.test_runs import numbers

ROBERTA = TINY_BERT | {"model_type": "roberta", "hidden_dropout_prob": 0.0}


@pytest.mark.parametrize(("config", "whole_words"), [(TINY_BERT, True), (ROBERTA, False)])
def test_an_encoder_from_scratch(run: Run, corpus: Path, tmp_path: Path, config: dict, whole_words: bool):
    web = source(corpus / "web.jsonl", name="web", weight=3)
    books = source(corpus / "books", name="books", root=corpus, weight=1)
    spec = pretrain_spec(
        tmp_path / "out", web, books, stage="mlm", mlm=Mlm(whole_words=whole_words), packing=False,
        config=config, checkpoint=Checkpoint(), training={"max_steps": 40, "learning_rate": 3e-3},
    )  # fmt: skip
    ended = run(spec)
    message = ended.message
    assert ended.code == 0, ended.out
    before, after = numbers(message.evaluation.baseline), numbers(message.evaluation.tuned)
    assert list(after) == ["loss", "perplexity"]
    assert after["loss"] < before["loss"] - 0.5
    metrics = numbers(message.trainer_status.metrics)
    assert metrics["tokensSeen"] == 40 * 4 * 32

    artifact = tmp_path / "out/artifact"
    manifest = read_manifest(artifact)
    assert manifest.digest == folder_digest(artifact) == message.artifact.digest
    assert manifest.format == "full"
    assert {s["name"]: s["share"] for s in manifest.report["sources"]} == {"web": 0.75, "books": 0.25}
    tokenizer = AutoTokenizer.from_pretrained(artifact)
    tokens = tokenizer("the cat", "sat")["input_ids"]
    assert (tokens[0], tokens[-1], tokens.count(tokenizer.sep_token_id)) == (1, 2, 2)
    assert tokenizer.mask_token_id == 3
    model, info = AutoModelForMaskedLM.from_pretrained(artifact, output_loading_info=True)
    assert not info["missing_keys"]
    assert model.config.vocab_size == len(tokenizer)
    assert "AutoModelForMaskedLM" in (artifact / "README.md").read_text()


@pytest.mark.parametrize("config", [TINY_BERT, ROBERTA], ids=lambda c: c["model_type"])
def test_the_same_loss_as_transformers(masked_tokenizer, config: dict):
    torch.manual_seed(0)
    model = create(config, masked_tokenizer, 32, MASKED_LM).eval()
    masker = Masker(masked_tokenizer, 0.15, 0)
    texts = masked_tokenizer(sentences(3), add_special_tokens=False)["input_ids"]
    rows = [masker.row(torch.tensor(t[:25]).numpy(), None, n) for n, t in enumerate(texts)]
    tokens, mask, labels = collate_masked(rows, pad=masked_tokenizer.pad_token_id)
    with torch.no_grad():
        theirs = model(input_ids=tokens, attention_mask=mask, labels=labels).loss
        ours = MaskedLossModel(model, "fp32")(tokens, mask, labels) / sum(r.targets for r in rows)
        found = MaskedLossModel(model, "fp32").measure([(tokens, mask, labels)])
    assert float(ours) == pytest.approx(float(theirs), abs=1e-5)
    assert found["loss"] == pytest.approx(float(theirs), abs=1e-5)


def test_positions_that_a_model_lacks_are_named(run: Run, corpus: Path, tmp_path: Path):
    """RoBERTa's begin after the padding token's id: 64 do not take a row of 64."""
    spec = pretrain_spec(
        tmp_path / "out", source(corpus / "web.jsonl"), stage="mlm", packing=False, config=ROBERTA, length=64
    )
    ended = run(spec)
    assert (ended.code, "raise max_position_embeddings" in ended.message.message) == (10, True), ended.out


def test_a_causal_model_is_no_masked_one(run: Run, corpus: Path, tmp_path: Path):
    ended = run(pretrain_spec(tmp_path / "out", source(corpus / "web.jsonl"), stage="mlm", packing=False))
    assert ended.code == 10
    assert "'llama' is not a masked language model that transformers knows" in ended.message.message
