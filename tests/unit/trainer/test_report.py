from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetune.api.progress import DataStatus, EvaluationStatus, Measurement, PlanStatus, Sample
from kubetune_trainer import report
from kubetune_trainer.data.examples import SourceFacts
from kubetune_trainer.report.chart import curve_chart, ticks
from kubetune_trainer.report.facts import Change, Facts
from tests.fixtures.runs import finetune_spec, pretrain_spec, source

VOID = {"meta", "line", "polyline"}


class Strict(HTMLParser):
    """Fails on tags that do not match, and remembers text and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag, attrs) -> None:
        assert tag in VOID

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.text.append(data)


def numbers(*pairs: tuple[str, str]) -> list[Measurement]:
    return [Measurement(name=name, value=value) for name, value in pairs]


def facts(tmp_path: Path, **changes) -> Facts:
    data = source(tmp_path / "x.jsonl", name="web")
    return Facts(
        **{
            "spec": finetune_spec(tmp_path / "out", tmp_path / "base", data),
            "plan": PlanStatus(
                method="lora", parameters=1_000_000, trainable_parameters=10_000, precision="bf16",
                micro_batch_size=4, total_steps=100,
            ),
            "data": DataStatus(documents=10, held_out=2, tokens=1234, truncated=3),
            "evaluation": EvaluationStatus(
                baseline=numbers(("loss", "5.5"), ("exact-match", "0.1")),
                tuned=numbers(("loss", "1.25"), ("exact-match", "0.05")),
                samples=[Sample(prompt="What is <b>?", before="", after="a & b")],
            ),
            "sources": [SourceFacts("web", "pvc://data/x.jsonl", 1.0, 10, 2, 1234, 1.0)],
            "curve": [(1, 5.5), (50, 2.0), (100, 1.3)],
            "held_out": [(0, 5.5), (100, 1.25)],
            "rewards": [(10, 0.25), (20, 0.75)],
            "evaluated": 77,
            "tokens": 98765,
            "timings": {"preparation": 1.0, "training": 10.0},
            "resumed": [40],
            "hardware": "a CPU, 2 threads",
            "created": "2026-01-01T00:00:00Z",
            "digests": {"run spec": "sha256:1", "base model": "sha256:2"},
            "versions": {"torch": "2"},
        }
        | changes
    )  # fmt: skip


def written(folder: Path, what: Facts) -> tuple[Strict, str]:
    folder.mkdir(exist_ok=True)
    report.write(folder, what)
    page = Strict()
    page.feed((folder / "report.html").read_text())
    page.close()
    assert page.open == []
    return page, (folder / "README.md").read_text()


def test_the_page_is_well_formed_self_contained_and_tells_the_facts(tmp_path: Path):
    page, card = written(tmp_path / "a", facts(tmp_path))
    assert page.addresses == [], "nothing is fetched"
    text = " ".join(page.text)
    for fact in ("What is <b>?", "a & b", "(nothing)", "1.25", "5.0%", "98,765", "9,876 tokens/s",
                 "from step 40", "on 77 held-out examples",
                 "sha256:2", "web", "3 examples were longer", "mean reward of the answers",
                 "step 100: held-out loss 1.25"):  # fmt: skip
        assert fact in text, fact
    assert "| loss | 5.5 | 1.25 |" in card
    assert "sha256:2" in card


def test_a_page_without_evaluation_and_held_out_data(tmp_path: Path):
    spec = pretrain_spec(tmp_path / "out", source(tmp_path / "x.jsonl"))
    page, card = written(
        tmp_path / "a", facts(tmp_path, spec=spec, evaluation=EvaluationStatus(), held_out=[], rewards=[])
    )
    text = " ".join(page.text)
    assert "Before and after" not in text
    assert "mean reward" not in text
    assert "trained from scratch" in card


def test_what_is_better(tmp_path: Path):
    before = [
        ("loss", "2"),
        ("exact-match", "0.1"),
        ("kl", "0"),
        ("a/acc", "0.5"),
        ("a/ppl", "9"),
        ("a/x", "1"),
    ]
    after = [
        ("loss", "1"),
        ("exact-match", "0.2"),
        ("kl", "1"),
        ("a/acc", "0.25"),
        ("a/ppl", "8"),
        ("a/x", "2"),
    ]
    found = facts(
        tmp_path,
        evaluation=EvaluationStatus(baseline=numbers(*before), tuned=numbers(*after)),
        higher_is_better={"a/acc": True, "a/ppl": False},
    )
    assert {c.name: c.better for c in found.changes} == {"loss": True, "exact-match": True, "kl": None}
    assert {c.name: c.better for c in found.benchmarks} == {"a/acc": False, "a/ppl": True, "a/x": None}
    assert Change("loss", None, 1, False).better is None
    assert Change("exact-match", 0.5, 0.125, True).text(0.125) == "12.5%"


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_enclose(low: float, width: float):
    marks = ticks(low, low + width)
    assert 2 <= len(marks) <= 7
    assert marks[0] <= low + 1e-9 * (abs(low) + 1)
    assert marks[-1] >= low + width - 1e-9 * (abs(low + width) + 1)
    assert marks == sorted(set(marks))


@pytest.mark.parametrize("points", [[], [(1, 3.0)], [(1, 3.0), (2, 3.0)], [(1, 1e-9), (2, 1e9)]])
def test_curves_of_any_kind(points: list):
    chart = curve_chart(points, [])
    assert chart.count("<polyline") == (len(points) > 1)
    assert "nan" not in chart
