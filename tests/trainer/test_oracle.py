"""Our loss and our masks against TRL's, on the same examples."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from kubetune.api.reinforcement import Grpo
from kubetune_trainer.data.encode import encode, render
from kubetune_trainer.data.formats import Completion, Conversation, Message, to_example
from kubetune_trainer.data.pairs import PairBatch, encode_pairs, store_pairs
from kubetune_trainer.data.pairs import collate as collate_pairs
from kubetune_trainer.data.read import Record
from kubetune_trainer.data.rows import collate, row_of
from kubetune_trainer.data.store import store_of
from kubetune_trainer.loss import LossModel
from kubetune_trainer.objectives.dpo import DpoLossModel
from kubetune_trainer.objectives.grpo import GrpoModel
from kubetune_trainer.objectives.reward import RewardLossModel
from kubetune_trainer.rollout.rows import Rollout, weighed
from kubetune_trainer.rollout.rows import collate as collate_rollouts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from datasets import Dataset, disable_progress_bars
    from trl import (
        DPOConfig,
        DPOTrainer,
        GRPOConfig,
        GRPOTrainer,
        RewardConfig,
        RewardTrainer,
        SFTConfig,
        SFTTrainer,
    )

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
    batch = collate(rows, pad=tokenizer.pad_token_id)
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


PREFERENCES = [
    {"prompt": "One and two are", "chosen": " three.", "rejected": " the cat on a mat."},
    {"prompt": "The red house", "chosen": " is by night.", "rejected": " no"},
    {"prompt": "to run", "chosen": " its dog", "rejected": " its dog and cat"},
]
CHAT_PREFERENCES = [
    {
        "prompt": [{"role": r, "content": c} for r, c in chat[:-1]],
        "chosen": [{"role": "assistant", "content": chat[-1][1]}],
        "rejected": [{"role": "assistant", "content": "saw one"}],
    }
    for chat in CHATS
]


def our_pairs(records: list[dict], tokenizer, *, whole: bool = False) -> PairBatch:
    places = [Record(r, "x", 1) for r in records]
    examples = [to_example(place, "preference") for place in places]
    pairs = store_pairs(encode_pairs(examples, places, tokenizer, 64), len(tokenizer), whole=whole)
    return collate_pairs(pairs, pad=tokenizer.pad_token_id)


@pytest.mark.parametrize("plain_head", [True, False])
@pytest.mark.parametrize("records", [PREFERENCES, CHAT_PREFERENCES], ids=["strings", "messages"])
def test_the_same_dpo_loss_as_trl(base: Path, tmp_path: Path, records: list[dict], plain_head: bool):
    """Loss and gradients of a model that has left its reference."""
    reference, model = (AutoModelForCausalLM.from_pretrained(base) for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.02 * torch.randn_like(p)
    disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = DPOTrainer(
            model,
            ref_model=reference,
            args=DPOConfig(
                str(tmp_path), per_device_train_batch_size=len(records), max_length=64, beta=0.3,
                use_cpu=True, report_to="none", bf16=False, gradient_checkpointing=False,
            ),
            train_dataset=Dataset.from_list(records),
            processing_class=tokenizer,
        )  # fmt: skip
        [theirs_batch] = list(trainer.get_train_dataloader())
        theirs = trainer.compute_loss(trainer.model, theirs_batch)
        theirs.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()

    batch = our_pairs(records, tokenizer)
    with torch.no_grad():
        known = DpoLossModel(reference, "fp32", 0.3).eval().log_ratios(*batch)
    ours_model = DpoLossModel(model, "fp32", 0.3).eval()
    ours_model._plain_head = plain_head
    batch = batch._replace(reference=known)
    ours = ours_model(*batch) / len(records)
    ours.backward()
    theirs, ours = theirs.detach(), ours.detach()
    assert abs(float(theirs) - 0.6931) > 0.01, "it has something to tell apart"
    assert float(ours) == pytest.approx(float(theirs), abs=1e-5)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], atol=1e-5, rtol=1e-4)

    with torch.no_grad():
        measured = ours_model.measure([batch])
    logged = {name: sum(values) / len(values) for name, values in trainer._metrics["eval"].items()}
    assert measured["loss"] == pytest.approx(float(theirs), abs=1e-5)
    assert measured["accuracy"] == pytest.approx(logged["rewards/accuracies"], abs=1e-6)
    assert measured["reward-margin"] == pytest.approx(logged["rewards/margins"], abs=1e-5)


def test_an_idle_process_adds_nothing_to_a_dpo_loss(base: Path):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    places = [Record(r, "x", 1) for r in PREFERENCES]
    examples = [to_example(place, "preference") for place in places]
    pairs = store_pairs(encode_pairs(examples, places, tokenizer, 64), len(tokenizer))
    loss = DpoLossModel(model, "fp32", 0.1)(*collate_pairs([pairs[0].idle()], pad=tokenizer.pad_token_id))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("records", [PREFERENCES, CHAT_PREFERENCES], ids=["strings", "messages"])
def test_the_same_reward_loss_as_trl(base: Path, tmp_path: Path, records: list[dict]):
    """Loss and gradients."""
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1, pad_token_id=tokenizer.pad_token_id
    )
    disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = RewardTrainer(
            model,
            args=RewardConfig(
                str(tmp_path), per_device_train_batch_size=len(records), max_length=64, use_cpu=True,
                report_to="none", bf16=False, gradient_checkpointing=False,
            ),
            train_dataset=Dataset.from_list(records),
            processing_class=tokenizer,
        )  # fmt: skip
        [theirs_batch] = list(trainer.get_train_dataloader())
        theirs = trainer.compute_loss(trainer.model, theirs_batch)
        theirs.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()

    batch = our_pairs(records, tokenizer, whole=True)
    ours_model = RewardLossModel(model, "fp32").eval()
    ours = ours_model(*batch) / len(records)
    ours.backward()
    theirs, ours = theirs.detach(), ours.detach()
    assert abs(float(theirs) - 0.6931) > 1e-3, "it has something to tell apart"
    assert float(ours) == pytest.approx(float(theirs), abs=1e-5)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        measured = ours_model.measure([batch])
    logged = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    assert measured["loss"] == pytest.approx(float(theirs), abs=1e-5)
    assert measured["accuracy"] == pytest.approx(logged["accuracy"], abs=1e-6)
    assert measured["reward-margin"] == pytest.approx(logged["margin"], abs=1e-5)


@pytest.mark.parametrize("plain_head", [True, False])
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_the_same_grpo_loss_as_trl(base: Path, tmp_path: Path, beta: float, plain_head: bool):
    """Of the same answers and the same old and reference probabilities, ratios beyond the clip among them."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    numbers = np.random.default_rng(0)
    prompts = [tokenizer(text)["input_ids"] for text in ("the cat", "one dog is on the big red", "a")]
    answers = [numbers.integers(3, len(tokenizer), size=n) for n in (5, 2, 7)]
    rollouts = [
        weighed(Rollout(np.array(p), a, 0.0, *_near(model, p, a, numbers)), np.full(len(a), advantage))
        for p, a, advantage in zip(prompts, answers, (1.0, -0.7, 0.3), strict=True)
    ]
    settings = Grpo(beta=beta, clip_range=0.2)
    ours = GrpoModel(model, "fp32", settings, temperature=0.9)
    ours._plain_head = ours._plain_head and plain_head
    batch = collate_rollouts(rollouts, pad=tokenizer.pad_token_id)
    with torch.no_grad():
        found = float(ours(*batch)) / sum(len(a) for a in answers)
    assert found == pytest.approx(_trl_grpo(model, tokenizer, rollouts, settings, tmp_path), abs=1e-5)


