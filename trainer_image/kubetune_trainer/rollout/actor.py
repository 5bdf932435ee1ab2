"""Answers prompts with the policy as it is, and scores and rewards the answers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from kubetune.api.reinforcement import RolloutSettings
from kubetune_trainer.data.prompts import AskedPrompt
from kubetune_trainer.evaluate import in_batches
from kubetune_trainer.generate import continuations, told
from kubetune_trainer.model.counting import end_tokens
from kubetune_trainer.model.probing import evaluating
from kubetune_trainer.rewards import Judge
from kubetune_trainer.rollout.policy import Policy
from kubetune_trainer.rollout.rows import NOTHING, Floats, Rollout, collate
from kubetune_trainer.signals import Stop


@dataclass(frozen=True)
class Actor:
    """The policy, its tokenizer and who judges it."""

    policy: Policy
    tokenizer: PreTrainedTokenizerBase
    settings: RolloutSettings
    judge: Judge

    def answer(self, prompts: Sequence[AskedPrompt], seed: Sequence[int], stop: Stop | None) -> list[Rollout]:
        """Draw an answer to each prompt.

        Args:
            prompts: the prompts.
            seed: of the draw.
            stop: looked at between tokens.

        Raises:
            Terminated: asked to stop.
        """
        said = self._draw(prompts, seed, stop)
        rewards = self._rewards(prompts, said)
        drawn = [
            Rollout(np.array(p.tokens, np.int64), np.array(a, np.int64), reward, NOTHING, NOTHING)
            for p, a, reward in zip(prompts, said, rewards, strict=True)
        ]
        old, values = self._scores(drawn, stop)
        with self.policy.reference():
            reference, _ = self._scores(drawn, stop)
        return [
            replace(d, old=o, reference=r, values=v)
            for d, o, r, v in zip(drawn, old, reference, values, strict=True)
        ]

    def _draw(
        self, prompts: Sequence[AskedPrompt], seed: Sequence[int], stop: Stop | None
    ) -> list[list[int]]:
        model = self.policy.model
        torch.manual_seed(int(np.random.default_rng(seed).integers(2**63)))
        config = GenerationConfig(
            max_new_tokens=self.settings.max_new_tokens, do_sample=True,
            temperature=self.settings.temperature, top_k=0, top_p=1.0,
        )  # fmt: skip
        with self.policy.autocast():
            return continuations(model, self.tokenizer, [p.tokens for p in prompts], config, stop)

    def _rewards(self, prompts: Sequence[AskedPrompt], said: Sequence[list[int]]) -> list[float]:
        answers = told(self.tokenizer, [p.tokens for p in prompts], said)
        ends = end_tokens(self.policy.model, self.tokenizer)
        return [
            reward - (self.settings.missing_end_penalty if answer[-1] not in ends else 0.0)
            for reward, answer in zip(self.judge([p.prompt for p in prompts], answers), said, strict=True)
        ]

    def _scores(self, drawn: Sequence[Rollout], stop: Stop | None) -> tuple[list[Floats], list[Floats]]:
        """Log-probabilities and values of each answer's tokens."""
        likely: list[Floats] = [NOTHING] * len(drawn)
        expected = list(likely)
        with evaluating(self.policy):
            for part in in_batches(drawn, stop):
                chosen = [drawn[i] for i in part]
                batch = collate(chosen, self.policy.model.device, pad=self.tokenizer.pad_token_id)
                found, values = self.policy.scored(*batch[:3])
                sizes = [len(r.answer) for r in chosen]
                for i, numbers in zip(part, found.cpu().split(sizes), strict=True):
                    likely[i] = numbers.numpy()
                if values is not None:
                    for i, numbers in zip(part, values.cpu().split(sizes), strict=True):
                        expected[i] = numbers.numpy()
        return likely, expected
