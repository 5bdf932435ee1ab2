"""What a job may be referenced for, and why another may not. Pure.

Each fact has one reason, wherever the job is named.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubetune.api.exitcodes import Reason
from kubetune.api.progress import ArtifactStatus
from kubetune.api.stages import CLASSES, WITH_HEAD
from kubetune.api.status import find, is_true
from kubetune.references.job import ReferencedJob, stage_of

WAITING = frozenset({"JobNotFound", "JobNotComplete", "NoCompleteJob"})
"""Reasons that say: somebody else must finish first. All others need a person."""

LANGUAGE, MASKED, REWARD, CLASSIFIER = (
    "a language model", "a masked language model", "a reward model", "a classifier",
)  # fmt: skip
_MODELS = {"mlm": MASKED, "reward": REWARD, **dict.fromkeys(CLASSES, CLASSIFIER)}
_FORMATS = {"full": "full weights", "lora": "a LoRA adapter", "prompt": "virtual tokens"}
_GOES_ON = "This resource continues by itself once that job is Complete"


@dataclass(frozen=True)
class Problem:
    """Why something that is named cannot be used, or not yet."""

    reason: str
    """One word for programs."""
    message: str
    """For people: what is the case, and what to do."""


@dataclass(frozen=True)
class Use:
    """A purpose for which a job is named: as a base, an adapter or a reward model."""

    models: tuple[str, ...]
    """Kinds of model that the job may make."""
    not_such_model: str
    """Reason given if it makes another kind of model."""
    formats: tuple[str, ...]
    """Formats that its artifact may have."""
    not_such_format: str = ""
    """Reason given if the format is another."""
    remedy: str = ""
    """What to name instead."""


def _base(not_such_model: str, *models: str) -> Use:
    remedy = "name a job of full weights: a PretrainJob, or one with method: full or output.merge"
    return Use(models, not_such_model, ("full",), "NotFullWeights", remedy)


def _adapter(format: str, how: str) -> Use:
    return Use((LANGUAGE,), "NotAnAdapter", (format,), "NotAnAdapter", f"name a job with {how}")


BASE = _base("NotALanguageModel", LANGUAGE)
"""The base of a language model, to be trained or served."""
MASKED_BASE = _base("NotAMaskedModel", MASKED)
REWARD_BASE = _base("NotALanguageModel", LANGUAGE, REWARD, CLASSIFIER)
CLASSIFIER_BASE = _base("", LANGUAGE, MASKED, REWARD, CLASSIFIER)
LORA_ADAPTER = _adapter("lora", "method: lora and without output.merge")
"""An adapter to be trained on or served."""
VIRTUAL_TOKENS = _adapter("prompt", "method: prompt-tuning")
JUDGE = Use((REWARD,), "NotARewardModel", ("full", "lora"))
"""What rewards answers."""


def use_of(field: str, kind: str, spec: Mapping[str, Any]) -> Use:
    """The purpose for which a training job names another.

    Args:
        field: of its spec, as in `starts`.
        kind: its kind.
        spec: as it is stored.
    """
    if field == "reward.model":
        return JUDGE
    if field == "adapter":
        return VIRTUAL_TOKENS if spec.get("method") == "prompt-tuning" else LORA_ADAPTER
    own = stage_of(kind, spec)
    if own in CLASSES:
        return CLASSIFIER_BASE
    return MASKED_BASE if own == "mlm" else REWARD_BASE if own in WITH_HEAD else BASE


def artifact_for(use: Use, kind: str, name: str, job: ReferencedJob | None) -> ArtifactStatus | Problem:
    """What a job has made, if it may be used; otherwise why not. If the job can never make what is needed,
    that is said before it is Complete.

    Args:
        use: what it is named for.
        kind: its kind.
        name: its name.
        job: the job, if there is one.
    """
    if job is None:
        return Problem("JobNotFound", f"{kind} {name} does not exist: create it. {_GOES_ON}")
    return _unfit(use, job) or job.made or _not_made(job)


def _unfit(use: Use, job: ReferencedJob) -> Problem | None:
    """Why a job can never make what is needed."""
    model = _MODELS.get(job.stage, LANGUAGE)
    if model not in use.models:
        return Problem(use.not_such_model, f"{job} makes {model}: name a job that makes {use.models[0]}")
    if job.format not in use.formats:
        return Problem(use.not_such_format, f"{job} makes {_FORMATS[job.format]}: {use.remedy}")
    return None


def _not_made(job: ReferencedJob) -> Problem:
    """Why a job has made nothing yet."""
    status = job.status
    if is_true(status.conditions, "Failed"):
        cause = status.failure.message if status.failure else Reason.INTERNAL_ERROR.value
        return Problem(
            "JobFailed", f"{job} failed ({cause}): delete it and apply a corrected one under the same name"
        )
    if job.deleted:
        return Problem("JobNotFound", f"{job} is being deleted: create it again. {_GOES_ON}")
    waits = find(status.conditions, "DependenciesReady")
    why = f" ({waits.message.removesuffix(f'. {_GOES_ON}')})" if waits and waits.status == "False" else ""
    return Problem("JobNotComplete", f"{job} is {status.phase}{why}. {_GOES_ON}")


def wrong_base(name: str, belongs_to: str | None, base: str | None) -> Problem | None:
    """Why an adapter cannot be one of a base; None where it can, or where a digest is not known.

    Args:
        name: of the adapter, for people.
        belongs_to: digest of the base that it was trained on.
        base: digest of the base that it is named with.
    """
    if None in (belongs_to, base) or belongs_to == base:
        return None
    return Problem(
        "BaseModelMismatch",
        f"{name} was trained on the base with digest {belongs_to}, but the base named here has digest "
        f"{base}: name the base that it was trained on, or train it again on this one",
    )
