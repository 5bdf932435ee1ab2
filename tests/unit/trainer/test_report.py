import math
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetune.api.finetunejob import PromptTuning
from kubetune.api.progress import DataStatus, EvaluationStatus, Measurement, PlanStatus, Sample
from kubetune.api.reinforcement import Grpo, RewardFunction, RolloutSettings
from kubetune.api.runspec import RunAdapter, RunCache, RunReward
from kubetune_trainer import report
from kubetune_trainer.data.examples import SourceFacts
from kubetune_trainer.report.chart import curve_chart, ticks
from kubetune_trainer.report.facts import Change, Facts
from kubetune_trainer.report.settings import settings
from kubetune_trainer.report.words import counted
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
    assert "| metric | before training | after training |" in card
    assert "| loss | 5.5 | 1.25 |" in card
    assert "- base model: `pvc://models/base`, digest `sha256:2`" in card
    assert "It was measured only as shown here." in card


def test_a_page_without_evaluation_and_held_out_data(tmp_path: Path):
    spec = pretrain_spec(tmp_path / "out", source(tmp_path / "x.jsonl"))
    page, card = written(
        tmp_path / "a", facts(tmp_path, spec=spec, evaluation=EvaluationStatus(), held_out=[], rewards=[])
    )
    text = " ".join(page.text)
    assert "Before and after" not in text
    assert "mean reward" not in text
    assert "trained from scratch" in card
    assert "No metric was measured." in text
    assert "No metric was measured." in card


def test_nothing_held_out(tmp_path: Path):
    nothing = {
        "evaluation": EvaluationStatus(),
        "evaluated": 0,
        "data": DataStatus(documents=1, held_out=0, tokens=5),
    }
    page, card = written(tmp_path / "a", facts(tmp_path, **nothing))
    for text in (card, " ".join(page.text)):
        assert "Nothing was held out, so nothing was measured." in text
    assert "measured only" not in card


def test_numbers_and_their_nouns(tmp_path: Path):
    spec = finetune_spec(
        tmp_path / "out", tmp_path / "base", source(tmp_path / "x.jsonl"),
        training={"global_batch_size": 1, "warmup_steps": 1},
    )  # fmt: skip
    data = DataStatus(documents=10, held_out=2, tokens=1234, truncated=1)
    one = facts(tmp_path, spec=spec, data=data, evaluated=1, hardware="a CPU, 1 thread")
    page, card = written(tmp_path / "a", one)
    text = " ".join(page.text)
    for fact in (
        "on 1 held-out example",
        "1 example was longer than 48 tokens",
        "of 1 sequence,",
        "1 step of",
        "1 thread",
    ):
        assert fact in text, fact
        assert f"{fact}s" not in text, fact
    assert "on 1 held-out example:" in card
    assert counted(1234, "was", "were") == "1,234 were"


@pytest.mark.parametrize(("count", "told"), [(0, None), (1, "1 record was"), (79, "79 records were")])
def test_examples_without_room_for_an_answer(tmp_path: Path, count: int, told: str | None):
    data = DataStatus(documents=100, held_out=2, tokens=1234, truncated=3, dropped=count)
    page, card = written(tmp_path / "a", facts(tmp_path, data=data))
    for text in (card, " ".join(page.text)):
        assert "3 examples were longer" in text
        assert ("room for an answer" in text) == (told is not None)
        assert told is None or f"{told} left out, without text or without room for an answer" in text


ADAPTER = RunAdapter(uri="pvc://former", path="/mnt/pvc/former", root="/mnt/pvc")
WORDS = PromptTuning(init_text="Sum up.")


