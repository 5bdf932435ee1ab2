"""Greedy answers, many at a time, with a key-value cache."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from kubetune.api.data import Evaluation
from kubetune_trainer.loss import LossModel
from kubetune_trainer.model import context_of, end_tokens, evaluating
from kubetune_trainer.signals import Stop

BATCH = 64


class _StopCheck(StoppingCriteria):
    """Ends the run between two tokens when it was asked to stop."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Never done by itself."""
        self._stop.check()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[str, bool]],
    limit: int,
    stop: Stop,
) -> list[str]:
    """The most likely continuation of each prompt, token by token, up to the end token.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        prompts: text, and whether the tokenizer adds its special tokens. A prompt that leaves no room for the
        answer
            loses its beginning.
        limit: tokens of an answer at most.
        stop: looked at after each token.
    """
    context = context_of(model) or 1 << 30
    limit = min(limit, context - 1)
    tokens = [list(tokenizer(text, add_special_tokens=special)["input_ids"]) for text, special in prompts]
    tokens = [(t or [tokenizer.eos_token_id])[-(context - limit) :] for t in tokens]
    config = GenerationConfig(
        max_new_tokens=limit,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end_tokens(model, tokenizer),
    )
    found = [""] * len(tokens)
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    with evaluating(model):
        for start in range(0, len(order), BATCH):
            stop.check()
            batch = order[start : start + BATCH]
            width = max(len(tokens[i]) for i in batch)
            ids = torch.full((len(batch), width), tokenizer.pad_token_id)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(batch):
                ids[row, width - len(tokens[i]) :] = torch.tensor(tokens[i])
                mask[row, width - len(tokens[i]) :] = 1
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=config,
                stopping_criteria=[_StopCheck(stop)],
            )
            for i, text in zip(
                batch, tokenizer.batch_decode(output[:, width:], skip_special_tokens=True), strict=True
            ):
                found[i] = text.strip()
    return found


def sample_answers(
    model: LossModel, tokenizer: PreTrainedTokenizerBase, wanted: Evaluation, stop: Stop, *, chat: bool
) -> list[str]:
    """Answers to the sample prompts, which are messages for the chat template or as they are."""
    prompts = [prompt_of(p, tokenizer, chat=chat) for p in wanted.sample_prompts]
    with model.autocast():
        return answers(model.model, tokenizer, prompts, wanted.max_new_tokens, stop) if prompts else []


def prompt_of(text: str, tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> tuple[str, bool]:
    """A user's words as a prompt: a user message by the chat template, or as they are."""
    if not chat:
        return text, True
    turns = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)), False
