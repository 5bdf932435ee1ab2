"""Virtual tokens before every sequence, the base frozen (Lester et al. 2021, "The Power of Scale for
Parameter-Efficient Prompt Tuning"). The result is a peft adapter of type PROMPT_TUNING.

The base itself is made to see them: whatever calls it with tokens gets the states of these tokens, as if
nothing had been put before them. So losses and generation need not know.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PromptTuningConfig
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kubetune.api.finetunejob import PromptTuning
from kubetune.api.runspec import RunSpec
from kubetune_trainer.data import tokenizer as tokenizers
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.heads import CAUSAL_LM, Head
from kubetune_trainer.methods.former import WEIGHTS
from kubetune_trainer.methods.lora import base_options
from kubetune_trainer.model import PREFIX, context_of

__all__ = ["SoftPrompt", "apply", "base_options", "export"]

COMMON = 5_000
"""New virtual tokens begin as some of this many tokens, the most common ones of the vocabulary: better than
random numbers (ibid., section 3.2 and figure 3b). Vocabularies list what is common first."""
_NEEDED = {"input_ids", "inputs_embeds", "past_key_values"}


class SoftPrompt(nn.Module):
    """Virtual tokens, and how a transformer is made to see them before the tokens of each row."""

    def __init__(self, rows: torch.Tensor) -> None:
        """Args:
        rows: the first embeddings, [virtual tokens, width].
        """
        super().__init__()
        self.rows = nn.Parameter(rows.detach().to(torch.float32).clone())

    def __len__(self) -> int:
        """Virtual tokens."""
        return len(self.rows)

    def stand_before(self, model: PreTrainedModel) -> None:
        """Become part of a model."""
        model.add_module(PREFIX, self)
        body = model.base_model
        names = [*inspect.signature(body.forward).parameters]

        def put_before(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            call = dict(zip(names, args, strict=False)) | kwargs
            mask, positions = call.get("attention_mask"), call.get("position_ids")
            if mask is not None:
                call["attention_mask"] = torch.cat([mask.new_ones(len(mask), len(self)), mask], 1)
            if positions is not None:
                call["position_ids"] = positions + len(self)
            cache = call.get("past_key_values")
            if cache is None or cache.get_seq_length() == 0:  # else they are in the cache
                embedded = body.get_input_embeddings()(call["input_ids"])
                prompt = self.rows.to(embedded.dtype).expand(len(embedded), -1, -1)
                call |= {"input_ids": None, "inputs_embeds": torch.cat([prompt, embedded], 1)}
                if positions is not None:
                    own = torch.arange(len(self), device=positions.device).expand(len(positions), -1)
                    call["position_ids"] = torch.cat([own, call["position_ids"]], 1)
            return (), call

        def take_away(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
            if kwargs.get("inputs_embeds") is not None:
                output.last_hidden_state = output.last_hidden_state[:, len(self) :]
            return output

        body.register_forward_pre_hook(put_before, with_kwargs=True)
        body.register_forward_hook(take_away, with_kwargs=True)


def apply(model: PreTrainedModel, spec: RunSpec, head: Head, fresh: Sequence[str]) -> PreTrainedModel:
    """Freeze the base and put virtual tokens in fp32 before it: the embeddings of a text, or of random common
    tokens.

    Raises:
        InvalidSpec: the model takes no embeddings in place of tokens; the virtual tokens and a sequence
            exceed its context.
    """
    wanted, length = spec.prompt_tuning or PromptTuning(), spec.data.sequence_length
    body = model.base_model
    if body is model or not set(inspect.signature(body.forward).parameters) >= _NEEDED:
        raise InvalidSpec(
            f"a {model.config.model_type} model takes no virtual tokens: choose method lora or full"
        )
    context = context_of(model)
    if context is not None and length + wanted.virtual_tokens > context:
        raise InvalidSpec(
            f"data.sequenceLength {length} and {wanted.virtual_tokens} virtual tokens exceed the model's "
            f"context of {context}: lower one of them"
        )
    assert spec.model.path is not None, "a base comes with its tokenizer"
    tokens = _first_tokens(tokenizers.load(Path(spec.model.path)), wanted, spec.training.seed)
    model.requires_grad_(False)
    SoftPrompt(model.get_input_embeddings()(tokens.to(model.device))).stand_before(model)
    return model


def _first_tokens(tokenizer: PreTrainedTokenizerBase, wanted: PromptTuning, seed: int) -> torch.Tensor:
    """The tokens as whose embeddings the virtual ones begin: a text's, repeated or cut to their number as by
    peft, else random ones.

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
    """The virtual tokens and a config that names no path."""
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
    save_file({"prompt_embeddings": rows.cpu().contiguous()}, folder / WEIGHTS, metadata={"format": "pt"})
    return {}
