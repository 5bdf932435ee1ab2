"""Runs in which the model learns from rewards of its own answers."""

from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from kubetune.api.data import Evaluation
from kubetune.api.exitcodes import Reason
from kubetune.api.finetunejob import PromptTuning
from kubetune.api.reinforcement import Grpo, Ppo, RewardFunction, RolloutSettings
from kubetune.api.runspec import RunAdapter, RunReward, RunSpec
from kubetune.artifacts.digest import folder_digest
from kubetune.artifacts.manifest import read_manifest
from tests.fixtures.runs import finetune_spec, pairs, prompts, source, write_jsonl
from tests.trainer.conftest import Process, Run
from tests.trainer.test_processes import together
from tests.trainer.test_runs import numbers

VIRTUAL = {
    "prompt_tuning": PromptTuning(virtual_tokens=8),
    "training": {"learning_rate": 0.3, "max_steps": 40},
}
SAYS_THE = RunReward(functions=[RewardFunction(name="contains")])


def answering(tmp: Path, base: Path, stage: str, **changes) -> RunSpec:
    """Two dozen steps on sixteen short answers each; by default `the` in an answer is rewarded."""
    training = {"max_steps": 24, "global_batch_size": 16, "learning_rate": 1e-2} | changes.pop("training", {})
    asked = write_jsonl(tmp / "prompts.jsonl", changes.pop("prompts", prompts(40, "the")))
    return finetune_spec(
        tmp / "out", base, source(asked, "prompts"), stage=stage, packing=False, training=training,
        rollout=changes.pop("rollout", RolloutSettings(max_new_tokens=8)), held_out=0.3,
        reward=changes.pop("reward", SAYS_THE), **changes,
    )  # fmt: skip


def at(folder: Path) -> RunAdapter:
    return RunAdapter(
        uri="pvc://out/former", path=str(folder), root=str(folder.parent), digest=folder_digest(folder)
    )


