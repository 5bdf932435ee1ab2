"""Data of the stages that learn from rewards: prompts, and the stream of answers to them."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from kubetune.api.progress import DataStatus
from kubetune.api.reinforcement import RolloutSettings
from kubetune.api.runspec import RunReward, RunSource, RunSpec
from kubetune_trainer.data import tokenizer as tokenizers
from kubetune_trainer.data.examples import Skipped, facts_of, read_examples
from kubetune_trainer.data.formats import Prompt
from kubetune_trainer.data.prompts import AskedPrompt, ask
from kubetune_trainer.data.special_tokens import noticed
from kubetune_trainer.data.split import Loaded, split
from kubetune_trainer.data.store import store_of
from kubetune_trainer.data.streams import Epochs, EpochStream, rows_in
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.objectives.prepared import EvaluationSet, Prepared, Surroundings
from kubetune_trainer.rewards import Judge, functions
from kubetune_trainer.rewards import model as reward_model
from kubetune_trainer.rollout.actor import Actor
from kubetune_trainer.rollout.policy import Policy
from kubetune_trainer.rollout.rows import collate
from kubetune_trainer.rollout.stream import RolloutStream, Weigh
from kubetune_trainer.runtime import Precision
from kubetune_trainer.signals import Stop

EVALUATION = 2**32
"""Number of the draw of answers for evaluation; draws for training count from 0."""


def prepare(spec: RunSpec, stop: Stop, weigh: Weigh, *, group: int, epochs: int) -> Prepared:
    """Read and tokenise the prompts, hold some out (see `split`), and plan the batches of answers.

    Args:
        spec: the run.
        stop: whether to stop.
        weigh: computes the advantages of answers.
        group: answers to each prompt.
        epochs: steps on each batch of answers.

    Raises:
        DataError: see `read_records`; or nothing is left to train on; or a reward function needs an answer
            that a record lacks.
        InvalidSpec: the base has no usable tokenizer, or answers leave no room for a prompt.
    """
    if spec.finetune is None or spec.model.path is None or spec.reward is None:
        raise InvalidSpec(f"stage {spec.stage} needs finetune settings, a base model and a reward")
    tokenizer = tokenizers.load_for(spec)
    settings, rollout = spec.finetune, spec.rollout or RolloutSettings()
    room = spec.data.sequence_length - rollout.max_new_tokens
    if room < 1:
        raise InvalidSpec("rollout.maxNewTokens leaves no room for a prompt: raise data.sequenceLength")
    sources = [s for s in spec.data.sources if s.weight > 0]
    load = partial(_load, tokenizer=tokenizer, room=room, reward=spec.reward, stop=stop)
    found = split(spec, sources, load)
    store = store_of((p.tokens for p in found.training), len(tokenizer))
    epochs_of = Epochs(store, found.source, [s.weight for s in sources], None, settings.seed)
    asked_at_once = settings.global_batch_size // group
    rows = 1 if settings.epochs is None else max(1, rows_in(epochs_of, settings.epochs))
    steps = settings.max_steps or math.ceil(rows / asked_at_once) * epochs
    tokens = [int(store.lengths[found.source == i].sum()) for i in range(len(sources))]
    stream = RolloutStream(
        EpochStream(store, epochs_of, None, lambda examples: found.training[examples[0]]), weigh,
        group=group, epochs=epochs, seed=settings.seed, total_steps=steps,
    )  # fmt: skip
    answering = _Answering(spec, tokenizer, rollout, stream, found.measured)
    return Prepared(
        tokenizer=tokenizer,
        stream=stream,
        total_steps=steps,
        evaluation=EvaluationSet([], [], len(found.measured)),
        data=DataStatus(
            documents=len(found.held), held_out=int(found.held.sum()), tokens=sum(tokens),
            truncated=sum(p.cut for p in found.training), dropped=found.dropped,
        ),
        sources=facts_of(sources, found.of_source, found.held, tokens),
        fingerprint=found.fingerprint,
        betas=(0.9, 0.999),
        collate=partial(collate, pad=tokenizer.pad_token_id),
        begin=answering.begin,
        measure=answering.measure,
    )  # fmt: skip


class _Answering:
    """What is done once there is a model: answering and evaluation."""

    def __init__(
        self, spec: RunSpec, tokenizer: PreTrainedTokenizerBase, rollout: RolloutSettings,
        stream: RolloutStream, measured: Sequence[AskedPrompt],
    ) -> None:  # fmt: skip
        self._spec, self._tokenizer, self._rollout = spec, tokenizer, rollout
        self._stream, self._measured = stream, measured

    def begin(self, policy: Policy, around: Surroundings) -> None:
        """Load the judge, and have the policy remember what it begins as."""
        assert self._spec.reward is not None
        judge = _judge(self._spec, self._spec.reward, around.precision, policy.model.device)
        policy.begin()
        self._actor = Actor(policy, self._tokenizer, self._rollout, judge)
        self._stream.bind(self._actor, around.accelerator, around.stop, around.report)

    def measure(self, stop: Stop) -> dict[str, float]:
        """Mean reward and divergence of one answer to each held-out prompt, the same draw each time."""
        if not self._measured:
            return {}
        found = self._actor.answer(self._measured, (self._spec.training.seed, EVALUATION), stop)
        return {
            "reward": float(np.mean([r.reward for r in found])),
            "kl": float(np.mean([r.divergence for r in found])),
        }


def _judge(spec: RunSpec, reward: RunReward, precision: Precision, device: torch.device) -> Judge:
    if reward.model:
        return reward_model.load(spec, reward.model, precision, device)
    return functions.judge_of(reward.functions or [])


def _load(
    source: RunSource, tokenizer: PreTrainedTokenizerBase, room: int, reward: RunReward, stop: Stop
) -> Loaded[AskedPrompt]:
    compare = [f.name for f in reward.functions or [] if f.name in functions.NEED_ANSWER]
    prompts: list[AskedPrompt] = []
    hashes, skipped = [], Skipped()
    for record, example, number in noticed(read_examples(source, stop, skipped), tokenizer, source):
        if not isinstance(example, Prompt):
            raise InvalidSpec(f"source {source.name}: this stage needs format prompts, not {source.format}")
        if compare and example.answer is None:
            raise record.error(f"field 'answer' is missing; reward function {compare[0]} compares with it")
        for name in compare:
            if problem := functions.lacks(name, example.answer or ""):
                raise record.error(
                    f"field 'answer' {problem}; reward function {name} compares with it: mend the record"
                )
        prompts.append(ask(example, record, tokenizer, room))
        hashes.append(number)
    return Loaded(prompts, np.array(hashes, dtype=np.uint64), skipped.count)
