"""How a model can generate what its forward pass says.

transformers pads prompts of different lengths on the left, and caches keys and values of earlier tokens. Some
architectures count positions from the padding, take no attention mask, or cache a state that does not fit the
next token. So a few tokens are generated, and compared with one forward pass over the whole row.
"""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import GenerationConfig, PreTrainedModel

from kubetune.api.warnings import WarningReason
from kubetune_trainer.log import say
from kubetune_trainer.model.probing import ROUNDING, difference, probing, row_without
from kubetune_trainer.reading import of_the_file
from kubetune_trainer.warned import warn

TOLERANCE = {ROUNDING[torch.float32]: 5e-5, ROUNDING[torch.bfloat16]: 0.1}
"""How far logits may be off, for each of the roundings that `probing` allows. More is allowed here, because
more sums are in another order, and in bfloat16 some tokens go to other experts. Wrong logits are off by at
least 3e-3 with random weights in fp32."""


@dataclass(frozen=True)
class Way:
    """One way to answer."""

    padded: bool
    """Prompts of several lengths together, padded on the left."""
    cached: bool
    """With keys and values, or states, of the tokens before."""


WAYS = (Way(padded=True, cached=True), Way(padded=False, cached=True), Way(padded=False, cached=False))
"""The fastest first."""
_TOKENS = 3
"""Number of tokens generated for the comparison."""
_found: WeakKeyDictionary[PreTrainedModel, Way] = WeakKeyDictionary()


def way_of(model: PreTrainedModel, pad: int) -> Way:
    """The fastest way in which a model generates what its forward pass says; it is found once.

    Args:
        model: a causal language model.
        pad: id of the padding token.
    """
    if model not in _found:
        _found[model] = _look(model, pad)
    return _found[model]


def _look(model: PreTrainedModel, pad: int) -> Way:
    kind = model.config.model_type
    usual, model.generation_config = model.generation_config, GenerationConfig()
    try:
        fit = next((way for way in WAYS if _agrees(model, way, pad)), None)
    finally:
        model.generation_config = usual
    if fit is not None:
        if fit is not WAYS[0]:
            say("answers", text=f"a {kind} model is asked prompts of one length at a time", cached=fit.cached)
        return fit
    warn(
        WarningReason.ANSWERS_DIFFER,
        f"what transformers generates with a {kind} model is not what the model is trained to say: do not "
        "judge it by samples, by metrics of answers or by lm-eval tasks, and do not train it by rewards",
    )
    return WAYS[-1]


def _agrees(model: PreTrainedModel, way: Way, pad: int) -> bool:
    row, before = row_without(pad), [pad] * 3 if way.padded else []
    rows = [before + row, before + row[::-1]]
    config = GenerationConfig(
        max_new_tokens=_TOKENS, min_new_tokens=_TOKENS, do_sample=False, use_cache=way.cached,
        pad_token_id=pad, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    with probing(model) as limit:
        try:
            found: Any = model.generate(
                input_ids=torch.tensor(rows, device=model.device),
                attention_mask=torch.tensor([[0] * len(before) + [1] * len(row)] * 2, device=model.device),
                generation_config=config,
            )
        except Exception as error:  # a model raises whatever its layers run into
            if not of_the_file(error):
                raise
            return False
        off = 0.0
        for said, logits in zip(found.sequences, torch.stack(found.logits, 1), strict=True):
            whole = model(input_ids=said[None, len(before) : -1], use_cache=False).logits[0, -_TOKENS:]
            off = max(off, difference(logits.double(), whole.double()))
        return off <= TOLERANCE[limit]
