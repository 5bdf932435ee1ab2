"""From rewards to advantages: arithmetic alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def generalised(rewards: Numbers, values: Numbers, gamma: float, decay: float) -> Numbers:
    """Generalised advantage estimation (Schulman et al. 2015, eq. 16):
    A_t = d_t + gamma decay A_(t+1), d_t = r_t + gamma V_(t+1) - V_t, where A and V are 0 after the end.

    Args:
        rewards: of each token of an answer, [n].
        values: what was expected before each, [n].
        gamma: discount per token.
        decay: lambda: how much later tokens count for an earlier one.
    """
    advantages = np.zeros(len(rewards))
    later = following = 0.0
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * following - values[t]
        advantages[t] = later = delta + gamma * decay * later
        following = values[t]
    return advantages


def whitened(parts: Sequence[Numbers]) -> list[Numbers]:
    """All numbers together shifted and scaled to mean 0 and variance 1."""
    every = np.concatenate(parts)
    deviation = every.std(ddof=1) if len(every) > 1 else 1.0
    return [(part - every.mean()) / np.sqrt(deviation**2 + 1e-8) for part in parts]


def relative(rewards: Numbers, group: int, *, scale: bool) -> Numbers:
    """How much better than its group each answer is (Shao et al. 2024, section 4.1.2).

    Args:
        rewards: of answers, those to one prompt side by side, [prompts * group].
        group: answers to each prompt.
        scale: divide by the group's standard deviation.
    """
    table = rewards.reshape(-1, group)
    found = table - table.mean(1, keepdims=True)
    if scale:
        found = found / (table.std(1, ddof=1, keepdims=True) + 1e-4)
    return found.reshape(-1)


def adapted(coefficient: float, divergence: float, target: float) -> float:
    """The new price of divergence, after a batch of answers with this mean divergence (Ziegler et al. 2019,
    section 2.2, with K = 0.1)."""
    return coefficient * (1 + 0.1 * float(np.clip(divergence / target - 1, -0.2, 0.2)))
