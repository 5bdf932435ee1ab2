"""A model that rewards answers."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import LlamaForSequenceClassification

from kubetune.api.runspec import RunAdapter
from kubetune_trainer.data.formats import Prompt
from kubetune_trainer.rewards import Said
from kubetune_trainer.rewards.model import load
from tests.fixtures.runs import finetune_spec


@pytest.mark.parametrize("pad", [7, None, 0])
def test_whole_rows_are_read_whatever_the_config_pads_with(tiny, tokenizer, tmp_path: Path, pad: int | None):
    """Rows are padded with the tokenizer's own token, and read at the last that is another one."""
    config = copy.deepcopy(tiny.config)
    config.num_labels, config.pad_token_id = 1, pad
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    named = RunAdapter(uri="pvc://judge", path=str(tmp_path / "judge"), root=str(tmp_path))
    judge = load(finetune_spec(tmp_path / "out", tmp_path), named, "fp32", torch.device("cpu"))
    prompts = [Prompt(text) for text in ("the cat", "on the big red mat by night", "a", "its dog and house")]
    answers = [Said(text, text) for text in ("yes", "no, it is the cat", "sat", "")]
    together = judge(prompts, answers)
    alone = [judge([p], [a])[0] for p, a in zip(prompts, answers, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    whole = LlamaForSequenceClassification.from_pretrained(tmp_path / "judge")
    ids = tokenizer("the catyes<|endoftext|>", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert alone[0] == pytest.approx(whole(input_ids=ids).logits.item(), abs=1e-5) or pad == 0
