"""Group relative policy optimisation: the model answers each prompt several times. Answers that are better
than others to the same prompt are made likelier, within a clip range, and divergence from the reference costs
(Shao et al. 2024, "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
eq. 3).

Every token of a batch counts alike (Yu et al. 2025, DAPO, eq. 8), so long answers are not favoured.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from kubetune.api.reinforcement import Grpo, RolloutSettings
from kubetune.api.runspec import RunSpec
from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.model.heads import CAUSAL_LM
from kubetune_trainer.objectives import answering
from kubetune_trainer.objectives.ppo import samples
from kubetune_trainer.objectives.prepared import Packs, Prepared
from kubetune_trainer.rollout.advantages import relative
from kubetune_trainer.rollout.policy import Policy, clipped
from kubetune_trainer.rollout.rows import Rollout, weighed
from kubetune_trainer.rollout.stream import Memory
from kubetune_trainer.runtime import Precision
from kubetune_trainer.signals import Stop

__all__ = ["HEAD", "loss_model", "prepare", "samples"]

HEAD = CAUSAL_LM


def prepare(spec: RunSpec, work: Path, stop: Stop, packs: Packs) -> Prepared:
    """Prompts, and the stream of answers to them.

    Raises:
        DataError: see `answering.prepare`.
        InvalidSpec: likewise; or the batch is not made of whole groups.
    """
    settings = spec.grpo or Grpo()
    if spec.training.global_batch_size % settings.group_size:
        raise InvalidSpec("grpo.groupSize must divide training.globalBatchSize: change one of them")
    weigh_group = partial(weigh, settings)
    return answering.prepare(spec, stop, weigh_group, group=settings.group_size, epochs=settings.epochs)


def loss_model(
    model: PreTrainedModel, spec: RunSpec, prepared: Prepared, precision: Precision
) -> "GrpoModel":
    """The clipped objective and the divergence."""
    return GrpoModel(model, precision, spec.grpo or Grpo(), (spec.rollout or RolloutSettings()).temperature)


def weigh(settings: Grpo, rollouts: Sequence[Rollout], memory: Memory) -> list[Rollout]:
    """Give each token the advantage of its answer."""
    rewards = np.array([r.reward for r in rollouts])
    found = relative(rewards, settings.group_size, scale=settings.scale_rewards)
    return [weighed(r, np.full(len(r.answer), a)) for r, a in zip(rollouts, found, strict=True)]


class GrpoModel(Policy):
    """A policy whose forward pass is the GRPO loss of a RolloutBatch."""

    def __init__(
        self, model: PreTrainedModel, precision: Precision, settings: Grpo, temperature: float
    ) -> None:
        super().__init__(model, precision, temperature)
        self._settings = settings

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor, *numbers: torch.Tensor
    ) -> torch.Tensor:
        """The loss, summed over the answers' tokens."""
        likely, _ = self.scored(tokens, positions, labels)
        old, reference, advantages, *_ = (n[labels != IGNORED] for n in numbers)
        return losses(likely, old, reference, advantages, self._settings).sum()


def losses(
    likely: torch.Tensor, old: torch.Tensor, reference: torch.Tensor, advantages: torch.Tensor, settings: Grpo
) -> torch.Tensor:
    """Loss of each token; the tensors are [tokens]: the clipped objective, plus beta times the divergence.

    The divergence is estimated by r - log r - 1 with r = p_reference / p, which is never negative (Schulman
    2020), times p / p_old. Without this ratio to the model that drew the token, the gradient would not be
    that of the divergence (DeepSeek-AI 2025, DeepSeek-V3.2).
    """
    ratio = (likely - old).exp()
    policy = clipped(ratio, advantages, settings.clip_range)
    if not settings.beta:
        return policy
    away = reference - likely
    return policy + settings.beta * ratio * (away.exp() - away - 1)
