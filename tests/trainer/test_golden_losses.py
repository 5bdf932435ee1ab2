"""A few steps of each objective and method give the losses that they gave when the file was written.

What changes them changes what is learned: a new release of a library, another order of the data, an edit of a
loss. Machines whose CPUs round differently stay within the tolerance.
"""

import json
from pathlib import Path

import pytest

from kubetune.api.runspec import RunSpec
from tests.fixtures.golden import Golden
from tests.trainer.conftest import Run
from tests.trainer.test_resume import KINDS
from tests.trainer.test_runs import numbers

FILE = Path(__file__).parents[1] / "golden" / "losses.json"
STEPS = 6


def short(spec: RunSpec) -> RunSpec:
    block = "pretrain" if spec.pretrain else "finetune"
    training = spec.training.model_copy(update={"max_steps": STEPS, "precision": "fp32"})
    return spec.model_copy(update={block: training})


@pytest.mark.parametrize("kind", KINDS)
def test_losses(run: Run, base: Path, corpus: Path, tmp_path: Path, kind: str, golden: Golden):
    ended = run(short(KINDS[kind][0](tmp_path / "out", corpus, base)))
    assert ended.code == 0, ended.out
    found = {
        "training loss": numbers(ended.message.trainer_status.metrics)["loss"],
        **numbers(ended.message.evaluation.tuned),
    }
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    if golden.update:
        FILE.write_text(json.dumps(kept | {kind: found}, indent=2, sort_keys=True) + "\n")
        return
    assert found == pytest.approx(kept[kind], rel=2e-3, abs=2e-3)
