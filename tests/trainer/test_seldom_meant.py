"""What is allowed and seldom meant is said, and counted."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubetune.api.exitcodes import Reason
from kubetune.api.finetunejob import PromptTuning
from kubetune.api.reinforcement import Grpo, RewardFunction, RolloutSettings
from kubetune.api.runspec import RunReward, RunSpec
from kubetune.api.training import FineTuneTraining
from kubetune_trainer.rollout.actor import Actor
from kubetune_trainer.rollout.rows import Rollout
from tests.fixtures.runs import finetune_spec, source, write_jsonl
from tests.trainer.conftest import Ended, Run

SHORT = [{"instruction": f"q{i}", "output": f"a{i}"} for i in range(20)]
LONG = [{"instruction": f"the cat {i} " * 40, "output": "a"} for i in range(5)]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.upper() }}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def sft(tmp: Path, base: Path, records: list, form: str = "alpaca", **changes) -> RunSpec:
    return finetune_spec(
        tmp / "out", base, source(write_jsonl(tmp / "x.jsonl", records), form), **{"held_out": 0.2} | changes
    )


def succeeded(ended: Ended) -> Ended:
    assert ended.code == 0, ended.out
    return ended


def test_examples_without_room_are_left_out_and_counted(run: Run, base: Path, tmp_path: Path):
    ended = succeeded(run(sft(tmp_path, base, [*SHORT, *LONG], held_out=0.0)))
    assert ended.message.data
    assert (ended.message.data.documents, ended.message.data.dropped) == (25, 5)
    said = "5 of 25 examples are left out: data.sequenceLength 48 leaves no room"
    assert said in ended.out
    # Whoever does not read logs finds it in the status, the manifest, the report and the card.
    assert ended.message.trainer_status
    told = {w.reason: w.message for w in ended.message.trainer_status.warnings or []}
    assert told["ExamplesDropped"].startswith(said)
    artifact = tmp_path / "out/artifact"
    kept = json.loads((artifact / "manifest.json").read_text())["report"]["trainerStatus"]["warnings"]
    assert {w["reason"] for w in kept} == told.keys() == {"ExamplesDropped", "NothingHeldOut"}
    assert said in (artifact / "report.html").read_text()
    assert said in (artifact / "README.md").read_text()


def test_what_has_no_room_is_not_measured_either(run: Run, base: Path, tmp_path: Path):
    own = source(write_jsonl(tmp_path / "y.jsonl", [*LONG, SHORT[0]]), "alpaca")
    succeeded(run(sft(tmp_path, base, SHORT, evaluation_source=own)))
    assert "1 held-out example" in (tmp_path / "out/artifact/README.md").read_text()


def test_a_template_that_rewrites_turns(run: Run, base: Path, tmp_path: Path):
    """Each answer is learned as the model gives it: after what the template makes of the turns before."""
    rewriting = tmp_path / "base"
    shutil.copytree(base, rewriting)
    (rewriting / "chat_template.jinja").write_text(CHATML)
    turns = [("user", "q"), ("assistant", "me"), ("user", "r"), ("assistant", "so")]
    talk = {"messages": [{"role": r, "content": c} for r, c in turns]}
    records = [{"messages": [*talk["messages"][:-1], {"role": "assistant", "content": f"so {i}"}]}
               for i in range(12)]  # fmt: skip
    ended = succeeded(run(sft(tmp_path, rewriting, records, "messages", length=64)))
    assert ended.message.data
    assert ended.message.data.documents == 24
    assert "each answer is an example of its own: 12 records, 24 examples" in ended.out


def test_epochs_in_one_step_and_a_warm_up_without_end(run: Run, base: Path, tmp_path: Path):
    spec = sft(tmp_path, base, SHORT)
    settings = FineTuneTraining(epochs=3, global_batch_size=64, learning_rate=1e-2, warmup_steps=10)
    ended = succeeded(run(spec.model_copy(update={"finetune": settings})))
    assert "3 epochs are 1 steps of training.globalBatchSize 64: lower it" in ended.out
    assert "training.warmupSteps 10 is the whole run of 1 steps" in ended.out


@pytest.mark.parametrize("method", ["lora", "full", "prompt-tuning"])
def test_rewards_that_are_all_equal(
    run: Run, base: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
):
    """Nothing can be learned from them, by no further attempt either.

    An answer's probabilities are not to the last bit those of training: Adam makes a whole step of that.
    """
    answer = Actor.answer

    def rounded(self: Actor, *arguments: Any) -> list[Rollout]:
        return [replace(r, reference=r.reference * (1 + 2e-7)) for r in answer(self, *arguments)]

    monkeypatch.setattr(Actor, "answer", rounded)
    virtual = {"prompt_tuning": PromptTuning(virtual_tokens=2)} if method == "prompt-tuning" else {}
    spec = sft(
        tmp_path, base, [{"prompt": f"q{i}", "answer": "far from it"} for i in range(8)], "prompts",
        stage="grpo", method=method, packing=False, training={"max_steps": 2, "global_batch_size": 4},
        rollout=RolloutSettings(max_new_tokens=4),
        grpo=Grpo(group_size=2), reward=RunReward(functions=[RewardFunction(name="exact-match")]), **virtual,
    )  # fmt: skip
    ended = run(spec)
    assert ended.message.reason == Reason.INVALID_SPEC, ended.out
    assert "all answers got the same reward: start from a tuned adapter" in ended.message.message
    assert "nothing is learned from them" in ended.out


def test_classes_by_their_numbers(run: Run, base: Path, tmp_path: Path):
    records = [{"text": f"{word} {i}", "label": label} for i in range(10) for label, word in enumerate("ab")]
    spec = sft(tmp_path, base, records, "classification", stage="classification", labels=["neg", "pos"],
               packing=False)  # fmt: skip
    succeeded(run(spec))
    ended = run(sft(tmp_path / "more", base, [*records, {"text": "c", "label": 2}], "classification",
                    stage="classification", labels=["neg", "pos"], packing=False))  # fmt: skip
    assert ended.code == 11
    assert "x.jsonl, line 21: label '2' is none of the classes (neg, pos)" in ended.message.message
