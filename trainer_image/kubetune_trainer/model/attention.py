"""Attention for short sequences on CPUs that compute in bf16: two batched matrix products around a softmax.

torch's fused CPU kernel is made for long sequences and loses to oneDNN's bf16 products on short ones: 3 heads
of 64 and 4,096 tokens in rows of 128 took it 19 ms forward and backward where this takes 7 (2 cores of a Zen
5).
"""

from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

NAME = "kubetune_short"
LONGEST = 1024
"""Tokens in a row up to which all attention weights are held at once."""


def use_where_faster(model: PreTrainedModel, length: int) -> None:
    """Switch a model that uses torch's attention over to this one, if it is on a CPU and rows are short."""
    if model.device.type == "cpu" and length <= LONGEST and model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, short_attention)
        AttentionMaskInterface.register(NAME, eager_mask)
        model.set_attn_implementation(NAME)


def short_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query [rows, heads, tokens, width], key and value likewise with
    fewer heads perhaps, an additive mask; returns [rows, tokens, heads, width]."""
    narrow = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    if narrow is not torch.bfloat16 or attention_mask is None or query.shape[2] == 1:
        if attention_mask is not None:
            attention_mask = _narrowed(attention_mask, narrow)
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
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
    """The mask in another type. The lowest fp32 number would become -inf in bf16, and the softmax of a row
    that is masked altogether (padding on the left) not a number."""
    return mask.to(dtype).clamp_(min=torch.finfo(dtype).min) if mask.dtype != dtype else mask
