"""Rules that give an answer a number from 0 to 1. A new rule is one more function."""

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal

from kubetune.api.reinforcement import RewardFunction
from kubetune_trainer.data.formats import Prompt
from kubetune_trainer.rewards import Judge, Said

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def judge_of(chosen: Sequence[RewardFunction]) -> Judge:
    """A judge by the weighted sum of some rules. It looks at what follows the thought; no answer gets 0."""

    def judge(prompts: Sequence[Prompt], answers: Sequence[Said]) -> list[float]:
        return [
            0.0
            if said.answer is None
            else sum(f.weight * FUNCTIONS[f.name](said.answer, prompt.answer or "") for f in chosen)
            for prompt, said in zip(prompts, answers, strict=True)
        ]

    return judge


def exact_match(said: str, right: str) -> float:
    """Whether the answer is the right one, spaces at the ends aside."""
    return float(said.strip() == right.strip())


def contains(said: str, right: str) -> float:
    """Whether the right answer is in the answer."""
    return float(right.strip() in said)


def number(said: str, right: str) -> float:
    """Whether the last numbers of both are equal, as GSM8K is marked."""
    found, wanted = _last_number(said), _last_number(right)
    return float(found is not None and found == wanted)


def is_json(said: str, right: str) -> float:
    """Whether it is a JSON document."""
    try:
        json.loads(said)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


def _last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


FUNCTIONS: dict[str, Callable[[str, str], float]] = {
    "exact-match": exact_match,
    "contains": contains,
    "number": number,
    "json": is_json,
}
NEED_ANSWER = {"exact-match", "contains", "number"}
"""Rules that compare with the record's answer."""


def lacks(name: str, right: str) -> str | None:
    """What a right answer lacks for a rule that compares with it, or None. If it lacks something, every
    answer would get the same reward."""
    if name == "contains" and not right.strip():
        return "is empty: every answer contains it"
    if name == "number" and _last_number(right) is None:
        return "holds no number"
    return None
