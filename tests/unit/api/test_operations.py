"""docs/operations.md knows every phase and every reason that a user can meet."""

import re
from pathlib import Path
from typing import get_args

import pytest

from kubetune.api.exitcodes import EXIT_CODES, Reason
from kubetune.api.status import JobPhase, SetPhase
from kubetune.api.table import AdapterReason
from kubetune.references import uses

PAGE = (Path(__file__).parents[3] / "docs/operations.md").read_text()
ROOT = Path(__file__).parents[3] / "operator/kubetune"
TOLD = set(re.findall(r"`(\w+)`", PAGE))
_SAID = re.compile(r'(?:Need|Left|Problem)\(\s*(?:(?:False|None),\s*)?"(\w+)"')
USES = (use for use in vars(uses).values() if isinstance(use, uses.Use))
CONDITION_REASONS = {
    *(reason for path in ROOT.rglob("*.py") for reason in _SAID.findall(path.read_text())),
    *(reason for use in USES for reason in (use.not_such_model, use.not_such_format) if reason),
}


@pytest.mark.parametrize("word", sorted({*get_args(JobPhase), *get_args(SetPhase)}))
def test_every_phase_is_told(word: str):
    assert word in TOLD


@pytest.mark.parametrize("reason", [r for r in Reason if r is not Reason.SUCCEEDED], ids=str)
def test_every_reason_of_a_failure_is_told_with_its_exit_code(reason: Reason):
    [row] = [line for line in PAGE.splitlines() if re.match(rf"\|.*`{reason}`.*\|.*\|.*\|.*\|$", line)]
    for code, outcome in EXIT_CODES.items():
        if outcome.reason is reason:
            assert re.search(rf"\b{code}\b", row)
            assert ("| no |" in row) == (not outcome.retry)


@pytest.mark.parametrize("reason", sorted({*CONDITION_REASONS, *(r.value for r in AdapterReason)}))
def test_every_reason_of_a_condition_is_told(reason: str):
    assert reason in TOLD
