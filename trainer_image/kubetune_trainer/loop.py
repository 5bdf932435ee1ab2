"""The training loop: one optimizer step after another, until the end or until asked to stop."""

import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from kubetune.api.training import Optimisation
from kubetune.api.warnings import WarningReason
from kubetune_trainer import schedule
from kubetune_trainer.checkpoint import State
from kubetune_trainer.data.rows import RowLike
from kubetune_trainer.data.streams import Stream
from kubetune_trainer.errors import NaNLoss, Terminated
from kubetune_trainer.methods.names import tail
from kubetune_trainer.objectives.prepared import Collate
from kubetune_trainer.optimizer import Named
from kubetune_trainer.signals import Stop
from kubetune_trainer.warned import warn

CURVE_POINTS = 500
SHOWN = 8
"""Most names in a warning."""
_ADAPTER = re.compile(r"\.(lora_\w+|base_layer|default|weight)\b")


@dataclass(frozen=True)
class StepReport:
    """Numbers of a step, for progress reports."""

    step: int
    """Steps done."""
    loss: float
    """Mean over the steps since the last report."""
    learning_rate: float
    grad_norm: float
    """Before clipping."""
    tokens: int
    """Seen so far."""
    tokens_per_second: float
    """Since the last report."""
    seconds_per_step: float
    """Since the last report."""


@dataclass
class TrainingLoop:
    """What a loop works with."""

    accelerator: Accelerator
    model: torch.nn.Module
    """The prepared loss model: the loss of a batch, summed."""
    parameters: Named
    optimizer: torch.optim.Optimizer
    stream: Stream
    settings: Optimisation
    total_steps: int
    micro_batch: int
    collate: Collate
    state: State
    stop: Stop
    save: Callable[[], None]
    """Saves a checkpoint of the present state."""
    save_steps: int
    save_seconds: float
    watch: Callable[[], float]
    """Measures the held-out loss."""
    watch_steps: int
    report: Callable[[StepReport], None]
    report_seconds: float = 1.0
    looked: bool = False
    """Whether it was checked which parameters get a gradient."""

    def run(self) -> None:
        """Train from the state to the end.

        Raises:
            NaNLoss: the loss or the gradient is no finite number.
            Terminated: asked to stop; a checkpoint was saved.
            StorageError: a checkpoint cannot be written.
        """
        state = self.state
        saved = time.monotonic()
        window = _Window(state.step, state.tokens)
        self.model.train()
        rate = 0.0
        while state.step < self.total_steps:
            try:
                loss, norm, rate, tokens = self._step()
            except Terminated:  # while rows were made: nothing has changed yet
                if window.losses:
                    self._report(window, rate)
                self.save()
                raise
            state.step += 1
            state.tokens += tokens
            window.add(loss, norm)
            stopping, reporting, overdue = self._agreed(
                self.stop.requested,
                window.age >= self.report_seconds,
                time.monotonic() - saved >= self.save_seconds,
            )
            self.stop.requested = stopping
            watching = state.step % self.watch_steps == 0 and not stopping
            saving = stopping or overdue or state.step == self.total_steps
            saving = saving or state.step % self.save_steps == 0
            if not (saving or watching or state.step == 1 or reporting):
                continue
            self._report(window, rate)
            if watching:
                stopping = not self._watch()
            if saving or stopping:
                self.save()
                saved = time.monotonic()
            if stopping:
                self.stop.check()
            window = _Window(state.step, state.tokens)

    def _watch(self) -> bool:
        """Measure the held-out loss. False: asked to stop meanwhile."""
        try:
            self.state.evaluations.append((self.state.step, self.watch()))
        except Terminated:
            return False
        return True

    def _step(self) -> tuple[torch.Tensor, torch.Tensor, float, int]:
        """One optimizer step. Returns loss, gradient norm, learning rate, tokens seen."""
        s, step = self.settings, self.state.step
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        rate = s.learning_rate * schedule.factor(step, self.total_steps, s.warmup_steps, s.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        rows = self.stream.next(s.global_batch_size)
        targets = max(1, sum(row.targets for row in rows))
        # A checkpoint needs no random state, because dropout is a function of the step.
        torch.manual_seed(((s.seed * 1_000_003 + step) * 4099 + rank) % 2**63)
        mine = _share(rows, rank, world)
        total = torch.zeros((), device=self.accelerator.device)
        for start in range(0, len(mine), self.micro_batch):
            batch = self.collate(mine[start : start + self.micro_batch], self.accelerator.device)
            with self._synchronising(last=start + self.micro_batch >= len(mine)):
                loss = self.model(*batch) / targets
                # Gradients are averaged over processes, but the loss is a sum over all of their tokens.
                self.accelerator.backward(loss * world)
            total += loss.detach()
        self._tell_untrained()
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in self.parameters], s.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, norm, rate, sum(map(len, rows))

    def _tell_untrained(self) -> None:
        """Warn once about parameters that the loss does not depend on. A zero gradient is a gradient."""
        if self.looked:
            return
        self.looked = True
        lost = {name: p.numel() for name, p in self.parameters if p.grad is None}
        if lost:
            names = sorted({_inside(name) for name in lost})
            told = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            warn(
                WarningReason.NOT_TRAINED,
                f"{sum(lost.values()):,} trained parameters got no gradient and stay as they are ({told}): "
                "nothing of the data reaches them in this stage; with an adapter, leave these layers out of "
                "lora.targetModules",
            )

    def _synchronising(self, *, last: bool) -> AbstractContextManager[object]:
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def _agreed(self, *flags: bool) -> list[bool]:
        """For each flag, whether any process sets it. Clocks and signals differ, but after a step all
        processes must do the same, or they would wait for each other forever."""
        if self.accelerator.num_processes == 1:
            return list(flags)
        said = torch.tensor(flags, dtype=torch.float32, device=self.accelerator.device)
        return (self.accelerator.reduce(said) > 0).tolist()

    def _report(self, window: "_Window", rate: float) -> None:
        """Fetch the numbers of the steps since the last report: the only place that waits for the device.

        Raises:
            NaNLoss: one of them is not finite.
        """
        state = self.state
        losses = self.accelerator.reduce(torch.stack(window.losses)).tolist()
        norms = torch.stack(window.norms).tolist()
        for i, (loss, norm) in enumerate(zip(losses, norms, strict=True), window.first + 1):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise NaNLoss(
                    f"the {'gradient' if math.isfinite(loss) else 'loss'} is not finite at step {i} of "
                    f"{self.total_steps}: lower training.learningRate, add warmupSteps or mend the data"
                )
        seconds = window.age
        state.seconds += seconds
        state.learned |= any(norms)
        state.curve = thinned(state.curve, window.first, losses, self.total_steps)
        self.report(
            StepReport(
                step=state.step,
                loss=sum(losses) / len(losses),
                learning_rate=rate,
                grad_norm=norms[-1],
                tokens=state.tokens,
                tokens_per_second=(state.tokens - window.tokens) / seconds,
                seconds_per_step=seconds / len(losses),
            )
        )


