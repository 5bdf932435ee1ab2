"""Runs in which the model learns from rewards of its own answers."""

from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from kubetune.api.data import Evaluation
from kubetune.api.reinforcement import Grpo, Ppo, RewardFunction, Rollout
from kubetune.api.runspec import RunAdapter, RunReward, RunSpec
from kubetune.artifacts.digest import folder_digest
from kubetune.artifacts.manifest import read_manifest
from tests.fixtures.runs import finetune_spec, preferences, source, write_jsonl
from tests.trainer.conftest import Run
from tests.trainer.test_runs import numbers

SAYS_THE = RunReward(functions=[RewardFunction(name="contains")])


def prompts(folder: Path, answer: str | None = "the") -> Path:
    records = [{"prompt": p["prompt"]} | ({"answer": answer} if answer else {}) for p in preferences(40)]
    return write_jsonl(folder / "prompts.jsonl", records)


def answering(tmp: Path, base: Path, stage: str, **changes) -> RunSpec:
    training = {"max_steps": 24, "global_batch_size": 16, "learning_rate": 1e-2} | changes.pop("training", {})
    return finetune_spec(
        tmp / "out", base, source(prompts(tmp), "prompts"), stage=stage, packing=False, training=training,
        rollout=changes.pop("rollout", Rollout(max_new_tokens=8)), held_out=0.3,
        reward=changes.pop("reward", SAYS_THE), **changes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "method", "settings"),
    [
        ("grpo", "lora", {"grpo": Grpo(group_size=8, epochs=2)}),
        ("grpo", "full", {"grpo": Grpo(group_size=4, scale_rewards=False), "training": {"learning_rate": 1e-3}}),
        ("ppo", "lora", {"ppo": Ppo(epochs=2)}),
        ("ppo", "qlora", {"ppo": Ppo(epochs=2, kl_target=1.0)}),
    ],
)
def test_rewards_rise(run: Run, base: Path, tmp_path: Path, stage: str, method: str, settings: dict):
    asks = Evaluation(sample_prompts=["cat1 is "], max_new_tokens=8)
    ended = run(answering(tmp_path, base, stage, method=method, evaluation=asks, **settings))
    assert ended.code == 0, ended.out
    before, after = (numbers(v) for v in (ended.message.evaluation.baseline, ended.message.evaluation.tuned))
    print(before, after, ended.out)
    assert list(after) == ["reward", "kl"]
    assert before["kl"] == 0
    assert after["reward"] > before["reward"] + 0.3
    assert 0 < after["kl"] < 20
