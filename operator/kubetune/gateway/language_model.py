"""Whether a folder holds a model that generates text, by the names of transformers' classes in its config.

What is not known by its name is left to the engine.
"""

import json
import re
from pathlib import Path

_KINDS = (
    # What a class is called, and what it is. The first that fits.
    (re.compile(r"For\w*Reward\w*|\w*RewardModel"), "a reward model"),
    (re.compile(r"For\w*Classification|\w*ClassificationModel"), "a classifier"),
    (re.compile(r"ForMaskedLM|ForPreTraining"), "a masked language model"),
    (re.compile(r"ForQuestionAnswering|ForMultipleChoice|ForNextSentencePrediction"), "a classifier"),
    (re.compile(r"ForTextEncoding|ForRetrieval|ForRanking|ForSentenceEmbedding"), "an encoder"),
    # Engines take a class without a head for an encoder. The excluded names also end in Model, but generate.
    (re.compile(r"(?<!Chat)(?<!LMHead)(?<!LM)(?<!GLM)(?<!Omni)(?<!Audio)(?<!Ultravox)Model"), "an encoder"),
)


def another_model(folder: Path) -> str | None:
    """What the model in a folder is, if it is known not to generate text."""
    kinds = [_kind(name) for name in _architectures(folder)]
    return kinds[0] if kinds and all(kinds) else None


def _kind(architecture: str) -> str | None:
    told = next((what for ending, what in _KINDS if re.search(f"(?:{ending.pattern})$", architecture)), None)
    return told and f"{told} ({architecture})"


def _architectures(folder: Path) -> list[str]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return []  # the engine says what is wrong with it
    named = config.get("architectures") if isinstance(config, dict) else None
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
