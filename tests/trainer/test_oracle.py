"""Our loss and our masks against TRL's, on the same examples."""

import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kubetune_trainer.data.encode import encode, render
from kubetune_trainer.data.formats import Completion, Conversation, Message
from kubetune_trainer.data.rows import collate, row_of
from kubetune_trainer.data.store import store_of
from kubetune_trainer.loss import LossModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from datasets import Dataset, disable_progress_bars
    from trl import SFTConfig, SFTTrainer

CHATS = [
    [("user", "cat?"), ("assistant", "yes.")],
    [("system", "be"), ("user", "on"), ("assistant", "its mat.")],
]
RAW = [("One and two are", " three."), ("The red house", " is by night.")]


def trl_loss(model, tokenizer, records: list[dict], folder: Path, packing: bool) -> float:
    """What TRL computes for all records in one batch."""
    disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = SFTTrainer(
            model,
            args=SFTConfig(
                str(folder), per_device_train_batch_size=len(records), max_length=64, packing=packing,
                padding_free=False, use_cpu=True, report_to="none", bf16=False, completion_only_loss=True,
                loss_type="nll",
            ),
            train_dataset=Dataset.from_list(records),
            processing_class=tokenizer,
        )  # fmt: skip
        [batch] = list(trainer.get_train_dataloader())
        assert batch["input_ids"].shape[1] < 64, "nothing was cut"
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.model, batch))


def our_loss(model, tokenizer, examples: list, packed: bool) -> float:
    encoded = list(encode((render(e, tokenizer) for e in examples), tokenizer))
    store = store_of((e.tokens for e in encoded), len(tokenizer), [e.trained for e in encoded])
    pieces = [store.piece(i, 0, int(store.lengths[i]) - 1) for i in range(len(store))]
    rows = [row_of(pieces)] if packed else [row_of([p]) for p in pieces]
    batch = collate(rows, tokenizer.pad_token_id)
    with torch.no_grad():
        total = LossModel(model, "fp32").eval()(batch.tokens, batch.positions, batch.labels)
    return float(total) / sum(r.targets for r in rows)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["messages", "prompt-completion"])
def test_the_same_loss_as_trl(base: Path, tmp_path: Path, form: str, packed: bool):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    if form == "messages":
        examples = [Conversation(tuple(Message(*m) for m in chat)) for chat in CHATS]
        turns = [[{"role": r, "content": c} for r, c in chat] for chat in CHATS]
        records = [{"prompt": t[:-1], "completion": t[-1:]} for t in turns]
    else:
        examples = [Completion(*pair) for pair in RAW]
        records = [{"prompt": p, "completion": c} for p, c in RAW]
    theirs = trl_loss(model, tokenizer, records, tmp_path, packing=False)
    ours = our_loss(model, tokenizer, examples, packed)
    assert ours == pytest.approx(theirs, abs=1e-5)
