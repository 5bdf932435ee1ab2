import math
from functools import partial

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from kubetune.api.training import PretrainTraining
from kubetune_trainer import optimizer as optimizers
from kubetune_trainer.checkpoint import State
from kubetune_trainer.data.rows import Row, collate, row_of
from kubetune_trainer.data.streams import MixtureStream
from kubetune_trainer.errors import NaNLoss, Terminated
from kubetune_trainer.loop import StepReport, TrainingLoop, _share, thinned
from kubetune_trainer.loss import LossModel
from kubetune_trainer.model.making import create
from kubetune_trainer.signals import Stop
from tests.fixtures.runs import TINY_LLAMA, numbered


class Recorder:
    """A loop on a tiny model, and what it told."""

    def __init__(self, model, total: int = 6, micro: int = 4, **more) -> None:
        self.reports: list[StepReport] = []
        self.saved: list[int] = []
        self.watched: list[int] = []
        parameters = optimizers.trainable(model)
        settings = {"max_steps": total, "global_batch_size": 4, "learning_rate": 1e-2, "weight_decay": 0.1}
        settings |= more.pop("settings", {})
        self.model = model
        self.loop = TrainingLoop(
            accelerator=Accelerator(cpu=True),
            model=LossModel(model, "fp32"),
            parameters=parameters,
            optimizer=optimizers.adamw(parameters, PretrainTraining(**settings), (0.9, 0.95)),
            stream=MixtureStream([numbered([30, 7, 12, 60])], [1.0], 16, 0),
            settings=PretrainTraining(**settings),
            total_steps=total,
            micro_batch=micro,
            collate=partial(collate, pad=1),
            state=State(),
            stop=Stop(),
            save=lambda: self.saved.append(self.loop.state.step),
            report=self.reports.append,
            watch=lambda: self.watched.append(self.loop.state.step) or 1.0,
            report_seconds=0,
            **{"save_steps": 100, "save_seconds": math.inf, "watch_steps": 100} | more,
        )


@pytest.mark.parametrize("micro", [1, 2, 3, 4])
def test_accumulation_is_exact(tokenizer, micro: int):
    def numbers(size: int) -> list[float]:
        torch.manual_seed(0)
        recorder = Recorder(create(TINY_LLAMA, tokenizer, 32), total=3, micro=size)
        recorder.loop.run()
        return [n for r in recorder.reports for n in (r.loss, r.grad_norm)]

    assert numbers(micro) == pytest.approx(numbers(4), rel=1e-5)


def test_saving_watching_and_reporting(tiny):
    recorder = Recorder(tiny, total=7, save_steps=3, watch_steps=2)
    recorder.loop.run()
    assert recorder.saved == [3, 6, 7]
    assert recorder.watched == [2, 4, 6]
    assert recorder.loop.state.evaluations == [(2, 1.0), (4, 1.0), (6, 1.0)]
    assert [r.step for r in recorder.reports] == [1, 2, 3, 4, 5, 6, 7]
    assert recorder.reports[-1].tokens == recorder.loop.state.tokens == 7 * 4 * 16
    assert recorder.reports[-1].loss < recorder.reports[0].loss
    assert [step for step, _ in recorder.loop.state.curve] == [1, 2, 3, 4, 5, 6, 7]


def test_time_is_a_reason_to_save(tiny):
    recorder = Recorder(tiny, total=3, save_seconds=0)
    recorder.loop.run()
    assert recorder.saved == [1, 2, 3]


def test_asked_to_stop_it_saves_and_leaves(tiny):
    recorder = Recorder(tiny)

    def report(step: StepReport) -> None:
        recorder.loop.stop.requested |= step.step == 2

    recorder.loop.report = report
    with pytest.raises(Terminated):
        recorder.loop.run()
    assert recorder.saved == [3], "at the end of the step that was under way"


def test_asked_to_stop_while_watching_it_saves_and_leaves(tiny):
    recorder = Recorder(tiny, watch_steps=2)

    def watch() -> float:
        recorder.loop.stop.requested = True
        recorder.loop.stop.check()
        return 0.0

    recorder.loop.watch = watch
    with pytest.raises(Terminated):
        recorder.loop.run()
    assert recorder.saved == [2]


@pytest.mark.parametrize("report_seconds", [0, 1000])
def test_a_loss_that_is_no_number_ends_the_run_before_anything_is_saved(tiny, report_seconds: int):
    recorder = Recorder(tiny, settings={"learning_rate": 10.0}, total=20)
    recorder.loop.report_seconds = report_seconds
    with torch.no_grad():
        tiny.model.layers[0].mlp.up_proj.weight.fill_(math.nan)
    with pytest.raises(
        NaNLoss, match=r"the loss is not finite at step 1 of 20: lower training\.learningRate"
    ):
        recorder.loop.run()
    assert recorder.saved == []


def test_gradients_are_clipped_and_the_rate_follows_the_schedule(tiny):
    recorder = Recorder(
        tiny, total=4, settings={"max_grad_norm": 1e-9, "warmup_steps": 2, "schedule": "linear"}
    )
    before = [p.clone() for p in tiny.parameters()]
    recorder.loop.run()
    assert [round(r.learning_rate, 5) for r in recorder.reports] == [0.005, 0.01, 0.01, 0.005]
    assert all(r.grad_norm > 1e-3 for r in recorder.reports), "reported as it was before clipping"
    assert any(not torch.equal(p, q) for p, q in zip(before, tiny.parameters(), strict=True))


def test_norms_and_biases_do_not_decay(tiny):
    settings = PretrainTraining(max_steps=1, weight_decay=0.1)
    groups = optimizers.adamw(optimizers.trainable(tiny), settings, (0.9, 0.95)).param_groups
    names = {id(p): n for n, p in tiny.named_parameters()}
    plain = {names[id(p)] for p in groups[1]["params"]}
    assert groups[0]["weight_decay"] == 0.1
    assert groups[1]["weight_decay"] == 0.0
    assert plain == {n for n, _ in tiny.named_parameters() if "norm" in n}


def test_rows_are_shared_and_nobody_is_without():
    rows = [row_of([(np.arange(n), np.arange(n))]) for n in (3, 9, 5)]
    assert [[len(r) for r in _share(rows, rank, 2)] for rank in range(2)] == [[9, 3], [5]]
    [idle] = _share(rows[:1], 1, 2)
    assert isinstance(idle, Row)
    assert idle.targets == 0


@given(st.lists(st.floats(0, 10), min_size=1, max_size=40), st.integers(1, 4000), st.data())
def test_the_curve_keeps_its_mean_however_it_is_reported(
    losses: list[float], total: int, data: st.DataObject
):
    total = max(total, len(losses))
    curve, done = [], 0
    while done < len(losses):
        count = data.draw(st.integers(1, len(losses) - done))
        curve = thinned(curve, done, losses[done : done + count], total)
        done += count
    every = -(-total // 500)
    assert [s for s, _ in curve] == [min(s, len(losses)) for s in range(every, len(losses) + every, every)]
    for i, (_, value) in enumerate(curve):
        assert value == pytest.approx(np.mean(losses[i * every : (i + 1) * every]), abs=1e-9)
