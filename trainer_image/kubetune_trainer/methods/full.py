"""Trains every weight, after a former adapter is merged. The result is a model in the Hugging Face layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from kubetune.api.runspec import ArtifactFormat, RunSpec
from kubetune_trainer.data import tokenizer as tokenizers
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.methods import lora
from kubetune_trainer.model.counting import end_tokens
from kubetune_trainer.model.heads import Head
from kubetune_trainer.model_files import CONFIG
from kubetune_trainer.reading import reading
from kubetune_trainer.runtime import Precision

FORMER: ArtifactFormat = "lora"


def base_options(spec: RunSpec, precision: Precision, device: torch.device) -> dict[str, Any]:
    """fp32: autocast lowers the precision of the computation, not of the weights."""
    return {"dtype": torch.float32}


def apply(model: PreTrainedModel, spec: RunSpec, head: Head, fresh: Sequence[str]) -> PreTrainedModel:
    """Merge the former adapter, if there is one, and make every parameter trainable.

    Raises:
        InvalidSpec, BaseModelMismatch: the former adapter cannot be merged into the base.
    """
    if spec.adapter:
        adapted = lora.apply(model, spec, head, fresh)
        if name := lora.shared_target(adapted):
            raise InvalidSpec(
                f"adapter {spec.adapter.uri} changes {name}, which is both embeddings and output head of "
                "this base, so that merging it would change both: choose method lora"
            )
        with reading(f"adapter {spec.adapter.uri}", "choose method lora, or name another adapter"):
            model = adapted.merge_and_unload(safe_merge=True)
    return model.requires_grad_(True)


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, Any]:
    """Write weights, config, tokenizer and, for a language model, generation config.

    Raises:
        InvalidSpec: transformers did not save one whole model.
    """
    if model.can_generate():
        ends = end_tokens(model, tokenizer)
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=ends if len(ends) > 1 else ends[0],
            pad_token_id=tokenizer.pad_token_id,
        )
    model.save_pretrained(folder)
    tokenizers.save(tokenizer, folder)
    if not (folder / CONFIG).is_file() or not any(folder.glob("*.safetensors")):
        raise InvalidSpec(
            f"a {model.config.model_type} model with what was put into it is not saved as one whole model: "
            "name a base without adapters, or choose method lora"
        )
    return {}
