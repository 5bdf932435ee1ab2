"""What goes with which stage of a FineTuneJob: CEL rules of its spec."""

from kubetune.api.meta import cel
from kubetune.api.reinforcement import Grpo, RolloutSettings

PAIRS = ("dpo", "reward")
"""Stages that compare two answers."""
REWARDED = ("ppo", "grpo")
"""Stages that answer prompts themselves and learn from the rewards of their answers."""
CLASSES = ("classification",)
"""Stages that tell classes of text apart."""
UNPACKED = (*PAIRS, *REWARDED, *CLASSES)
"""Stages that look at pairs of answers, at prompts or at texts, each by itself."""
WITH_HEAD = ("reward", *CLASSES)
"""Stages whose result has a head of its own instead of the language model's: an adapter holds it, too."""

DOCUMENTS = ("domain",)
"""Stages that read documents."""

_METRICS = {
    PAIRS: ["loss", "accuracy", "reward-margin"],
    CLASSES: ["loss", "accuracy", "f1"],
    REWARDED: ["reward", "kl"],
    DOCUMENTS: ["loss", "perplexity", "token-accuracy"],
    ("sft",): ["loss", "perplexity", "token-accuracy", "exact-match", "rouge-l"],
}
_TEXTS = "stage domain takes only format text: change format or stage"


def _is(stages: tuple[str, ...]) -> str:
    """CEL: the job is of one of these stages."""
    return f"self.stage in {[*stages]}"


def _words(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _stages(stages: tuple[str, ...]) -> str:
    return f"stages {_words([*stages])}" if len(stages) > 1 else f"stage: {stages[0]}"


def _block(field: str, stages: tuple[str, ...]) -> dict[str, str]:
    """A block of settings goes with some stages."""
    return cel(
        f"!has(self.{field}) || {_is(stages)}",
        f"{field} goes with {_stages(stages)}: remove it or change stage",
        field_path=f".{field}",
    )


def _format(name: str, stages: tuple[str, ...]) -> list[dict[str, str]]:
    """A format goes with some stages, and these stages take no other format."""
    message = f"format {name} and {_stages(stages)} go only with each other: change format or stage"
    return [
        cel(
            f"self.data.sources.all(s, (s.format == '{name}') == ({_is(stages)}))",
            message,
            field_path=".data.sources",
        ),
        cel(
            "!has(self.evaluation) || !has(self.evaluation.data)"
            f" || (self.evaluation.data.format == '{name}') == ({_is(stages)})",
            message,
            field_path=".evaluation.data.format",
        ),
    ]


def _no_prompt_loss(stages: tuple[str, ...], why: str) -> dict[str, str]:
    return cel(
        f"!has(self.data.promptLoss) || !self.data.promptLoss || !({_is(stages)})",
        f"{why}: remove promptLoss",
        field_path=".data.promptLoss",
    )


def _metrics() -> dict[str, str]:
    """Each stage is measured by metrics of its own."""
    *some, (_, others) = _METRICS.items()
    cases = "".join(f"{_is(stages)} ? {metrics} : " for stages, metrics in some)
    told = "; ".join(f"{_words([*stages])}: {_words(metrics)}" for stages, metrics in _METRICS.items())
    return cel(
        "!has(self.evaluation) || !has(self.evaluation.metrics)"
        f" || self.evaluation.metrics.all(m, m in ({cases}{others}))",
        f"each stage has its own metrics ({told}): choose from these",
        field_path=".evaluation.metrics",
    )


_ANSWER_TOKENS = RolloutSettings().max_new_tokens

STAGE_RULES = (
    _block("dpo", ("dpo",)),
    _block("reward", REWARDED),
    _block("rollout", REWARDED),
    _block("ppo", ("ppo",)),
    _block("grpo", ("grpo",)),
    _block("classification", CLASSES),
    *_format("preference", PAIRS),
    *_format("classification", CLASSES),
    *_format("prompts", REWARDED),
    cel(
        f"!({_is(DOCUMENTS)}) || self.data.sources.all(s, s.format == 'text')",
        _TEXTS,
        field_path=".data.sources",
    ),
    cel(
        f"!({_is(DOCUMENTS)}) || !has(self.evaluation) || !has(self.evaluation.data)"
        " || self.evaluation.data.format == 'text'",
        _TEXTS,
        field_path=".evaluation.data.format",
    ),
    cel(
        f"!has(self.data.enableThinking) || !({_is((*DOCUMENTS, *CLASSES))})",
        f"{_stages((*DOCUMENTS, *CLASSES))} use no chat template: remove enableThinking",
        field_path=".data.enableThinking",
    ),
    cel(
        f"!has(self.data.packing) || !self.data.packing || !({_is(UNPACKED)})",
        f"{_stages(UNPACKED)} give each example a row of its own: remove packing",
        field_path=".data.packing",
    ),
    _metrics(),
    _no_prompt_loss(PAIRS, "stages dpo and reward compare only answers"),
    _no_prompt_loss(REWARDED, "stages ppo and grpo learn only from answers"),
    _no_prompt_loss(DOCUMENTS, "documents of stage domain have no prompts"),
    _no_prompt_loss(CLASSES, "texts of stage classification have no prompts"),
    cel(
        "self.stage != 'reward' || !has(self.evaluation) || !has(self.evaluation.samplePrompts)"
        " || self.evaluation.samplePrompts.size() == 0",
        "a reward model writes no answers: remove samplePrompts",
        field_path=".evaluation.samplePrompts",
    ),
    cel(
        f"!({_is(WITH_HEAD)}) || !has(self.evaluation) || !has(self.evaluation.lmEval)",
        f"lmEval measures language models, which {_stages(WITH_HEAD)} do not train: remove it or change "
        "stage",
        field_path=".evaluation.lmEval",
    ),
    cel(
        f"has(self.reward) || !({_is(REWARDED)})",
        "stages ppo and grpo must know which answers are good: set reward.model or reward.functions",
        field_path=".reward",
    ),
    cel(
        f"!({_is(REWARDED)}) || (has(self.rollout) ? self.rollout.maxNewTokens : {_ANSWER_TOKENS})"
        " < self.data.sequenceLength",
        f"answers of up to rollout.maxNewTokens ({_ANSWER_TOKENS} when absent) leave no room for prompts: "
        "set it lower than data.sequenceLength",
        field_path=".rollout.maxNewTokens",
    ),
    cel(
        "self.stage != 'grpo' || self.training.globalBatchSize"
        f" % (has(self.grpo) ? self.grpo.groupSize : {Grpo().group_size}) == 0",
        f"grpo.groupSize ({Grpo().group_size} when absent) must divide training.globalBatchSize, which "
        "counts answers: change one of them",
        field_path=".grpo.groupSize",
    ),
    cel(
        f"self.method != 'qlora' || !({_is(CLASSES)})",
        "stage classification goes with methods lora and full: choose one of them",
        field_path=".method",
    ),
    cel(
        f"!has(self.data.labels) || {_is(CLASSES)}",
        "labels go with stage: classification: remove them or change stage",
        field_path=".data.labels",
    ),
)
