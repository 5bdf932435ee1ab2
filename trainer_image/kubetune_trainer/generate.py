"""Answers, many at a time, with a key-value cache."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from kubetune.api.data import Evaluation
from kubetune_trainer.data.encode import chat as by_template
from kubetune_trainer.data.encode import prompt_tokens
from kubetune_trainer.data.formats import Conversation, Message
from kubetune_trainer.data.thoughts import Thoughts
from kubetune_trainer.errors import DataError, InvalidSpec
from kubetune_trainer.loss import LossModel
from kubetune_trainer.model.counting import context_of, end_tokens
from kubetune_trainer.model.generating import way_of
from kubetune_trainer.model.probing import evaluating
from kubetune_trainer.rewards import Said
from kubetune_trainer.signals import Stop

BATCH = 64


class StopCheck(StoppingCriteria):
    """Ends the run between two tokens when it was asked to stop."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """False for each row, [rows]: it never ends an answer."""
        self._stop.check()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[str, bool]],
    limit: int,
    stop: Stop,
) -> list[Said]:
    """The most likely continuation of each prompt, token by token, up to the end token.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        prompts: text, and whether the tokenizer adds its special tokens. A prompt that leaves no room for the
            answer loses its beginning.
        limit: most tokens of an answer.
        stop: looked at after each token.
    """
    context = context_of(model) or 1 << 30
    limit = min(limit, context - 1)
    tokens = [prompt_tokens(text, special, tokenizer)[-(context - limit) :] for text, special in prompts]
    greedy = GenerationConfig(max_new_tokens=limit, do_sample=False)
    return told(tokenizer, tokens, continuations(model, tokenizer, tokens, greedy, stop))


def told(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[Said]:
    """Answers as text.

    Args:
        tokenizer: of the model.
        prompts: tokens of each.
        answers: tokens of the answer to each.
    """
    thoughts = Thoughts(tokenizer)
    return [
        Said(text, thoughts.answer(prompt, tokens))
        for prompt, text, tokens in zip(prompts, written(answers, tokenizer), answers, strict=True)
    ]


def written(said: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Answers as text, as an engine writes it: without the clean-up of some tokenizers ("a ." to "a.")."""
    texts: list[str] = tokenizer.batch_decode(
        said, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return texts


def continuations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    stop: Stop | None,
) -> list[list[int]]:
    """What follows each prompt, up to and with the first end token.

    Args:
        model: the model.
        tokenizer: names the tokens that pad and end.
        prompts: tokens of each; prompts of like lengths are answered together.
        config: how to generate; pad and end tokens are filled in. The base's own generation settings are
            ignored, because they are made for chatting and would change the answers.
        stop: looked at after each token.

    Raises:
        Terminated: asked to stop.
    """
    ends = end_tokens(model, tokenizer)
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, ends
    usual, model.generation_config = model.generation_config, GenerationConfig(eos_token_id=ends)
    try:
        way = way_of(model, config.pad_token_id)
        config.use_cache = way.cached
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        groups = [order]
        if not way.padded:
            groups = [[*same] for _, same in groupby(order, key=lambda i: len(prompts[i]))]
        found: list[list[int]] = [[] for _ in prompts]
        for group in groups:
            said = _continued(model, [prompts[i] for i in group], config, stop)
            for i, tokens in zip(group, said, strict=True):
                found[i] = tokens
        return found
    finally:
        model.generation_config = usual


def _continued(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], config: GenerationConfig, stop: Stop | None
) -> list[list[int]]:
    ends: list[int] = config.eos_token_id
    found: list[list[int]] = []
    with evaluating(model):
        for start in range(0, len(prompts), BATCH):
            batch = prompts[start : start + BATCH]
            width = max(map(len, batch))
            ids = torch.full((len(batch), width), config.pad_token_id)
            mask = torch.zeros_like(ids)
            for row, prompt in enumerate(batch):
                ids[row, width - len(prompt) :] = torch.tensor(prompt)
                mask[row, width - len(prompt) :] = 1
            if stop:
                stop.check()
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=config,
                stopping_criteria=[StopCheck(stop)] if stop else [],
            )
            for said in output[:, width:].tolist():
                end = next((n for n, token in enumerate(said, 1) if token in ends), len(said))
                found.append(said[:end])
    return found


def sample_answers(
    model: LossModel, tokenizer: PreTrainedTokenizerBase, wanted: Evaluation, stop: Stop, *, chat: bool
) -> list[str]:
    """Answers to the sample prompts; with `chat`, each prompt is a message for the chat template."""
    prompts = [prompt_of(p, tokenizer, chat=chat) for p in wanted.sample_prompts]
    with model.autocast():
        said = answers(model.model, tokenizer, prompts, wanted.max_new_tokens, stop) if prompts else []
    return [one.text.strip() for one in said]


def prompt_of(text: str, tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> tuple[str, bool]:
    """A prompt, and whether the tokenizer adds its special tokens; with `chat`, the text is a user's message.

    Raises:
        InvalidSpec: the chat template refuses it.
    """
    if not chat:
        return text, True
    try:
        return by_template(Conversation((Message("user", text),)), 1, tokenizer, answer=True), False
    except DataError as error:
        raise InvalidSpec(f"evaluation.samplePrompts: {error}: remove them") from error
