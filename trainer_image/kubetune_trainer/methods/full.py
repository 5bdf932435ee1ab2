"""Every weight is trained. The result is a model in the Hugging Face layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from kubetune.api.runspec import RunSpec
from kubetune_trainer.heads import Head
from kubetune_trainer.model import end_tokens
from kubetune_trainer.runtime import Precision


def base_options(spec: RunSpec, precision: Precision, device: torch.device) -> dict[str, Any]:
    """fp32: autocast narrows what is computed, not what is kept."""
    return {"dtype": torch.float32}


def apply(model: PreTrainedModel, spec: RunSpec, head: Head, fresh: Sequence[str]) -> PreTrainedModel:
    """Every parameter is trainable."""
    return model.requires_grad_(True)


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, Any]:
    """Weights, config, tokenizer and, of a language model, generation config."""
    if model.can_generate():
        ends = end_tokens(model, tokenizer)
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=ends if len(ends) > 1 else ends[0],
            pad_token_id=tokenizer.pad_token_id,
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {}