@pytest.mark.parametrize(
    ("method", "more", "told"),
    [
        ("lora", {}, "the base model"),
        ("full", {"adapter": ADAPTER}, "the base model with the former adapter merged into it"),
        ("qlora", {"adapter": ADAPTER}, "the base model in 4 bits with the former adapter"),
        ("lora", {"stage": "reward"}, "the base model with a head, untrained unless the base had one"),
        (
            "lora",
            {"stage": "classification", "adapter": ADAPTER},
            "the base model with the former adapter and a head, untrained unless the base had one",
        ),
        ("prompt-tuning", {"prompt_tuning": WORDS}, "the embeddings of promptTuning.initText"),
        ("prompt-tuning", {"prompt_tuning": PromptTuning()}, "the embeddings of random common tokens"),
        ("prompt-tuning", {"adapter": ADAPTER}, "with the virtual tokens of the former adapter"),
    ],
)
def test_what_it_was_before(tmp_path: Path, method: str, more: dict, told: str):
    spec = finetune_spec(
        tmp_path / "out", tmp_path / "base", source(tmp_path / "x.jsonl"), method=method, **more
    )
    page, card = written(tmp_path / "a", facts(tmp_path, spec=spec))
    for text in (card, " ".join(page.text)):
        assert f"{told}." in text
        assert ("in 4 bits with the adapter" in text) == (method == "qlora")
        assert "merged weights" not in text


def test_a_merged_model_was_not_measured_in_4_bits(tmp_path: Path):
    spec = finetune_spec(
        tmp_path / "out", tmp_path / "base", source(tmp_path / "x.jsonl"), method="qlora", merge=True
    )
    page, card = written(tmp_path / "a", facts(tmp_path, spec=spec))
    for text in (card, " ".join(page.text)):
        assert "in 4 bits with the adapter: the numbers are not those of the merged weights." in text


def test_all_settings(tmp_path: Path):
    data = source(tmp_path / "x.jsonl", name="web", secret={"name": "hub", "path": "/mnt/secret/hub"})
    rules = [RewardFunction(name="contains", weight=2)]
    spec = finetune_spec(
        tmp_path / "out", tmp_path / "base", data, stage="grpo", adapter=ADAPTER, rollout=RolloutSettings(),
        grpo=Grpo(), reward=RunReward(functions=rules), cache=RunCache(path="/var/cache"), labels=["a", "b"],
    )  # fmt: skip
    found = dict(settings(spec))
    assert (
        found
        | {
            "stage": "grpo",
            "model.uri": "pvc://models/base",
            "adapter.uri": "pvc://former",
            "lora.rank": "4",
            "lora.targetModules": "all-linear",
            "data.sources.web.uri": "pvc://data/x.jsonl",
            "data.sources.web.secret.name": "hub",
            "data.labels": "a, b",
            "evaluation.samplePrompts": "(none)",
            "reward.functions.contains.weight": "2.0",
            "rollout.temperature": "1.0",
            "grpo.scaleRewards": "true",
            "finetune.learningRate": "0.01",
            "finetune.weightDecay": "0.0",
        }
        == found
    )
    assert not [
        name for name in found if name.startswith(("job", "cache")) or name.endswith(("path", "root"))
    ]
    page, _ = written(tmp_path / "a", facts(tmp_path, spec=spec))
    assert all(name in page.text and value in page.text for name, value in found.items())
    scratch = dict(settings(pretrain_spec(tmp_path / "out", data)))
    assert scratch["model.config.hidden_size"] == "64"


KINDS = {
    "lora": ("lora", "sft", {}),
    "prompt": ("prompt-tuning", "sft", {"prompt_tuning": WORDS}),
    "reward": ("lora", "reward", {}),
    "full": ("full", "sft", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_how_it_is_loaded(tmp_path: Path, kind: str):
    method, stage, more = KINDS[kind]
    spec = finetune_spec(
        tmp_path / "out",
        tmp_path / "base",
        source(tmp_path / "x.jsonl", "alpaca"),
        method=method,
        stage=stage,
        **more,
    )
    for added in (False, True):
        _, card = written(tmp_path / "a", facts(tmp_path, spec=spec, chat_template_added=added))
        adapts = method != "full"
        assert (
            ("library_name: peft" in card) == ("PeftModel.from_pretrained(model, folder)" in card) == adapts
        )
        # A full model's tokenizer has it with it.
        told = "chat_template.jinja" in card and 'Path(folder, "chat_template.jinja").read_text()' in card
        assert told == (added and adapts)
        assert "apply_chat_template" in card


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
    assert Change("perplexity", math.exp(700), 5e8, False).text(math.exp(700)) == "> 1e300"


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
