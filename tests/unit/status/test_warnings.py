"""Condition `Warnings`: what is foreseen, what the trainer says, and that neither is lost."""

from typing import Any

import pytest

from kubetune.api.progress import TrainerStatus
from kubetune.api.warnings import RunWarning
from kubetune.status.warnings import foreseen, judgement, warnings_of, with_all_warnings

WARMUP = {"training": {"maxSteps": 10, "warmupSteps": 10}}
UNMEASURED = {"data": {"validation": {"fraction": 0}}}
SPECS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing is said": ({}, []),
    "a warm-up that ends": ({"training": {"maxSteps": 10, "warmupSteps": 9}}, []),
    "a warm-up that never ends": (WARMUP, ["WarmupNeverEnds"]),
    "epochs, whose steps the data decide": ({"training": {"epochs": 1, "warmupSteps": 10}}, []),
    "nothing held out": (UNMEASURED, ["NothingHeldOut"]),
    "data of their own to measure on": (UNMEASURED | {"evaluation": {"data": {"uri": "pvc://c/x"}}}, []),
    "both": (WARMUP | UNMEASURED, ["WarmupNeverEnds", "NothingHeldOut"]),
}


@pytest.mark.parametrize(("spec", "reasons"), SPECS.values(), ids=SPECS)
def test_what_the_spec_tells(spec: dict[str, Any], reasons: list[str]):
    assert [warning.reason for warning in foreseen(spec)] == reasons


def said(*warnings: tuple[str, str]) -> TrainerStatus:
    return TrainerStatus(warnings=[RunWarning(reason=r, message=m) for r, m in warnings])


def test_the_trainer_has_the_last_word_on_a_reason():
    told = warnings_of(WARMUP | UNMEASURED, said(("WarmupNeverEnds", "as it is"), ("Other", "so")))
    assert [w.reason for w in told] == ["NothingHeldOut", "WarmupNeverEnds", "Other"]
    assert told[1].message == "as it is"


def test_one_line_for_each():
    condition = judgement(warnings_of({}, said(("A", "one"), ("B", "two"))))
    assert (condition.status, condition.reason) == ("True", "SeveralWarnings")
    assert condition.message == "A: one\nB: two"
    assert judgement(warnings_of({}, said(("A", "one")))).reason == "A"
    assert judgement([]).status == "False"


def test_a_termination_message_that_had_no_room_takes_nothing_back():
    live, word = said(("A", "a" * 500), ("B", "two")), said(("A", "aaa…"))
    final = with_all_warnings(word, live)
    assert final
    assert final.warnings == live.warnings
    more = said(("A", "one"), ("B", "two"), ("C", "three"))
    assert with_all_warnings(more, live) == more
    assert with_all_warnings(None, live) is None
