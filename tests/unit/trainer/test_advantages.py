"""Advantages against sums written out, and against their definitions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kubetune.api.reinforcement import Grpo, Ppo
from kubetune_trainer.objectives import grpo, ppo
from kubetune_trainer.rollout.advantages import adapted, generalised, relative, whitened
from kubetune_trainer.rollout.rows import NOTHING, Rollout, collate, pack, unpack

numbers = st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=12)


@given(numbers, st.floats(0.1, 1), st.floats(0, 1))
def test_generalised_is_the_weighted_sum_of_what_follows(steps, gamma, decay):
    """A_t = sum over l of (gamma lambda)^l d_(t+l), eq. 16 of the paper, term by term."""
    rewards, values = (np.array(v) for v in zip(*steps, strict=True))
    n = len(rewards)
    nexts = [*values[1:], 0.0]
    errors = [rewards[t] + gamma * nexts[t] - values[t] for t in range(n)]
    expected = [sum((gamma * decay) ** (k - t) * errors[k] for k in range(t, n)) for t in range(n)]
    assert generalised(rewards, values, gamma, decay) == pytest.approx(expected, abs=1e-9)


def test_with_lambda_1_it_is_the_return_above_expectation():
    rewards, values = np.array([0.0, 0.0, 2.0]), np.array([0.5, 1.0, 1.5])
    assert generalised(rewards, values, 1.0, 1.0) == pytest.approx([1.5, 1.0, 0.5])


@given(st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=6), min_size=2, max_size=5))
def test_whitened_has_mean_0_and_variance_1(parts):
    found = np.concatenate(whitened([np.array(p) for p in parts]))
    every = np.concatenate([np.array(p) for p in parts])
    assert found.mean() == pytest.approx(0, abs=1e-6)
    if every.std() > 1e-2:
        assert found.std(ddof=1) == pytest.approx(1, abs=1e-3)
    assert np.isfinite(found).all()


def test_relative_compares_within_groups():
    rewards = np.array([1.0, 0.0, 5.0, 5.0])
    assert relative(rewards, 2, scale=False) == pytest.approx([0.5, -0.5, 0, 0])
    scaled = relative(rewards, 2, scale=True)
    assert scaled == pytest.approx([0.5 / (np.sqrt(0.5) + 1e-4), -0.5 / (np.sqrt(0.5) + 1e-4), 0, 0])


@pytest.mark.parametrize(("divergence", "factor"), [(6, 1), (0, 0.98), (6.3, 1.005), (100, 1.02)])
def test_the_price_follows_the_divergence(divergence, factor):
    assert adapted(0.05, divergence, target=6) == pytest.approx(0.05 * factor)


def test_ppo_loss_is_that_of_the_papers_token_by_token():
    torch.manual_seed(0)
    likely, old, values, former, advantages, returns = torch.randn(6, 40, dtype=torch.float64).unbind()
    settings = Ppo(clip_range=0.2, value_clip_range=0.3, value_coefficient=0.5)
    found = ppo.losses(likely, values, old, advantages, former, returns, settings)
    for i in range(40):
        ratio = float((likely[i] - old[i]).exp())
        held = min(max(ratio, 0.8), 1.2)
        policy = -min(ratio * float(advantages[i]), held * float(advantages[i]))
        near = float(former[i]) + min(max(float(values[i] - former[i]), -0.3), 0.3)
        error = max(float(values[i] - returns[i]) ** 2, (near - float(returns[i])) ** 2)
        assert float(found[i]) == pytest.approx(policy + 0.5 * 0.5 * error, abs=1e-9)


def test_grpo_pays_for_divergence_whichever_way():
    at = torch.zeros(2)
    losses = grpo.losses(at, at, torch.tensor([0.5, -0.5]), at, Grpo(beta=1.0))
    assert losses.tolist() == pytest.approx([np.exp(0.5) - 0.5 - 1, np.exp(-0.5) + 0.5 - 1], abs=1e-6)


def rollout(prompt: int, answer: int, reward: float) -> Rollout:
    some = np.random.default_rng(prompt * 10 + answer).normal(size=(3, answer)).astype(np.float32)
    return Rollout(np.arange(prompt), 100 + np.arange(answer), reward, *some)


def test_ppo_pays_the_reward_at_the_end_and_the_price_at_each_token():
    settings = Ppo(kl_coefficient=0.1, gae_lambda=1.0)
    rows = [rollout(2, 3, 1.0), rollout(4, 2, -1.0)]
    memory: dict[str, float] = {}
    found = ppo.weigh(settings, rows, memory)
    assert memory == {}
    for before, after in zip(rows, found, strict=True):
        prices = 0.1 * (before.old.astype(float) - before.reference)
        to_come = [before.reward - prices[t:].sum() for t in range(len(prices))]
        assert after.returns == pytest.approx(to_come, abs=1e-5)
    advantages = np.concatenate([r.advantages for r in found])
    assert advantages.mean() == pytest.approx(0, abs=1e-6)


def test_a_value_head_learns_from_equal_rewards_and_a_policy_alone_does_not():
    rows = [rollout(2, 1, 1.0), rollout(2, 1, 1.0)]
    assert not any(
        r.teaches for r in grpo.weigh(Grpo(group_size=2), [replace(r, values=NOTHING) for r in rows], {})
    )
    assert all(r.teaches for r in ppo.weigh(Ppo(), rows, {}))


def test_ppo_remembers_the_price():
    memory: dict[str, float] = {}
    ppo.weigh(Ppo(kl_target=1e-3), [rollout(2, 3, 1.0)], memory)
    first = memory["klCoefficient"]
    ppo.weigh(Ppo(kl_target=1e-3), [rollout(2, 3, 1.0)], memory)
    assert memory["klCoefficient"] != first


def test_packed_rollouts_come_back():
    rows = ppo.weigh(Ppo(), [rollout(2, 3, 1.5), rollout(4, 1, -1.0)], {})
    rows[1] = rows[1].idle()
    for before, after in zip(rows, unpack(pack(rows)), strict=True):
        assert (before.reward, before.learned) == (after.reward, after.learned)
        for name in ("prompt", "answer", "old", "reference", "values", "advantages", "returns"):
            assert np.array_equal(getattr(before, name), getattr(after, name)), name


def test_rollouts_of_a_former_checkpoint_are_learned_from():
    packed = pack([rollout(2, 3, 1.5)])
    del packed["learned"]
    assert [r.learned for r in unpack(packed)] == [True]


def test_numbers_stand_where_the_labels_do():
    rows = ppo.weigh(Ppo(), [rollout(2, 3, 1.0), rollout(4, 2, 0.0), rollout(3, 1, 0.0)], {})
    batch = collate([*rows[:2], rows[2].idle()], pad=0)
    assert batch.tokens.tolist() == [[0, 1, 100, 101, 0], [0, 1, 2, 3, 100], [0, 1, 2, 0, 0]]
    assert batch.labels.tolist() == [[-100, 100, 101, 102, -100], [-100] * 3 + [100, 101], [-100] * 5]
    assert batch.old[0].tolist() == [0, *rows[0].old.tolist(), 0]
    assert batch.advantages[1].tolist() == [0, 0, 0, *rows[1].advantages.tolist()]
    assert not batch.old[2].any()
    assert [r.targets for r in rows[:2]] == [3, 2]
    assert rows[2].idle().targets == 0
