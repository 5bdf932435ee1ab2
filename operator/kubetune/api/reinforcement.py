"""Blocks of the stages that learn from rewards of the model's own answers: ppo and grpo."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from kubetune.api.meta import Block, map_list, one_of, rules
from kubetune.api.source import RewardModel

FunctionName = Literal["exact-match", "contains", "number", "json"]


class RewardFunction(Block):
    """A rule that gives each answer a number from 0 to 1."""

    name: FunctionName
    """exact-match: 1 if the answer equals the record's `answer`, apart from spaces at the ends; contains: 1
    if the answer contains the record's `answer`; number: 1 if the last number in the answer equals the last
    number in the record's `answer`; json: 1 if the answer is a JSON document. Otherwise 0."""
    weight: Annotated[float, Field(gt=0, le=1_000_000)] = 1.0
    """Its factor in the sum."""


class Reward(Block):
    """How good an answer is."""

    model_config = ConfigDict(json_schema_extra=rules(one_of("model (a reward model)", "functions (rules)")))

    model: RewardModel | None = None
    """A reward model: it reads prompt and answer."""
    functions: Annotated[
        list[RewardFunction] | None,
        Field(min_length=1, max_length=4, json_schema_extra=map_list("name")),
    ] = None
    """Rules; the reward is the sum of weight times result."""


class RolloutSettings(Block):
    """How the model answers the prompts that it is trained on."""

    max_new_tokens: Annotated[int, Field(ge=1, le=65_536)] = 128
    """Longest answer in tokens. Prompts may use the rest of data.sequenceLength."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Tokens are sampled from softmax(logits / temperature), and the loss is computed for the same
    distribution."""
    missing_end_penalty: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """Subtracted from the reward of an answer that does not end within maxNewTokens."""


class Ppo(Block):
    """Proximal policy optimisation with a value head (Schulman et al. 2017; of language models Ziegler et al.
    2019, Ouyang et al. 2022)."""

    epochs: Annotated[int, Field(ge=1, le=64)] = 4
    """Optimizer steps on each batch of answers."""
    clip_range: Annotated[float, Field(gt=0, le=1)] = 0.2
    """A token's probability ratio is clipped to 1 ± clipRange."""
    value_clip_range: Annotated[float, Field(gt=0, le=1000)] = 0.2
    """A value may move by at most valueClipRange from what it was when the answer was sampled."""
    value_coefficient: Annotated[float, Field(ge=0, le=1000)] = 0.1
    """Weight of the value loss."""
    kl_coefficient: Annotated[float, Field(ge=0, le=1000)] = 0.05
    """Penalty for drifting from the reference, which is the model at the start: the reward of each token is
    lowered by klCoefficient times log p(token) - log p_reference(token)."""
    kl_target: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """If set, klCoefficient is adapted so that the divergence of an answer from the reference approaches this
    many nats (Ziegler et al. 2019, section 2.2)."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Discount per token."""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    """λ of generalised advantage estimation (Schulman et al. 2015)."""


class Grpo(Block):
    """Group relative policy optimisation (Shao et al. 2024, DeepSeekMath)."""

    group_size: Annotated[int, Field(ge=2, le=1024)] = 8
    """Answers to each prompt, which are compared with each other. Must divide training.globalBatchSize."""
    epochs: Annotated[int, Field(ge=1, le=64)] = 1
    """Optimizer steps on each batch of answers."""
    clip_range: Annotated[float, Field(gt=0, le=1)] = 0.2
    """A token's probability ratio is clipped to 1 ± clipRange."""
    beta: Annotated[float, Field(ge=0, le=1000)] = 0.04
    """Weight of the divergence from the reference, the model at the start."""
    scale_rewards: bool = True
    """Divide a group's advantages by the standard deviation of its rewards. Without it prompts of any
    difficulty have the same weight (Liu et al. 2025, Dr. GRPO)."""
