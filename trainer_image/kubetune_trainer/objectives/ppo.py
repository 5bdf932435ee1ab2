"""Proximal policy optimisation: the model answers prompts, and a value head on the same transformer learns
what reward to expect after each token. Tokens that turn out better than expected are made likelier, within a
clip range (Schulman et al. 2017; for language models Ziegler et al. 2019, Ouyang et al. 2022).

A token's reward is minus the price of diverging from the reference. The last one also gets the answer's.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from kubetune.api.reinforcement import Ppo, RolloutSettings
from kubetune.api.runspec import RunSpec
from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.generate import sample_answers
from kubetune_trainer.model.heads import CAUSAL_LM
from kubetune_trainer.objectives import answering
from kubetune_trainer.objectives.prepared import Packs, Prepared
from kubetune_trainer.rollout.advantages import adapted, generalised, whitened
from kubetune_trainer.rollout.policy import Policy, clipped
from kubetune_trainer.rollout.rows import Rollout, weighed
from kubetune_trainer.rollout.stream import Memory
from kubetune_trainer.runtime import Precision
from kubetune_trainer.signals import Stop

HEAD = CAUSAL_LM
KL = "klCoefficient"


def prepare(spec: RunSpec, work: Path, stop: Stop, packs: Packs) -> Prepared:
    """Prompts, and the stream of answers to them.

    Raises:
        DataError, InvalidSpec: see `answering.prepare`.
    """
    settings = spec.ppo or Ppo()
    return answering.prepare(spec, stop, partial(weigh, settings), group=1, epochs=settings.epochs)


def loss_model(model: PreTrainedModel, spec: RunSpec, prepared: Prepared, precision: Precision) -> "PpoModel":
    """The clipped objective and the value loss."""
    return PpoModel(model, precision, spec.ppo or Ppo(), (spec.rollout or RolloutSettings()).temperature)


def samples(model: Policy, prepared: Prepared, spec: RunSpec, stop: Stop) -> list[str]:
    """What the model answers to each sample prompt, a user message for the chat template."""
    return sample_answers(model, prepared.tokenizer, spec.evaluation, stop, chat=True)


def weigh(settings: Ppo, rollouts: Sequence[Rollout], memory: Memory) -> list[Rollout]:
    """Give each token its advantage, whitened over the batch, and its return. If divergence has a target,
    adapt its price for the next batch."""
    price = memory.get(KL, settings.kl_coefficient)
    found, returns = [], []
    for rollout in rollouts:
        rewards = -price * (rollout.old.astype(np.float64) - rollout.reference)
        rewards[-1] += rollout.reward
        values = rollout.values.astype(np.float64)
        advantages = generalised(rewards, values, settings.gamma, settings.gae_lambda)
        found.append(advantages)
        returns.append(advantages + values)
    if settings.kl_target is not None:
        divergence = float(np.mean([r.divergence for r in rollouts]))
        memory[KL] = adapted(price, divergence, settings.kl_target)
    return [weighed(r, a, v) for r, a, v in zip(rollouts, whitened(found), returns, strict=True)]


class PpoModel(Policy):
    """A policy whose forward pass is the PPO loss of a RolloutBatch."""

    def __init__(
        self, model: PreTrainedModel, precision: Precision, settings: Ppo, temperature: float
    ) -> None:
        super().__init__(model, precision, temperature, value_head=True)
        self._settings = settings

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor, *numbers: torch.Tensor
    ) -> torch.Tensor:
        """Sum over the answers' tokens of the clipped objective and the weighted value loss."""
        likely, values = self.scored(tokens, positions, labels)
        assert values is not None
        old, _, advantages, former, returns = (n[labels != IGNORED] for n in numbers)
        return losses(likely, values, old, advantages, former, returns, self._settings).sum()


def losses(
    likely: torch.Tensor, values: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor,
    former: torch.Tensor, returns: torch.Tensor, settings: Ppo,
) -> torch.Tensor:  # fmt: skip
    """Loss of each token; the tensors are [tokens]: the clipped objective, plus value_coefficient times half
    the squared error of the value or of the clipped value, whichever is larger."""
    policy = clipped((likely - old).exp(), advantages, settings.clip_range)
    near = former + (values - former).clamp(-settings.value_clip_range, settings.value_clip_range)
    error = 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    return policy + settings.value_coefficient * error
