"""Terms of a loss that a model's config asks for, besides the cross entropy."""

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from kubetune.api.warnings import WarningReason
from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.model.probing import evaluating
from kubetune_trainer.warned import warn

SWITCH = "output_router_logits"
"""The field of a config that turns on the loss term which keeps experts evenly used."""
_LEAST = 1e-5
"""Relative difference of the loss above which it is another term, and not rounding."""


def has_further_terms(model: PreTrainedModel) -> bool:
    """Whether transformers' loss of a model is more than the mean cross entropy of its labels: its config may
    ask for evenly used experts (output_router_logits, router_aux_loss_coef) or small logits
    (z_loss_coefficient).

    Raises:
        InvalidSpec: it is, but the model does not take labels that are already shifted, as they are here.
    """
    tokens = torch.tensor([[3, 4, 5, 6, 7, 8, 9]], device=model.device)
    following = torch.tensor([[4, 5, 6, 7, 8, 9, IGNORED]], device=model.device)
    with evaluating(model):
        try:
            own = model(input_ids=tokens, labels=tokens, use_cache=False)
        except (TypeError, ValueError):  # it has no loss, or one of images
            return False
        if own.loss is None:
            return False
        logits = own.logits[0].float()
        loss = cross_entropy(logits, following[0])
        # Some models shift the labels, some take them as they are.
        if min(abs(own.loss - loss), abs(own.loss - cross_entropy(logits, tokens[0]))) <= _LEAST * loss:
            return False
        given = model(input_ids=tokens, labels=following, shift_labels=following, use_cache=False).loss
    if abs(given - own.loss) > _LEAST * loss:
        raise InvalidSpec(
            f"the loss of this {model.config.model_type} model has terms besides the cross entropy, which "
            "cannot be trained with here: set their coefficients to 0 in its config"
        )
    return True


def tell_ignored(model: PreTrainedModel, stage: str) -> None:
    """Warn if a config asks for further terms of the loss, which a stage with its own loss leaves out."""
    if has_further_terms(model):
        warn(
            WarningReason.LOSS_TERMS_IGNORED,
            f"the config of this {model.config.model_type} model asks for further terms of the loss (of "
            f"experts: output_router_logits), which the loss {stage} does not have: they are left out",
        )


def check_experts(model: PreTrainedModel) -> None:
    """Check that a new mixture of experts is trained to use them evenly; warn if it could be and is not.

    Raises:
        InvalidSpec: its config asks for a loss that it does not have.
    """
    config = model.config
    asked = getattr(config, SWITCH, None)
    if asked is None:
        return
    setattr(config, SWITCH, True)
    there = has_further_terms(model)
    setattr(config, SWITCH, asked)
    if asked and not there:
        raise InvalidSpec(
            f"model.config has {SWITCH}, but the loss of a {config.model_type} model has no term that keeps "
            "its experts evenly used: remove it, or choose another model_type"
        )
    if there and not asked:
        warn(
            WarningReason.EXPERTS_NOT_BALANCED,
            f"model.config leaves {SWITCH} off, so nothing keeps the experts evenly used: set it to true to "
            "train with the loss that does (router_aux_loss_coef)",
        )
