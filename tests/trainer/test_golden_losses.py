"""A few steps of each objective and method give the losses that they gave when the file was written.

What changes them changes what is learned: a new release of a library, another order of the data, an edit of
a loss. Machines whose CPUs round differently stay within the tolerance, since the learning rate is small, of
the base as well: a large one makes much of the last bit. Adapters have no dropout, since torch draws other
masks on processors of another vendor.
"""

import json
from pathlib import Path

import pytest

from kubetune.api.runspec import RunSpec
from tests.fixtures.golden import Golden
from tests.trainer.conftest import Ended, Run
from tests.trainer.test_resume import KINDS
from tests.trainer.test_runs import numbers

FILE = Path(__file__).parents[1] / "golden" / "losses.json"
STEPS = 6
RATE = 1e-3
WITHIN = {"qlora": 1e-2, "merged": 1e-2, "classification": 1e-2}
"""Of the kinds on a base in 4 bits: the kernels that widen it differ from processor to processor, by up to
0.5% of the loss. The encoder that is classified with has dropout."""
JUMPING = {"perplexity", "accuracy", "f1", "reward"}
NEAR = {"grpo": 1e-2, "ppo": 1e-2}
"""Of the kinds that learn from answers, which are drawn by chance."""


def short(spec: RunSpec) -> RunSpec:
    block = "pretrain" if spec.pretrain else "finetune"
    lora = spec.lora and spec.lora.model_copy(update={"dropout": 0.0})
    training = spec.training.model_copy(
        update={"max_steps": STEPS, "precision": "fp32", "learning_rate": RATE}
    )
    return spec.model_copy(update={block: training, "lora": lora})


def losses_of(ended: Ended) -> dict[str, float]:
    """Without perplexity, which is the exponential of the loss, errors and all, and without shares of
    examples, which jump where two answers are nearly as good."""
    measured = numbers(ended.message.evaluation.tuned)
    kept = {name: value for name, value in measured.items() if name not in JUMPING}
    return {"training loss": numbers(ended.message.trainer_status.metrics)["loss"], **kept}


@pytest.mark.parametrize("kind", KINDS)
def test_losses(run: Run, calm: Path, corpus: Path, tmp_path: Path, kind: str, golden: Golden):
    ended = run(short(KINDS[kind][0](tmp_path / "out", corpus, calm)))
    assert ended.code == 0, ended.out
    found = losses_of(ended)
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    if golden.update:
        FILE.write_text(json.dumps(kept | {kind: found}, indent=2, sort_keys=True) + "\n")
        return
    within = WITHIN.get(kind, 2e-3)
    assert found == pytest.approx(kept[kind], rel=within, abs=NEAR.get(kind, 2e-3))
