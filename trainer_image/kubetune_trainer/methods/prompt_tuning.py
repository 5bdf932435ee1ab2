"""Virtual tokens before every sequence, the base frozen (Lester et al. 2021, "The Power of Scale for
Parameter-Efficient Prompt Tuning"). The result is a peft adapter of type PROMPT_TUNING.

The base itself inserts them, and removes their states: whatever calls it gets the states of its own tokens.
So losses and generation need not know.
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PromptTuningConfig
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kubetune.api.finetunejob import PromptTuning
from kubetune.api.runspec import ArtifactFormat, RunAdapter, RunSpec
from kubetune_trainer.data import tokenizer as tokenizers
from kubetune_trainer.errors import BaseModelMismatch, InvalidSpec
from kubetune_trainer.methods import former
from kubetune_trainer.methods.lora import base_options
from kubetune_trainer.model.counting import PREFIX, context_of
from kubetune_trainer.model.heads import CAUSAL_LM, Head

__all__ = ["FORMER", "SoftPrompt", "apply", "base_options", "export"]

FORMER: ArtifactFormat = "prompt"
NAME = "prompt_embeddings"
"""Name of the virtual tokens in peft's files."""
COMMON = 5_000
"""New virtual tokens start as some of this many tokens, the most common ones: better than random numbers
(ibid., section 3.2 and figure 3b). Vocabularies list common tokens first."""
_NEEDED = {"input_ids", "inputs_embeds", "past_key_values"}


