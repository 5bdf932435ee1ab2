"""adapter_config.json of a LoRA adapter from elsewhere: which settings are kept when its training continues,
and which are refused.

peft ignores unknown fields, changes the base for some values, and matches the layers' names with any regular
expression. So each value is checked, and only then given to peft.
"""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.methods import experts
from kubetune_trainer.model_files import MOST_LAYERS, json_object
from kubetune_trainer.reading import reading

CONFIG = "adapter_config.json"
ALL_LINEAR = "all-linear"
REMEDY = "name another adapter, or mend the file"
MOST_NAMES = 10_000
HIGHEST_RANK = 65_536
SECONDS = 10
"""Seconds that a regular expression may take for the names of all layers; usual is a millisecond."""
_NAME = re.compile(r"[\w.\-]{1,300}")
_PATTERN = re.compile(r"\^?[\w.\-\\]{1,300}\$?")
"""Without repetitions, so it is matched fast."""
# Python's re cannot be interrupted while it matches. A process that does it can be killed.
_MATCH = """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
pattern, names = json.load(sys.stdin)
matches = re.compile(pattern).fullmatch
json.dump([name for name in names if matches(name)], sys.stdout)
"""


def _rank(value: Any) -> bool:
    return type(value) is int and 1 <= value <= HIGHEST_RANK


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30 and math.isfinite(value)


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value < 1


def _flag(value: Any) -> bool:
    return value is None or type(value) is bool


def _layers(value: Any) -> bool:
    numbers = value if isinstance(value, list) else [] if value is None else [value]
    return all(type(n) is int and 0 <= n <= MOST_LAYERS for n in numbers)


def _names(value: Any) -> bool:
    names = value if isinstance(value, list) else [] if value is None else [value]
    return len(names) <= MOST_NAMES and all(isinstance(n, str) and _NAME.fullmatch(n) for n in names)


def _chosen(value: Any) -> bool:
    return isinstance(value, str) or _names(value)


def _patterns(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def right(value: Any) -> bool:
        return value is None or (
            isinstance(value, dict)
            and len(value) <= MOST_NAMES
            and all(_PATTERN.fullmatch(name) and of(number) for name, number in value.items())
        )

    return right


_TAKEN: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (_rank, f"a whole number from 1 to {HIGHEST_RANK}"),
    "lora_alpha": (_number, "a finite number"),
    "lora_dropout": (_share, "a number from 0 to below 1"),
    "target_modules": (_chosen, "names of layers or one regular expression"),
    "target_parameters": (_names, "plain names"),
    "exclude_modules": (_chosen, "names of layers or one regular expression"),
    "rank_pattern": (_patterns(_rank), "ranks by name, without repetitions in it"),
    "alpha_pattern": (_patterns(_number), "numbers by name, without repetitions in it"),
    "layers_to_transform": (_layers, "numbers of layers"),
    "layers_pattern": (_names, "plain names"),
    "modules_to_save": (_names, "plain names"),
    "use_rslora": (_flag, "true or false"),
    "use_dora": (_flag, "true or false"),
    "fan_in_fan_out": (_flag, "true or false"),
    # The initial A and B do not matter, because the adapter's replace them. But pissa, olora, corda, loftq
    # and lora_ga also change the base.
    "init_lora_weights": (
        lambda value: value in (True, False, "gaussian", "orthogonal", "eva"),
        "true, false, gaussian, orthogonal or eva: the others change the base",
    ),
    "bias": (lambda value: value == "none", "none: biases of the base are not gone on with"),
}
"""Fields that are given to peft: a check of the value, and the right values in words."""
_INERT = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "inference_mode", "loftq_config",
    "lora_ga_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "revision",
    "task_type",
}  # fmt: skip
"""Fields that only say where the adapter comes from, or belong to a feature that is off."""


def read(folder: Path, what: str) -> LoraConfig:
    """A LoRA adapter's own settings.

    Args:
        folder: of the adapter.
        what: name of the adapter in messages.

    Raises:
        InvalidSpec: a setting is unknown or malformed, or training cannot continue with it.
    """
    fields = json_object(folder / CONFIG, what)
    for name, value in fields.items():
        right, kind = _TAKEN.get(name, (None, ""))
        if right is None:
            if name not in _INERT and value not in (None, False, "", [], {}):
                raise InvalidSpec(
                    f"{what}: {CONFIG} has {name} {_shown(value)}, from which training cannot continue: "
                    "name an adapter without it"
                )
        elif not right(value):
            raise InvalidSpec(f"{what}: {CONFIG} has {name} {_shown(value)}, which is not {kind}: {REMEDY}")
    taken = {n: fields[n] for n in _TAKEN if fields.get(n) is not None}
    if taken.get("init_lora_weights") == "eva":
        taken["init_lora_weights"] = True
    with reading(f"{what}: {CONFIG}", REMEDY):
        config = LoraConfig(**taken)
    experts.register(config)
    return config


def resolve(config: LoraConfig, model: torch.nn.Module, what: str) -> None:
    """Replace the regular expressions of a config by the names of the layers that they match in a model.

    Raises:
        InvalidSpec: one is malformed, or takes too long.
    """
    for field in ("target_modules", "exclude_modules"):
        pattern = getattr(config, field)
        if isinstance(pattern, str) and pattern != ALL_LINEAR:
            names = [name for name, _ in model.named_modules() if name]
            setattr(config, field, set(_matched(pattern, names, f"{what}: {CONFIG}: {field}")))


def _matched(pattern: str, names: list[str], what: str) -> list[str]:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MATCH],
            input=json.dumps([pattern, names]).encode(), capture_output=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise InvalidSpec(
            f"{what} is a regular expression that is not matched in {SECONDS} seconds: "
            "list the names of the layers instead"
        ) from error
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:300]
        raise InvalidSpec(
            f"{what} is not a regular expression ({last}): list the names of the layers instead"
        )
    found: list[str] = json.loads(done.stdout)
    return found


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
