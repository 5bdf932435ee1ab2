"""A rewarded answer as a row of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kubetune_trainer.data import rows
from kubetune_trainer.data.rows import Row
from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.rollout.advantages import Numbers

Floats = NDArray[np.float32]


NOTHING: Floats = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One answer. Numbers per token belong to the answer's tokens, in their order."""

    prompt: NDArray[np.int64]
    answer: NDArray[np.int64]
    """With its end token, if it ended."""
    reward: float
    old: Floats
    """Log-probabilities by the model that drew it, [answer]."""
    reference: Floats
    """Log-probabilities by the model that training started from, [answer]."""
    values: Floats = field(default_factory=lambda: NOTHING)
    """What the value head expected, [answer]; empty without one."""
    advantages: Floats = field(default_factory=lambda: NOTHING)
    """How much better than expected each token is, [answer]."""
    returns: Floats = field(default_factory=lambda: NOTHING)
    """What the value head should have expected, [answer]."""
    learned: bool = True
    """Whether it is trained on."""

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer) - 1

    @property
    def targets(self) -> int:
        """Each token of the answer is one term of the loss."""
        return len(self.answer) if self.learned else 0

    @property
    def divergence(self) -> float:
        """log p(answer) minus that by the reference: on average over answers, the KL divergence in nats."""
        return float(self.old.sum(dtype=np.float64) - self.reference.sum(dtype=np.float64))

    @property
    def teaches(self) -> bool:
        """Whether it was better or worse than expected, by policy or value head."""
        return bool(self.advantages.any() or (self.returns != self.values).any())

    def row(self) -> Row:
        """The tokens as a row, whose labels are those of the answer."""
        tokens = np.concatenate([self.prompt, self.answer])
        labels = tokens[1:].copy()
        labels[: len(self.prompt) - 1] = IGNORED
        row = Row(tokens[:-1], labels, np.arange(len(labels)))
        return row if self.learned else row.idle()

    def idle(self) -> "Rollout":
        """The same answer without labels, which adds nothing to the loss."""
        return replace(self, learned=False)


class RolloutBatch(NamedTuple):
    """Rollouts as tensors, each [rows, longest row]; numbers are where labels are, zeros elsewhere."""

    tokens: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    old: torch.Tensor
    reference: torch.Tensor
    advantages: torch.Tensor
    values: torch.Tensor
    returns: torch.Tensor


NUMBERS = ("old", "reference", "advantages", "values", "returns")


def collate(rollouts: Sequence[Rollout], device: torch.device | str = "cpu", *, pad: int) -> RolloutBatch:
    """Pad rollouts on the right."""
    batch = rows.collate([r.row() for r in rollouts], device, pad=pad)
    numbers = []
    for name in NUMBERS:
        table = np.zeros(batch.tokens.shape, np.float32)
        for i, rollout in enumerate(rollouts):
            if rollout.learned and len(found := getattr(rollout, name)):
                start = len(rollout.prompt) - 1
                table[i, start : start + len(found)] = found
        numbers.append(torch.from_numpy(table).to(device, non_blocking=True))
    return RolloutBatch(*batch, *numbers)


def pack(rollouts: Sequence[Rollout]) -> dict[str, torch.Tensor]:
    """Rollouts as a few tensors, for a checkpoint."""
    fields = ("prompt", "answer", *NUMBERS)
    packed = {
        "reward": torch.tensor([r.reward for r in rollouts], dtype=torch.float64),
        "learned": torch.tensor([r.learned for r in rollouts]),
    }
    for name in fields:
        parts = [getattr(r, name) for r in rollouts]
        packed[name] = torch.from_numpy(np.concatenate(parts))
        packed[f"{name}.lengths"] = torch.tensor([len(p) for p in parts])
    return packed


def unpack(packed: dict[str, torch.Tensor]) -> list[Rollout]:
    """The rollouts that `pack` was given."""
    rewards = packed["reward"]
    # A checkpoint of a former release does not say it: all of its rows are trained on.
    learned = packed.get("learned", torch.ones_like(rewards, dtype=torch.bool))
    columns = {
        name: [part.numpy() for part in packed[name].split(packed[f"{name}.lengths"].tolist())]
        for name in ("prompt", "answer", *NUMBERS)
    }
    return [
        Rollout(reward=reward, learned=trained, **{name: parts[i] for name, parts in columns.items()})
        for i, (reward, trained) in enumerate(zip(rewards.tolist(), learned.tolist(), strict=True))
    ]


def weighed(rollout: Rollout, advantages: Numbers, returns: Numbers | None = None) -> Rollout:
    """The rollout with what is learned from it."""
    expected = rollout.returns if returns is None else returns.astype(np.float32)
    return replace(rollout, advantages=advantages.astype(np.float32), returns=expected)
