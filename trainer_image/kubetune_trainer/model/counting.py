"""Counts of a model: parameters, virtual tokens, context; and its end tokens."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

PREFIX = "soft_prompt"
"""Name of the part of a model that holds its virtual tokens, if it has any."""

CONTEXTS = ("max_position_embeddings", "max_target_positions")
"""What configs call the number of positions."""


def size(model: torch.nn.Module, *, trainable: bool = False) -> int:
    """Number of parameters of a model; those in 4 bits count as unpacked."""
    chosen = (p for p in model.parameters() if p.requires_grad or not trainable)
    return sum(p.quant_state.shape.numel() if hasattr(p, "quant_state") else p.numel() for p in chosen)


def virtual_tokens(model: torch.nn.Module) -> int:
    """Number of virtual tokens before each row."""
    return len(getattr(model, PREFIX, ()))


def context_of(model: PreTrainedModel) -> int | None:
    """Most tokens of a sequence by the model's positions, less its virtual ones; None: no limit."""
    config = model.config
    for part in (config, config.get_text_config(decoder=True)):
        for name in CONTEXTS:
            positions = getattr(part, name, None)
            if type(positions) is int and positions > 0:  # some say -1 for no limit
                return positions - virtual_tokens(model)
    return None


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens that end an answer: the tokenizer's, and those in the model's generation config (chat
    models often end a turn and a document differently)."""
    named = model.generation_config.eos_token_id if model.generation_config else None
    others = named if isinstance(named, list) else [] if named is None else [named]
    return sorted({tokenizer.eos_token_id, *others})