class _Window:
    """Steps since the last report."""

    def __init__(self, first: int, tokens: int) -> None:
        self.first, self.tokens, self._started = first, tokens, time.monotonic()
        self.losses: list[torch.Tensor] = []
        self.norms: list[torch.Tensor] = []

    @property
    def age(self) -> float:
        return time.monotonic() - self._started

    def add(self, loss: torch.Tensor, norm: torch.Tensor) -> None:
        self.losses.append(loss)
        self.norms.append(norm)


def _share(rows: Sequence[RowLike], rank: int, world: int) -> Sequence[RowLike]:
    """This process's rows, the longest first, so that micro-batches need little padding. There is always at
    least one, because the other processes wait for this one."""
    ordered = sorted(rows, key=len, reverse=True)
    if mine := ordered[rank::world]:
        return mine
    return [ordered[-1].idle()]


def _inside(name: str) -> str:
    """The part of a parameter's name after its layer's number, without what peft puts into it."""
    return tail(_ADAPTER.sub("", name).removeprefix("base_model.model."))


def thinned(
    curve: list[tuple[int, float]], first: int, losses: Sequence[float], total: int
) -> list[tuple[int, float]]:
    """A curve with the losses of the steps after `first` added.

    It has at most about CURVE_POINTS points, each the mean over equally many steps, at the last of them.
    """
    every = -(-total // CURVE_POINTS)
    curve = [(step, loss) for step, loss in curve]  # JSON makes lists of them
    for step, loss in enumerate(losses, first + 1):
        inside = (step - 1) % every
        if inside == 0 or not curve:
            curve.append((step, loss))
        else:
            curve[-1] = (step, curve[-1][1] + (loss - curve[-1][1]) / (inside + 1))
    return curve