class SoftPrompt(nn.Module):
    """Virtual tokens, and the hooks that put them before the tokens of each row, or of each document that is
    packed into it."""

    def __init__(self, rows: torch.Tensor) -> None:
        """Args:
        rows: the first embeddings, [virtual tokens, width].
        """
        super().__init__()
        self.rows = nn.Parameter(rows.detach().to(torch.float32).clone())

    def __len__(self) -> int:
        """Number of virtual tokens."""
        return len(self.rows)

    def stand_before(self, model: PreTrainedModel) -> None:
        """Become part of a model, and put the virtual tokens before its inputs."""
        model.add_module(PREFIX, self)
        body, count = model.base_model, len(self)
        names = [*inspect.signature(body.forward).parameters]

        def put_before(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            call = dict(zip(names, args, strict=False)) | kwargs
            mask, positions = call.get("attention_mask"), call.get("position_ids")
            if mask is not None:
                call["attention_mask"] = torch.cat([mask.new_ones(len(mask), count), mask], 1)
            if positions is not None:
                call["position_ids"] = positions + count
            cache = call.get("past_key_values")
            if cache is None or cache.get_seq_length() == 0:  # else they are in the cache
                embedded = body.get_input_embeddings()(call["input_ids"])
                spread = _spreader(_starts(call["input_ids"], mask, positions), count)
                prompt = self.rows.to(embedded.dtype)
                call |= {"input_ids": None, "inputs_embeds": spread(embedded, prompt)}
                if positions is not None:
                    own = torch.arange(count, device=positions.device)
                    call["position_ids"] = spread(call["position_ids"], own)
            return (), call

        def take_away(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
            if kwargs.get("inputs_embeds") is None:
                return output
            mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")

            def of_tokens(states: torch.Tensor) -> torch.Tensor:
                if mask is not None or positions is None:
                    return states[:, count:]
                return states[positions >= count].view(len(states), -1, states.shape[-1])

            output.last_hidden_state = of_tokens(output.last_hidden_state)
            if output.hidden_states is not None:
                output.hidden_states = tuple(map(of_tokens, output.hidden_states))
            return output

        body.register_forward_pre_hook(put_before, with_kwargs=True)
        body.register_forward_hook(take_away, with_kwargs=True)


def _starts(tokens: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor | None) -> torch.Tensor:
    """The tokens before which the virtual ones are put, [rows, width]: the first of each row, or, if
    positions alone separate documents, the first of each document."""
    if mask is None and positions is not None:
        return positions == 0
    starts = torch.zeros_like(tokens, dtype=torch.bool)
    starts[:, 0] = True
    return starts


def _spreader(starts: torch.Tensor, count: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A function that puts values of virtual tokens, [count, ...], before each start among the values of the
    tokens, [rows, width, ...]. Rows with fewer starts than others are padded with zeros at their end."""
    device = starts.device
    tokens = torch.arange(starts.shape[1], device=device) + count * starts.cumsum(1)
    every = torch.arange(len(starts), device=device)[:, None]
    rows, columns = starts.nonzero(as_tuple=True)
    virtual = tokens[rows, columns][:, None] + torch.arange(-count, 0, device=device)
    width = starts.shape[1] + count * int(starts.sum(1).max())

    def spread(values: torch.Tensor, ahead: torch.Tensor) -> torch.Tensor:
        room = values.new_zeros(len(values), width, *values.shape[2:])
        room[every, tokens] = values
        room[rows[:, None], virtual] = ahead
        return room

    return spread


def apply(model: PreTrainedModel, spec: RunSpec, head: Head, fresh: Sequence[str]) -> PreTrainedModel:
    """Freeze the base and put fp32 virtual tokens before it: the former ones, or the embeddings of a text, or
    of random common tokens.

    Raises:
        InvalidSpec: the model takes no embeddings in place of tokens; the virtual tokens and a sequence
            exceed its context; or see `former`.
        BaseModelMismatch: the former virtual tokens are those of another base.
    """
    length = spec.data.sequence_length
    body = model.base_model
    if body is model or not set(inspect.signature(body.forward).parameters) >= _NEEDED:
        raise InvalidSpec(
            f"a {model.config.model_type} model takes no virtual tokens: choose method lora or full"
        )
    rows = _former(spec.adapter, model) if spec.adapter else _new(spec, model)
    context = context_of(model)
    if context is not None and length + len(rows) > context:
        raise InvalidSpec(
            f"data.sequenceLength {length} and {len(rows)} virtual tokens exceed the model's context of "
            f"{context}: lower one of them"
        )
    model.requires_grad_(False)
    SoftPrompt(rows.to(model.device)).stand_before(model)
    return model


def _former(adapter: RunAdapter, model: PreTrainedModel) -> torch.Tensor:
    former.check_type(adapter, FORMER)
    rows = former.weights_of(adapter).get(NAME)
    width = model.get_input_embeddings().weight.shape[1]
    if rows is None or rows.ndim != 2 or not len(rows) or rows.shape[1] != width:
        raise BaseModelMismatch(
            f"adapter {adapter.uri} holds no virtual tokens of width {width}: name one of this base"
        )
    return rows


def _new(spec: RunSpec, model: PreTrainedModel) -> torch.Tensor:
    assert spec.model.path is not None, "a base comes with its tokenizer"
    tokenizer = tokenizers.load(Path(spec.model.path), speaks=False)
    tokens = _first_tokens(tokenizer, spec.prompt_tuning or PromptTuning(), spec.training.seed)
    rows: torch.Tensor = model.get_input_embeddings()(tokens.to(model.device))
    return rows


def _first_tokens(tokenizer: PreTrainedTokenizerBase, wanted: PromptTuning, seed: int) -> torch.Tensor:
    """The tokens whose embeddings the virtual ones start from: those of a text, repeated or cut to the number
    as in peft, else random common ones.

    Raises:
        InvalidSpec: the text has no tokens.
    """
    if wanted.init_text:
        found = list(tokenizer(wanted.init_text)["input_ids"])
        if not found:
            raise InvalidSpec("promptTuning.initText holds no tokens: change or remove it")
    else:
        special = set(tokenizer.all_special_ids)
        common = [t for t in range(min(COMMON, len(tokenizer))) if t not in special]
        order = torch.randperm(len(common), generator=torch.Generator().manual_seed(seed))
        found = [common[i] for i in order]
    times = -(-wanted.virtual_tokens // len(found))
    return torch.tensor((found * times)[: wanted.virtual_tokens])


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, Any]:
    """Write the virtual tokens and a config without paths; and our chat template, if the base has none."""
    tokenizers.save_template(tokenizer, folder)
    rows = model.get_submodule(PREFIX).rows.detach()
    count, width = rows.shape
    shape = model.config.get_text_config()
    PromptTuningConfig(
        task_type=CAUSAL_LM.task,
        base_model_name_or_path="base",
        inference_mode=True,
        num_virtual_tokens=count,
        token_dim=width,
        num_transformer_submodules=1,
        num_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
    ).save_pretrained(folder)
    save_file({NAME: rows.cpu().contiguous()}, folder / former.WEIGHTS, metadata={"format": "pt"})
    return {}
