"""Everything that the templates show."""

from dataclasses import dataclass, field

from kubetune.api.progress import DataStatus, EvaluationStatus, PlanStatus
from kubetune.api.runspec import RunSpec
from kubetune.api.warnings import RunWarning
from kubetune_trainer.data.examples import SourceFacts
from kubetune_trainer.report.words import counted

HIGHER_IS_BETTER = {"token-accuracy", "exact-match", "rouge-l", "accuracy", "f1", "reward-margin", "reward"}
NEITHER = {"kl"}
"""Metrics of which neither more nor less is better: the divergence from the initial model."""
SHARES = HIGHER_IS_BETTER - {"reward-margin", "reward"}
LARGEST = 1e300
"""Larger perplexities are only shown as larger than this, because `loss` limits them."""
AS_THEY_ARE = {"text", "prompt-completion"}
"""Formats of stage sft that do not go through the chat template."""


@dataclass(frozen=True)
class Change:
    """One metric before and after."""

    name: str
    before: float | None
    after: float
    higher: bool | None
    """Whether more is better; None: neither is."""

    @property
    def better(self) -> bool | None:
        """Whether it improved; None: it did not change, was not measured before, or neither way is better."""
        if self.before is None or self.before == self.after:
            return None
        return None if self.higher is None else (self.after > self.before) == self.higher

    def text(self, value: float | None) -> str:
        """A value as people read it: shares in percent."""
        if value is None:
            return "-"
        if value > LARGEST:
            return f"> {LARGEST:.0e}".replace("+", "")
        return f"{value:.1%}" if self.name in SHARES else f"{value:,.4g}"


@dataclass(frozen=True)
class Facts:
    """A finished run."""

    spec: RunSpec
    plan: PlanStatus
    data: DataStatus
    evaluation: EvaluationStatus
    sources: list[SourceFacts]
    curve: list[tuple[int, float]]
    """(step, training loss)"""
    held_out: list[tuple[int, float]]
    """(step, held-out loss)"""
    rewards: list[tuple[int, float]]
    """(step, mean reward of the answers trained on); empty where there is none."""
    evaluated: int
    """Held-out examples or sequences that were measured."""
    tokens: int
    """Seen in training."""
    timings: dict[str, float]
    """Seconds: prepare, baseline, training, evaluation."""
    resumed: list[int]
    """Steps from which the run was resumed."""
    hardware: str
    created: str
    """RFC 3339."""
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    """Of results of lm-eval tasks."""
    digests: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    warnings: list[RunWarning] = field(default_factory=list)
    """What the run did differently from what a user may expect."""
    chat_template_added: bool = False
    """Whether the run's tokenizer had to be given a chat template, the base having none."""

    @property
    def measured(self) -> str:
        """Number and kind of what was measured: sequences in stages that read documents, else examples."""
        reads = self.spec.stage in ("pretrain", "mlm", "domain")
        return counted(self.evaluated, "held-out sequence" if reads else "held-out example")

    @property
    def chats(self) -> bool:
        """Whether the model is asked by the chat template. In the stages of pairs and prompts this is only so
        if a record held messages. That is not known here, so it is assumed."""
        stage, formats = self.spec.stage, {s.format for s in self.spec.data.sources}
        return stage in ("dpo", "ppo", "grpo") or (stage == "sft" and not formats <= AS_THEY_ARE)

    @property
    def uris(self) -> dict[str, str]:
        """URI of each thing that has a digest, by its name in `digests`."""
        spec = self.spec
        parts = {
            "base model": spec.model,
            "adapter": spec.adapter,
            "reward model": spec.reward and spec.reward.model,
        }
        return {name: part.uri for name, part in parts.items() if part and part.uri}

    @property
    def changes(self) -> list[Change]:
        """Metrics before and after."""
        return [change for change in self._changes() if "/" not in change.name]

    @property
    def benchmarks(self) -> list[Change]:
        """Results of lm-eval tasks before and after."""
        return [change for change in self._changes() if "/" in change.name]

    def _changes(self) -> list[Change]:
        before = {v.name: float(v.value) for v in self.evaluation.baseline}
        return [
            Change(v.name, before.get(v.name), float(v.value), self._higher(v.name))
            for v in self.evaluation.tuned
        ]

    def _higher(self, name: str) -> bool | None:
        if "/" in name:
            return self.higher_is_better.get(name)
        return None if name in NEITHER else name in HIGHER_IS_BETTER

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second of training, without baseline and evaluation."""
        seconds = self.timings.get("training")
        return self.tokens / seconds if seconds else None
