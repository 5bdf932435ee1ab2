"""The code in the model card of each kind of artifact does what it says."""

import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from kubetune.api.data import Evaluation
from kubetune.api.runspec import RunAdapter, RunSpec
from kubetune_trainer import report
from kubetune_trainer.data.formats import Message, Prompt
from kubetune_trainer.data.tokenizer_training import CHAT_TEMPLATE
from kubetune_trainer.rewards import Said
from kubetune_trainer.rewards.model import load
from tests.trainer.conftest import Ended, Run
from tests.trainer.test_resume import KINDS, OTHER_METHODS, by, classification

RUNS = KINDS | OTHER_METHODS | {"classification by qlora": by("qlora", classification)}
LANGUAGE_MODELS = [
    "pretrain", "continued", "domain", "domain by prompt-tuning", "lora", "adapter", "qlora", "prompt-tuning",
    "sft by full", "merged", "dpo", "grpo",
]  # fmt: skip
STEPS = 30
"""Enough for an answer that is not empty."""
IN_4_BITS = ("qlora", "merged")
"""Trained on other weights than the card's code loads."""
ASKED = {
    '"a question"': '"What is cat1?"',
    '"a text"': '"the cat sat on"',
    "max_new_tokens=32": "max_new_tokens=8",
}
"""What stands in the card, and what is put there in its stead, to be something that was learned."""


def carried_out(run: Run, kind: str, corpus: Path, base: Path, tmp_path: Path) -> tuple[RunSpec, Ended]:
    """A short run whose sample is what the card's code asks."""
    spec = RUNS[kind][0](tmp_path / "out", corpus, base)
    block = "pretrain" if spec.pretrain else "finetune"
    training = spec.training.model_copy(update={"max_steps": STEPS, "precision": "fp32"})
    spec = spec.model_copy(update={block: training})
    if spec.stage not in ("reward", "mlm"):  # they answer nothing
        chats = spec.stage not in ("pretrain", "domain", "classification")
        asked = "What is cat1?" if chats else "the cat sat on"
        spec = spec.model_copy(update={"evaluation": Evaluation(sample_prompts=[asked], max_new_tokens=8)})
    ended = run(spec)
    assert ended.code == 0, ended.out
    return spec, ended


def executed(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], str]:
    """The names that the card's code defines, and what it prints."""
    monkeypatch.chdir(tmp_path / "out/artifact")
    code = Path("README.md").read_text().partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    for written, meant in (ASKED | {'base = "base"': f"base = {str(base)!r}"}).items():
        code = code.replace(written, meant)
    said = StringIO()
    with redirect_stdout(said):
        exec(code, names)
    imports = [line.startswith(("import ", "from ")) for line in code.splitlines() if line]
    assert imports == sorted(imports, reverse=True), "they come first"
    return names, said.getvalue().strip()


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")  # of prompt tuning by peft
@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_a_language_model(
    run: Run, corpus: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    _, ended = carried_out(run, kind, corpus, base, tmp_path)
    names, said = executed(base, tmp_path, monkeypatch)
    assert names["model"](**names["inputs"]).logits.isfinite().all()
    if kind not in IN_4_BITS:
        assert said == ended.message.evaluation.samples[0].after, "it answers as in the report"


def test_a_base_without_a_chat_template(
    run: Run, corpus: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bare = shutil.copytree(base, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    write = report.write

    def with_template(folder: Path, facts: report.Facts) -> None:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
        write(folder, replace(facts, chat_template_added=True))

    monkeypatch.setattr(report, "write", with_template)
    _, ended = carried_out(run, "lora", corpus, bare, tmp_path)
    names, said = executed(bare, tmp_path, monkeypatch)
    assert names["tokenizer"].chat_template == CHAT_TEMPLATE
    assert said == ended.message.evaluation.samples[0].after


@pytest.mark.parametrize("kind", ["reward", "reward by full"])
def test_a_reward_model(
    run: Run, corpus: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    spec, _ = carried_out(run, kind, corpus, base, tmp_path)
    _, said = executed(base, tmp_path, monkeypatch)
    folder = RunAdapter(uri="pvc://out", path=str(tmp_path / "out/artifact"), root=str(tmp_path))
    judge = load(spec, folder, "fp32", torch.device("cpu"))
    asked = [Prompt("What is cat1?"), Prompt((Message("user", "What is cat1?"),))]
    assert [float(line) for line in said.splitlines()] == pytest.approx(
        judge(asked, [Said("an answer", "an answer")] * 2), rel=1e-4
    )


@pytest.mark.parametrize("kind", ["classification", "classification by full", "classification by qlora"])
def test_a_classifier(
    run: Run, corpus: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    _, ended = carried_out(run, kind, corpus, base, tmp_path)
    names, said = executed(base, tmp_path, monkeypatch)
    assert names["logits"].isfinite().all()
    assert ended.message.evaluation.samples[0].after.startswith(f"{said} (")


def test_a_masked_language_model(
    run: Run, corpus: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    carried_out(run, "mlm", corpus, base, tmp_path)
    names, said = executed(base, tmp_path, monkeypatch)
    assert names["model"](**names["inputs"]).logits.isfinite().all()
    assert said
    assert names["hidden"].sum() == 1
