"""Making a model from a config."""

import difflib
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kubetune_trainer import model_files
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.model import rescaling
from kubetune_trainer.model.checking import check_length, check_positions, unsupported
from kubetune_trainer.model.heads import CAUSAL_LM, MASKED_LM, Head
from kubetune_trainer.model.terms import check_experts
from kubetune_trainer.reading import cause, of_the_file


def create(
    config: dict[str, Any], tokenizer: PreTrainedTokenizerBase, length: int, head: Head = CAUSAL_LM
) -> PreTrainedModel:
    """A freshly initialised fp32 model.

    Args:
        config: fields of a transformers config, model_type among them.
        tokenizer: gives vocabulary size and special token ids.
        length: longest sequence that it must take.
        head: its head.

    Raises:
        InvalidSpec: an unknown model type or field, values that do not go together, too short a context.
    """
    fields = {k: v for k, v in config.items() if k != "model_type"}
    kind = str(config.get("model_type"))
    if kind not in head.types:
        raise InvalidSpec(
            f"model.config.model_type {kind!r} is not a {head.what} that transformers knows: "
            f"{unsupported(kind, head)}"
        )
    if part := CONFIG_MAPPING[kind].sub_configs.get("text_config"):
        raise InvalidSpec(
            f"model.config.model_type {kind!r} takes more than text, but the corpus is only text: "
            f"name its text part, {getattr(part, 'model_type', None) or 'a model of text alone'}"
        )
    usual = CONFIG_MAPPING[kind]().to_dict()
    there = set(usual) | set(CONFIG_MAPPING[kind].attribute_map)
    # JSON, and so Kubernetes, has 1 for 1.0, but transformers' configs insist on the type.
    fields = {n: float(v) if type(v) is int and type(usual.get(n)) is float else v for n, v in fields.items()}
    for field in set(fields) - there:
        near = difflib.get_close_matches(field, there, n=1)
        hint = f": did you mean {near[0]}?" if near else ": remove it"
        raise InvalidSpec(f"model.config has no field {field!r} for model_type {kind}{hint}")
    model_files.check_config(fields, "model.config")
    fields |= {
        "vocab_size": len(tokenizer),
        "bos_token_id": None if _takes_none(kind, "bos_token_id") else tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    try:
        made = AutoConfig.for_model(kind, **fields)
        model = head.auto.from_config(made, dtype=torch.float32)
    except Exception as error:  # transformers raises whatever the arithmetic of the layers runs into
        if not of_the_file(error):
            raise
        raise InvalidSpec(f"model.config makes no valid {kind} model: {cause(error)}") from error
    rescaling.prevent(model)
    if head is CAUSAL_LM:
        check_experts(model)
    remedy = "raise max_position_embeddings in model.config or lower data.sequenceLength"
    check_length(model, length, remedy)
    if head is MASKED_LM:
        check_positions(model, len(tokenizer) - 1, length, remedy)
    return model


def _takes_none(kind: str, field: str) -> bool:
    """Whether a field of a type's config may be null."""
    declared = CONFIG_MAPPING[kind].__dataclass_fields__.get(field)
    return declared is None or "None" in str(declared.type)
