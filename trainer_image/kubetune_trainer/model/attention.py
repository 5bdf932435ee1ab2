"""Chooses a model's implementation of attention: a fast one among those that honour its config.

transformers passes to an implementation what a model's layers need (a cap on the scores, weights of attention
sinks, chosen keys), and an implementation ignores what it does not know. So a few tokens are run through the
model to see what its layers pass.

On CPUs that compute in bf16, short sequences have an implementation of their own: two batched matrix
products around a softmax. torch's fused CPU kernel is made for long sequences, and oneDNN's bf16 products
beat it on short ones: for 3 heads of 64 and 4,096 tokens in rows of 128, it took 19 ms forward and backward,
and this 7 ms (2 cores of a Zen 5).
"""

import inspect
import sys
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

from kubetune.api.warnings import WarningReason
from kubetune_trainer.model.probing import ended, evaluating
from kubetune_trainer.warned import warn

NAME = "kubetune_short"
LONGEST = 1024
"""Tokens in a row up to which all attention weights are held at once."""
_WATCHED = "kubetune_watched"
_SDPA = {*inspect.signature(sdpa_attention_forward).parameters} - {"kwargs"}
_IN_THE_MASK = {"sliding_window", "position_ids"}
"""Arguments that the attention mask already accounts for."""
_NO_MATTER = {
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "deterministic",
}


def choose(model: PreTrainedModel, length: int) -> str:
    """Set a model's implementation of attention. Returns its name: sdpa for our own, too.

    Args:
        model: as transformers made it.
        length: of the longest row.
    """
    if model.config._attn_implementation == "sdpa":
        handed, known = _handed_over(model)
        ignored = (handed & known) - _SDPA - _IN_THE_MASK
        if ignored:
            model.set_attn_implementation("eager")
            warn(
                WarningReason.SLOWER_ATTENTION,
                f"the attention of this {model.config.model_type} model needs {', '.join(sorted(ignored))}, "
                "which torch's fused attention ignores. So it is computed step by step (eager), which takes "
                "more memory and time for long sequences",
            )
        elif (
            model.device.type == "cpu"
            and length <= LONGEST
            and handed
            and handed <= _SDPA | _IN_THE_MASK | _NO_MATTER
        ):
            AttentionInterface.register(NAME, short_attention)
            AttentionMaskInterface.register(NAME, eager_mask)
            model.set_attn_implementation(NAME)
    name: str = model.config._attn_implementation
    return "sdpa" if name == NAME else name


def _handed_over(model: PreTrainedModel) -> tuple[set[str], set[str]]:
    """Names of the arguments that a model's layers pass to an implementation, and of those that the model's
    own (eager) knows. Both are empty if the model does not look up an implementation by name."""
    handed: set[str] = set()
    known: set[str] = set()

    def watch(module: torch.nn.Module, *states: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        known.update(inspect.signature(own).parameters if own else ())
        handed.update(name for name, value in kwargs.items() if value is not None)
        handed.add("query")
        return sdpa_attention_forward(module, *states, **kwargs)

    AttentionInterface.register(_WATCHED, watch)
    AttentionMaskInterface.register(_WATCHED, eager_mask)
    parts = [m for m in model.modules() if isinstance(m, PreTrainedModel)]
    before = [part.config._attn_implementation for part in parts]
    model.set_attn_implementation(_WATCHED)
    no_cache = {"use_cache": False} if getattr(model.config, "use_cache", False) else {}
    try:
        with evaluating(model):
            row = ended(model, [3, 4, 5, 6])
            model(input_ids=torch.tensor([row], device=model.device), **no_cache)
    finally:
        for part, name in zip(parts, before, strict=True):
            part.config._attn_implementation = name
    return handed, known


def short_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query [rows, heads, tokens, width], key and value the same, perhaps
    with fewer heads, and an additive mask; returns [rows, tokens, heads, width]."""
    narrow = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    if (
        narrow is not torch.bfloat16
        or attention_mask is None
        or position_bias is not None
        or query.shape[2] == 1
    ):
        if attention_mask is not None:
            attention_mask = _narrowed(attention_mask, narrow)
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
            position_bias=position_bias, **kwargs,
        )  # fmt: skip
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    groups = query.shape[1] // key.shape[1]
    with torch.autocast("cpu", enabled=False):
        query, key, value = (query * scaling).to(narrow), key.to(narrow), value.to(narrow)
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = query.contiguous() @ key.contiguous().transpose(-1, -2)
        weights = functional.softmax(scores + _narrowed(attention_mask, narrow), -1)
        weights = functional.dropout(weights, dropout, module.training)
        return (weights @ value.contiguous()).transpose(1, 2), None


def _narrowed(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask in another dtype. In bf16 the lowest fp32 number would become -inf, and the softmax of a row
    that is masked entirely (padding on the left) NaN."""
    return mask.to(dtype).clamp_(min=torch.finfo(dtype).min) if mask.dtype != dtype else mask
