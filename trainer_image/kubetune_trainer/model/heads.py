"""Heads: the part of a model that turns the states of its transformer into answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)


@dataclass(frozen=True)
class Head:
    """One kind of head."""

    auto: Any
    """transformers' class that makes and loads such models."""
    types: Mapping[str, str]
    """model_type -> class, of all architectures that have it."""
    what: str
    """Its name in messages."""
    task: str
    """peft's name of it."""
    fresh: bool = False
    """Whether a base may lack it; then it is initialised anew."""


CAUSAL_LM = Head(
    AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "causal language model", "CAUSAL_LM"
)
MASKED_LM = Head(
    AutoModelForMaskedLM, MODEL_FOR_MASKED_LM_MAPPING_NAMES, "masked language model", "FEATURE_EXTRACTION"
)
CLASSIFIER = Head(
    AutoModelForSequenceClassification,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "sequence classifier",
    "SEQ_CLS",
    fresh=True,
)
