"""Checks of what a model computes: probes run through it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.reading import reading

RESTORE = "put the file there that belongs to it"


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """No dropout and no gradients inside, training mode as before after it."""
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was)


def check_causal(model: PreTrainedModel) -> None:
    """Refuse a causal language model whose tokens see what comes after them: it would learn to copy.

    In two rows that differ in the last token alone, the logits before it must be the same in every bit.

    Raises:
        InvalidSpec: they are not.
    """
    with reading("config.json of the base model", RESTORE):
        one, other = _each(model, [3, 4, 5, 6, 7, 8, 9], [3, 4, 5, 6, 7, 8, 4])
    if not torch.equal(one[:-1], other[:-1]):
        raise InvalidSpec(
            f"each token of this {model.config.model_type} model sees those after it, so it cannot learn to "
            "write: name a causal language model (of an encoder, config.json may set is_decoder)"
        )


def check_isolation(model: PreTrainedModel) -> None:
    """Refuse to pack documents for a model that lets them see each other.

    Two documents share a row; changing the first must not change the second's logits in a single bit.

    Raises:
        InvalidSpec: it does.
    """
    rows = [3, 4, 5, 6, 7, 8, 9], [9, 8, 7, 6, 7, 8, 9]
    try:
        one, other = _each(model, *rows, position_ids=[0, 1, 2, 0, 1, 2, 3])
    except TypeError:  # the model takes no position_ids
        one, other = torch.zeros(7), torch.ones(7)
    if not torch.equal(one[3:], other[3:]):
        raise InvalidSpec(
            f"documents packed into one sequence would see each other in a {model.config.model_type} model: "
            "set data.packing to false (stages that learn from examples) or choose another model"
        )


def _each(model: PreTrainedModel, *rows: list[int], **more: list[int]) -> Iterator[torch.Tensor]:
    """Logits of each row by itself, [tokens, vocabulary]: in a batch, some processors round the same sum
    otherwise in another row."""
    settings = {name: torch.tensor([value], device=model.device) for name, value in more.items()}
    with evaluating(model):
        for row in rows:
            tokens = torch.tensor([row], device=model.device)
            yield model(input_ids=tokens, use_cache=False, **settings).logits[0].nan_to_num()
