"""Rows of the model's own answers: a batch is trained on for some steps, then the next is drawn."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from kubetune.api.warnings import WarningReason
from kubetune_trainer.data.prompts import AskedPrompt
from kubetune_trainer.data.rows import RowLike
from kubetune_trainer.data.streams import EpochStream
from kubetune_trainer.errors import Terminated
from kubetune_trainer.log import say
from kubetune_trainer.loop import thinned
from kubetune_trainer.rollout.actor import Actor
from kubetune_trainer.rollout.rows import Rollout, pack, unpack
from kubetune_trainer.signals import Stop
from kubetune_trainer.warned import warn

Memory = dict[str, float]
"""What an objective remembers from batch to batch."""
Weigh = Callable[[Sequence[Rollout], Memory], list[Rollout]]
"""Computes the advantages of answers."""


class RolloutStream:
    """Rows of the model's own answers. The state holds the present answers, so that a run resumes exactly."""

    def __init__(
        self, prompts: EpochStream, weigh: Weigh, *,
        group: int, epochs: int, seed: int, total_steps: int,
    ) -> None:  # fmt: skip
        """Args:
        prompts: an endless stream of `AskedPrompt`s.
        weigh: computes the advantages of answers.
        group: answers to each prompt.
        epochs: steps on each batch of answers.
        seed: of the draws.
        total_steps: of the run.
        """
        self._prompts, self._weigh = prompts, weigh
        self._group, self._epochs, self._seed = group, epochs, seed
        self._total = -(-total_steps // epochs)
        self._rows: list[Rollout] = []
        self._left = self._made = 0
        self._memory: Memory = {}
        self._rewards: list[tuple[int, float]] = []

    def bind(self, actor: Actor, accelerator: Accelerator, stop: Stop, report: Callable[..., None]) -> None:
        """Set who answers, the processes that share the work, and who gets the metrics."""
        self._actor, self._accelerator, self._stop, self._report = actor, accelerator, stop, report

    def next(self, count: int) -> list[RowLike]:
        """The present answers, or `count` new ones.

        Raises:
            Terminated: asked to stop; nothing has changed.
        """
        if self._left == 0:
            self._make(count)
        self._left -= 1
        return list(self._rows)

    def _make(self, count: int) -> None:
        before = self._prompts.state()
        try:
            asked = cast("list[AskedPrompt]", self._prompts.next(count // self._group))
            drawn = self._share([p for p in asked for _ in range(self._group)])
        except Terminated:
            self._prompts.restore(before)
            raise
        self._rows = self._weigh(drawn, self._memory)
        self._rewards = thinned(
            self._rewards, self._made, [float(np.mean([r.reward for r in drawn]))], self._total
        )
        self._left, self._made = self._epochs, self._made + 1
        facts = {
            "reward": float(np.mean([r.reward for r in drawn])),
            "kl": float(np.mean([r.divergence for r in drawn])),
            "answerTokens": float(np.mean([len(r.answer) for r in drawn])),
        } | self._memory
        self._report(**facts)
        say("rollout", number=self._made, answers=len(drawn), **facts)
        if not any(row.teaches for row in self._rows):
            warn(
                WarningReason.EQUAL_REWARDS,
                "all answers got the same reward, so nothing is learned from them",
            )
            # Rounding gives them a tiny gradient, of which Adam would make a step as large as any.
            self._rows = [row.idle() for row in self._rows]

    def _share(self, prompts: list[AskedPrompt]) -> list[Rollout]:
        """Have each process answer some of the prompts; all get all answers."""
        rank, world = self._accelerator.process_index, self._accelerator.num_processes
        # Processes that are asked to stop at different moments would wait for each other.
        stop = self._stop if world == 1 else None
        mine = range(rank, len(prompts), world)
        found = self._actor.answer([prompts[i] for i in mine], (self._seed, self._made, rank), stop)
        if world == 1:
            return found
        by_number: dict[int, Rollout] = dict(gather_object(list(zip(mine, found, strict=True))))
        return [by_number[i] for i in range(len(prompts))]

    @property
    def mean_row(self) -> float:
        """Tokens in a row, about."""
        return float(np.mean([len(row) for row in self._rows])) if self._rows else self._prompts.mean_row

    def state(self) -> dict[str, Any]:
        """Position in the prompts, and the answers that are still to be trained on."""
        rows = pack(self._rows) if self._left else {}
        return {
            "prompts": self._prompts.state(),
            "left": self._left,
            "made": self._made,
            "memory": dict(self._memory),
            "rewards": [(number * self._epochs, reward) for number, reward in self._rewards],
            **{f"{ROWS}{name}": tensor for name, tensor in rows.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a position."""
        self._prompts.restore(state["prompts"])
        self._left, self._made, self._memory = state["left"], state["made"], dict(state["memory"])
        self._rewards = [(step // self._epochs, reward) for step, reward in state["rewards"]]
        rows: dict[str, torch.Tensor] = {
            name.removeprefix(ROWS): value for name, value in state.items() if name.startswith(ROWS)
        }
        self._rows = unpack(rows) if rows else []


ROWS = "rows."
"""Prefix of the names of a state's tensors."""