def _near(model, prompt: list[int], answer: np.ndarray, numbers: np.random.Generator) -> tuple:
    """Log-probabilities of the answer a little off the model's own: as by an older and by another model."""
    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        likely = (model(input_ids=ids).logits[0] / 0.9).log_softmax(-1)
    own = likely[len(prompt) - 1 : -1].gather(-1, torch.tensor(answer)[:, None]).squeeze(-1).numpy()
    return tuple((own + numbers.normal(0, 0.3, len(own))).astype(np.float32) for _ in range(2))


def _trl_grpo(model, tokenizer, rollouts: list[Rollout], settings: Grpo, folder: Path) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = GRPOTrainer(
            model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=GRPOConfig(
                str(folder), per_device_train_batch_size=4, num_generations=2, use_cpu=True, bf16=False,
                report_to="none", beta=settings.beta, epsilon=settings.clip_range, temperature=0.9,
                loss_type="dapo",
            ),
            train_dataset=Dataset.from_list([{"prompt": "the"}] * 4),
            processing_class=tokenizer,
        )  # fmt: skip

    def padded(parts, value, side):
        width = max(map(len, parts))
        return torch.tensor(
            [
                [value] * (width - len(p)) + list(p)
                if side == "left"
                else list(p) + [value] * (width - len(p))
                for p in parts
            ]
        )

    prompts, answers = [r.prompt.tolist() for r in rollouts], [r.answer.tolist() for r in rollouts]
    model.eval()
    with torch.no_grad():
        return float(
            trainer._compute_loss(
                model,
                {
                    "prompt_ids": padded(prompts, tokenizer.pad_token_id, "left"),
                    "prompt_mask": padded([[1] * len(p) for p in prompts], 0, "left"),
                    "completion_ids": padded(answers, tokenizer.pad_token_id, "right"),
                    "completion_mask": padded([[1] * len(a) for a in answers], 0, "right"),
                    "advantages": torch.tensor([float(r.advantages[0]) for r in rollouts]),
                    "old_per_token_logps": padded([r.old.tolist() for r in rollouts], 0.0, "right"),
                    "ref_per_token_logps": padded([r.reference.tolist() for r in rollouts], 0.0, "right"),
                    "num_items_in_batch": torch.tensor(float(sum(map(len, answers)))),
                },
            )
        )
