"""Checks of what a model computes: a few tokens are run through it.

A row is changed where that must not show, and the logits are compared. Another order of sums alone (mixtures
of experts gather the tokens of each expert) changes them by at most 3e-7 in all architectures of
transformers. The smallest leak, with random weights as they are initialised, is 8e-5. Both are relative.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.model.heads import CAUSAL_LM, Head
from kubetune_trainer.reading import cause, of_the_file, reading
from kubetune_trainer.runtime import Precision, autocast

RESTORE = "put the file there that belongs to it"
ROUNDING = {torch.float32: 5e-6, torch.bfloat16: 2e-3}
"""Most that another order of sums may change the logits, as `difference` measures it."""
LARGEST_WIDENED = 1 << 28
"""Most parameters of a model that is probed in fp32: a GiB. Larger models are probed in their own precision,
because their weights are not random: with random ones leaks are small."""
_ROW = [3, 4, 5, 6, 7, 8, 9]
_LONGEST = 257
"""Most tokens of the row that is tried in training: more than the parts that some models cut rows into."""


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Without dropout and gradients inside; afterwards the training mode is as before."""
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was)


def check_causal(model: PreTrainedModel, precision: Precision = "fp32") -> None:
    """Refuse a causal language model whose tokens see what comes after them: it would learn to copy.

    Neither another last token nor padding after the row may change the logits before.

    Raises:
        InvalidSpec: they do.
    """
    kind = model.config.model_type
    with reading("config.json of the base model", RESTORE), probing(model, precision) as limit:
        row = _logits(model, _ROW)
        if difference(_logits(model, [*_ROW[:-1], 4])[:-1], row[:-1]) > limit:
            raise InvalidSpec(
                f"each token of this {kind} model sees later ones, so it cannot learn to generate: name a "
                "causal language model (of an encoder, config.json may set is_decoder)"
            )
        if difference(_logits(model, _ROW + _ROW[:3])[: len(_ROW)], row) > limit:
            raise InvalidSpec(
                f"the output of this {kind} model depends on how many tokens follow, so rows of different "
                "lengths cannot be trained on together: choose another model"
            )


def isolates(model: PreTrainedModel, precision: Precision = "fp32") -> bool:
    """Whether documents packed into one row, with positions from 0 in each, are kept apart: the logits of
    each are the same as alone.

    Args:
        model: a causal language model.
        precision: that it is trained in.
    """
    positions = [0, 1, 2, 0, 1, 2, 3]
    with probing(model, precision) as limit:
        try:
            one = _logits(model, _ROW, position_ids=positions)[3:]
            other = _logits(model, [9, 8, 7, *_ROW[3:]], position_ids=positions)[3:]
        except TypeError:  # the model takes no position_ids
            return False
        return max(difference(other, one), difference(_logits(model, _ROW[3:]), one)) <= limit


def check_isolation(model: PreTrainedModel, precision: Precision = "fp32") -> None:
    """Refuse to pack documents for a model that does not keep them apart.

    Raises:
        InvalidSpec: it does not.
    """
    if not isolates(model, precision):
        raise InvalidSpec(
            f"documents packed into one sequence would see each other in a {model.config.model_type} model: "
            "set data.packing to false or remove it, and each document gets rows of its own"
        )


def minds_padding(model: PreTrainedModel, precision: Precision = "fp32") -> bool:
    """Whether padding after a row changes a model's output for it, although an attention mask marks it.

    Args:
        model: with a head that answers for each token or for the whole row.
        precision: that it is trained in.
    """
    pad = model.config.get_text_config().pad_token_id or 0
    row = ended(model, row_without(pad))

    def answer(padding: int) -> list[torch.Tensor]:
        tokens = torch.tensor([row + [pad] * padding], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * padding], device=model.device)
        output = model(input_ids=tokens, attention_mask=mask, output_hidden_states=True)
        states = getattr(output, "hidden_states", None) or ()
        return [part[0].double().nan_to_num() for part in (*states[-1:], output.logits)]

    with probing(model, precision) as limit:
        alone, padded = answer(0), answer(3)
    # States count, too, because the logits of a new head are near 0 and may be no more than rounding.
    found = torch.cat([p[: len(a)].flatten() for a, p in zip(alone, padded, strict=True)])
    return difference(found, torch.cat([a.flatten() for a in alone])) > limit


def check_training(model: PreTrainedModel, length: int, head: Head) -> None:
    """Refuse a model that, in training, only takes rows of some lengths.

    Args:
        model: to train.
        length: of the longest row.
        head: of the model.

    Raises:
        InvalidSpec: it does.
    """
    was = model.training
    model.train()
    odd = (min(length, _LONGEST) - 1) // 2 * 2 + 1
    row = ended(model, (_ROW * odd)[:odd])
    # As in training: some models cannot make a cache there.
    cache = {"use_cache": False} if head is CAUSAL_LM else {}
    try:
        with torch.random.fork_rng(), torch.no_grad():
            model(input_ids=torch.tensor([row], device=model.device), **cache)
    except Exception as error:  # a model raises whatever its layers run into
        if not of_the_file(error):
            raise
        raise InvalidSpec(
            f"a {model.config.model_type} model cannot be trained on rows of any length ({cause(error)}): "
            "choose another model"
        ) from error
    finally:
        model.train(was)


def ended(model: PreTrainedModel, row: list[int]) -> list[int]:
    """A row with the model's end token as its last, at which classifiers like BART's read the state."""
    end = model.config.get_text_config().eos_token_id
    return [*row[:-1], end] if type(end) is int and end >= 0 else row


def row_without(pad: int) -> list[int]:
    """A row of seven tokens without the padding token."""
    return [token for token in range(3, 11) if token != pad][: len(_ROW)]


def _logits(model: PreTrainedModel, row: list[int], **more: list[int]) -> torch.Tensor:
    """Logits of one row, [tokens, vocabulary]. It is not batched: some processors round the same sum
    differently in another row of a batch."""
    settings = {name: torch.tensor([value], device=model.device) for name, value in more.items()}
    tokens = torch.tensor([row], device=model.device)
    logits: torch.Tensor = model(input_ids=tokens, use_cache=False, **settings).logits[0]
    return logits.double().nan_to_num()


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference, relative to that of the expected logits without their mean, if they differ."""
    spread = (expected - expected.mean()).norm()
    return float((found - expected).norm() / spread) if spread else float((found - expected).norm())


@contextmanager
def probing(model: PreTrainedModel, precision: Precision = "fp32") -> Iterator[float]:
    """Evaluate inside: in fp32 and without autocast, if the model is not too large. Gives the `difference`
    that rounding may make."""
    held = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    computing = [m for m in model.modules() if hasattr(m, "compute_dtype")]  # layers held in 4 bits
    if sum(t.numel() for t in model.parameters()) > LARGEST_WIDENED:
        narrow = precision == "bf16" or any(t.dtype is not torch.float32 for t in held)
        with evaluating(model), autocast(model.device, precision):
            yield ROUNDING[torch.bfloat16 if narrow else torch.float32]
        return
    before = [(t, t.data) for t in held], [(m, m.compute_dtype) for m in computing]
    try:
        for tensor in held:
            tensor.data = tensor.data.float()
        for module in computing:
            module.compute_dtype = torch.float32
        with evaluating(model), torch.autocast(model.device.type, enabled=False):
            yield ROUNDING[torch.float32]
    finally:
        for tensor, data in before[0]:
            tensor.data = data
        for module, dtype in before[1]:
            module.compute_dtype = dtype