@pytest.mark.parametrize(
    ("stage", "method", "settings"),
    [
        ("grpo", "lora", {"grpo": Grpo(group_size=8, epochs=2)}),
        (
            "grpo",
            "full",
            {"grpo": Grpo(group_size=4, scale_rewards=False), "training": {"learning_rate": 1e-3}},
        ),
        ("ppo", "lora", {"ppo": Ppo(epochs=2)}),
        ("ppo", "qlora", {"ppo": Ppo(epochs=2, kl_target=1.0)}),
        ("ppo", "prompt-tuning", {"ppo": Ppo(epochs=2), **VIRTUAL}),
        ("grpo", "prompt-tuning", {"grpo": Grpo(group_size=8), **VIRTUAL}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_rewards_rise(run: Run, base: Path, tmp_path: Path, stage: str, method: str, settings: dict):
    asks = Evaluation(sample_prompts=["cat1 is "], max_new_tokens=8)
    ended = run(answering(tmp_path, base, stage, method=method, evaluation=asks, **settings))
    assert ended.code == 0, ended.out
    before, after = (numbers(v) for v in (ended.message.evaluation.baseline, ended.message.evaluation.tuned))
    assert list(after) == ["reward", "kl"]
    assert before["kl"] == 0, "at first it is the reference"
    # A few virtual tokens move so small a base little.
    assert after["reward"] > before["reward"] + (0.05 if method == "prompt-tuning" else 0.3)
    assert 0 < after["kl"] < 20
    live = numbers(ended.message.trainer_status.metrics)
    assert live["reward"] > (0.1 if method == "prompt-tuning" else 0.3)
    assert 1 <= live["answerTokens"] <= 8
    assert ("klCoefficient" in live) == (method == "qlora")
    assert len(ended.message.evaluation.samples) == 1
    artifact = tmp_path / "out/artifact"
    report = (artifact / "report.html").read_text()
    assert "mean reward of the answers trained on" in report
    made = {"full": "full", "prompt-tuning": "prompt"}.get(method, "lora")
    assert read_manifest(artifact).format == made
    if method == "full":
        loaded = AutoModelForCausalLM.from_pretrained(artifact)
        assert not [name for name, _ in loaded.named_parameters() if "value" in name]
    else:
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), artifact)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_sft_then_reward_model_then_ppo(run: Run, base: Path, corpus: Path, tmp_path: Path, method: str):
    """The three stages of RLHF, each from what the one before it made."""
    sft = finetune_spec(tmp_path / "sft/out", base, source(corpus / "pairs.jsonl", "alpaca"))
    assert run(sft).code == 0
    start = at(tmp_path / "sft/out/artifact")
    from_it = {"lora": None, "adapter": start} if method == "lora" else {"method": method}
    rate = 1e-2 if method == "lora" else 2e-3
    judge = finetune_spec(
        tmp_path / "judge/out", base, source(corpus / "preferences.jsonl", "preference"), stage="reward",
        training={"max_steps": 60, "global_batch_size": 8, "learning_rate": rate}, held_out=0.3, **from_it,
    )  # fmt: skip
    ended = run(judge)
    assert ended.code == 0, ended.out
    assert numbers(ended.message.evaluation.tuned)["accuracy"] > 0.6
    reward = at(tmp_path / "judge/out/artifact")
    spec = answering(
        tmp_path, base, "ppo", lora=None, adapter=start, reward=RunReward(model=reward), ppo=Ppo(epochs=2),
        prompts=prompts(40), training={"max_steps": 40, "global_batch_size": 32},
    )  # fmt: skip
    ended = run(spec)
    assert ended.code == 0, ended.out
    before, after = (numbers(v) for v in (ended.message.evaluation.baseline, ended.message.evaluation.tuned))
    assert before["kl"] == 0, "the reference is the adapter that it starts from"
    assert after["reward"] > before["reward"], ended.out
    manifest = read_manifest(tmp_path / "out/artifact")
    assert manifest.base_model_digest == folder_digest(base)
    assert reward.digest in (tmp_path / "out/artifact/report.html").read_text()


def test_two_processes_share_the_answers(base: Path, tmp_path: Path):
    spec = answering(tmp_path, base, "grpo", grpo=Grpo(group_size=4), training={"precision": "fp32"})
    processes = together(spec, tmp_path)
    assert [p.end() for p in processes] == [0, 0], processes[0].out + processes[1].out
    after = numbers(processes[0].message.evaluation.tuned)
    assert after["reward"] > 0.3


def test_asked_to_stop_while_it_answers(base: Path, tmp_path: Path):
    """What was learned before is saved, and nothing of the answers in the making counts."""
    spec = answering(
        tmp_path, base, "grpo", grpo=Grpo(group_size=8), rollout=RolloutSettings(max_new_tokens=40),
        training={"max_steps": 8, "global_batch_size": 64, "learning_rate": 1e-3},
    )  # fmt: skip
    process = Process(spec, tmp_path)
    process.wait_for("rollout number=2")
    process.process.terminate()
    assert process.end() == 143, process.out
    assert process.message.last_checkpoint is not None
    stopped = process.message.last_checkpoint.step
    assert 1 <= stopped < 8
    process = Process(spec, tmp_path)
    assert process.end() == 0, process.out
    assert f"resumed step={stopped}" in process.out


def test_what_is_wrong_is_told_before_anything_is_learned(run: Run, base: Path, corpus: Path, tmp_path: Path):
    cases = {
        "no answer": (
            answering(tmp_path / "a", base, "grpo", prompts=prompts(9)),
            Reason.DATA_ERROR, "prompts.jsonl, line 1: field 'answer' is missing; reward function contains",
        ),
        "wrong format": (
            answering(tmp_path / "b", base, "ppo").model_copy(
                update={"data": finetune_spec(tmp_path, base, source(corpus / "pairs.jsonl", "alpaca")).data}
            ),
            Reason.INVALID_SPEC, "this stage needs format prompts, not alpaca",
        ),
        "no reward model": (
            answering(tmp_path / "c", base, "ppo", reward=RunReward(
                model=RunAdapter(uri="pvc://models/base", path=str(base), root=str(base.parent))
            )),
            Reason.INVALID_SPEC, "outputs, not one",
        ),
        "no room": (
            answering(tmp_path / "d", base, "ppo", rollout=RolloutSettings(max_new_tokens=48)),
            Reason.INVALID_SPEC, "leaves no room for a prompt",
        ),
    }  # fmt: skip
    for what, (spec, reason, message) in cases.items():
        ended = run(spec)
        assert ended.message.reason is reason, (what, ended.out)
        assert message in ended.message.message, what


def test_a_reward_model_of_another_base_is_refused(run: Run, base: Path, corpus: Path, tmp_path: Path):
    data = source(corpus / "preferences.jsonl", "preference")
    judge = finetune_spec(tmp_path / "judge/out", base, data, stage="reward")
    assert run(judge).code == 0
    write_jsonl(tmp_path / "pairs.jsonl", pairs(20))
    tuned = finetune_spec(
        tmp_path / "tuned/out", base, source(tmp_path / "pairs.jsonl", "alpaca"), method="full"
    )
    assert run(tuned).code == 0
    folder = tmp_path / "judge/out/artifact"
    reward = RunReward(model=RunAdapter(uri="pvc://out/judge", path=str(folder), root=str(folder.parent)))
    ended = run(answering(tmp_path, tmp_path / "tuned/out/artifact", "ppo", reward=reward))
    assert ended.message.reason is Reason.BASE_MODEL_MISMATCH
    assert "was trained on base" in ended.message.message
