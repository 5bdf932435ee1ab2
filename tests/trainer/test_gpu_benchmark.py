"""benchmarks/gpu with tiny models, on whatever device there is: both trainers do the same work."""

from pathlib import Path

import pytest

from benchmarks.gpu.base import write_base
from benchmarks.gpu.turn import take
from benchmarks.gpu.workloads import WORKLOADS, tiny
from kubetune_trainer.loop import TrainingLoop


@pytest.mark.parametrize("workload", [tiny(w) for w in WORKLOADS], ids=lambda w: w.name)
def test_both_trainers_do_the_same_work(tmp_path: Path, workload) -> None:
    write_base(tmp_path / "base", workload)
    real = TrainingLoop.run
    ours, hf = (take(side, workload, tmp_path / "base") for side in ("ours", "hf"))
    assert ours["loss"] == pytest.approx(hf["loss"], rel=1e-3)
    assert len(ours["tokens_per_second"]) == len(hf["tokens_per_second"]) == workload.steps
    assert TrainingLoop.run is real
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
