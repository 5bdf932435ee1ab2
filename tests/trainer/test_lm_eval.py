"""Tasks of lm-eval: their data by way of the hub, and what is measured as computed by hand."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from kubetune.api.exitcodes import Reason
from kubetune.api.finetunejob import PromptTuning
from kubetune.api.runspec import RunCache, RunLmEval, RunSecret, RunSpec
from kubetune_trainer.errors import DataError, InvalidSpec, Terminated
from kubetune_trainer.lmeval import harness_model, tasks
from kubetune_trainer.lmeval.measure import _shown, measure
from kubetune_trainer.loss import LossModel
from kubetune_trainer.signals import Stop
from tests.fixtures.data_sets import DATA_SETS, QUESTIONS
from tests.fixtures.runs import finetune_spec, source
from tests.fixtures.s3 import mounted
from tests.fixtures.web import AUTHORITY, FileServer, Hub, server_tls
from tests.trainer.conftest import Run
from tests.trainer.test_runs import numbers


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data sets as they lie once they were downloaded."""
    folder = tmp_path_factory.mktemp("data-sets")
    for repository, files in DATA_SETS.items():
        for name, content in files.items():
            (folder / repository / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / repository / name).write_bytes(content)
    return folder


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    storage = FileServer(server_tls(AUTHORITY, tmp_path / "tls-storage"))
    with storage, Hub(server_tls(AUTHORITY, tmp_path / "tls-hub")) as server:
        server.storage, server.token = storage, "hf_t0p-s3cret"
        for repository, files in DATA_SETS.items():
            server.commit(f"datasets/{repository}", files)
        yield server


@torch.inference_mode()
def by_hand(model: torch.nn.Module, tokenizer, *, before: str = "") -> dict[str, float]:
    """Accuracy over the choices' likelihoods, of which the second is per character."""
    right, right_normed = 0, 0
    for record in QUESTIONS:
        context = tokenizer(f"{before}Question: {record['question']}\nAnswer:")["input_ids"]
        sums = []
        for choice in record["choices"]["text"]:
            ids = tokenizer(f"{before}Question: {record['question']}\nAnswer: {choice}")["input_ids"]
            assert len(ids) <= 64
            found = model(input_ids=torch.tensor([ids])).logits[0, -len(ids) :].float().log_softmax(-1)
            sums.append(sum(found[at - 1, ids[at]].item() for at in range(len(context), len(ids))))
        answer = "ABCD".index(record["answerKey"])
        normed = [value / len(text) for value, text in zip(sums, record["choices"]["text"], strict=True)]
        right += sums.index(max(sums)) == answer
        right_normed += normed.index(max(normed)) == answer
    count = len(QUESTIONS)
    return {"arc_easy/acc": right / count, "arc_easy/acc_norm": right_normed / count}


def loss_model(base: Path) -> tuple[LossModel, object]:
    return LossModel(AutoModelForCausalLM.from_pretrained(base), "fp32"), AutoTokenizer.from_pretrained(base)


def test_which_data_sets_tasks_groups_and_tags_need():
    assert tasks.data_sets(["arc_easy"]) == ["allenai/ai2_arc"]
    assert tasks.data_sets(["ai2_arc", "gsm8k"]) == ["allenai/ai2_arc", "openai/gsm8k"]
    assert tasks.data_sets(["mmlu"]) == ["cais/mmlu"]
    with pytest.raises(InvalidSpec, match=r"no task arc_esy; did you mean arc_easy"):
        tasks.data_sets(["arc_easy", "arc_esy"])
    for task in ("squadv2", "c4"):
        with pytest.raises(InvalidSpec, match=f"the data of {task} are not a whole data set"):
            tasks.data_sets([task])


def test_a_choice_is_measured_as_by_hand_whatever_surrounds_it(
    base: Path, root: Path, monkeypatch: pytest.MonkeyPatch
):
    model, tokenizer = loss_model(base)
    drawn = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.train()
    found = measure(model, tokenizer, RunLmEval(root=str(root), tasks=["arc_easy"]), Stop())
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == drawn[1:]
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert model.training
    assert found.values == pytest.approx(by_hand(model.model.eval(), tokenizer))
    assert found.higher_is_better == dict.fromkeys(found.values, True)
    assert measure(model, tokenizer, RunLmEval(root=str(root), tasks=["arc_easy"], limit=3), Stop()) != found
    monkeypatch.setattr(harness_model, "ELEMENTS", 1)
    assert measure(model, tokenizer, RunLmEval(root=str(root), tasks=["arc_easy"]), Stop()) == found


def test_an_answer_read_in_two_ways_with_solved_examples_that_stay_the_same(base: Path, root: Path):
    model, tokenizer = loss_model(base)
    wanted = RunLmEval(root=str(root), tasks=["gsm8k"], num_fewshot=1, limit=2)
    first = measure(model, tokenizer, wanted, Stop())
    assert sorted(first.values) == ["gsm8k/exact_match/flexible-extract", "gsm8k/exact_match/strict-match"]
    assert measure(model, tokenizer, wanted, Stop()) == first


def test_asked_to_stop(base: Path, root: Path):
    model, tokenizer = loss_model(base)
    stop = Stop()
    stop.requested = True
    with pytest.raises(Terminated):
        measure(model, tokenizer, RunLmEval(root=str(root), tasks=["arc_easy"]), stop)


def test_what_cannot_be_measured_is_told_before_training(base: Path, root: Path, tmp_path: Path):
    model, tokenizer = loss_model(base)
    tokenizer.chat_template = None
    with pytest.raises(InvalidSpec, match="no chat template"):
        measure(
            model, tokenizer, RunLmEval(root=str(root), tasks=["arc_easy"], apply_chat_template=True), Stop()
        )
    with pytest.raises(DataError, match="arc_challenge cannot be loaded"):
        tasks.load(RunLmEval(root=str(root), tasks=["arc_challenge"]))
    # Its metric is code from the hub, which is not fetched.
    with pytest.raises(DataError, match="humaneval cannot be loaded"):
        tasks.load(RunLmEval(root=str(root), tasks=["humaneval"]))
    with pytest.raises(DataError, match="gsm8k cannot be measured"):
        measure(model, tokenizer, RunLmEval(root=str(root), tasks=["gsm8k"], num_fewshot=100), Stop())


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["whole"], ["whole"]),
        (["parts"], ["a", "b"]),
        (["deep", "c"], ["whole", "a", "b", "c"]),
        (["empty"], []),
    ],
)
def test_a_group_stands_for_its_members_if_it_has_a_result(names: list[str], shown: list[str]):
    groups = {"whole": ["a"], "parts": ["a", "b"], "deep": ["whole", "parts"]}
    values = {"alias": "-", "acc,none": 0.5, "acc_stderr,none": 0.1}
    results = dict.fromkeys("abc", values) | {"whole": values, "parts": {"alias": "parts"}}
    assert list(dict.fromkeys(_shown(names, groups, {"results": results}))) == shown


def spec_of(hub: Hub, base: Path, corpus: Path, tmp_path: Path, names: list[str], **more) -> RunSpec:
    keys = mounted(
        tmp_path / "hub", HF_ENDPOINT=hub.url, HF_TOKEN=hub.token, **{"ca.crt": AUTHORITY.authority}
    )
    return finetune_spec(
        tmp_path / "out", base, source(corpus / "pairs.jsonl", "alpaca"),
        lm_eval=RunLmEval(
            tasks=names, root=str(tmp_path / "lm-eval"), secret=RunSecret(name="hub", path=str(keys))
        ),
        cache=RunCache(path=str(tmp_path / "cache")),
        training={"precision": "fp32"}, **more,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["lora", "prompt-tuning"])
def test_a_run_measures_before_and_after(
    method: str, run: Run, hub: Hub, base: Path, corpus: Path, tmp_path: Path
):
    virtual = {"prompt_tuning": PromptTuning(virtual_tokens=4)}
    more = virtual if method == "prompt-tuning" else {}
    spec = spec_of(hub, base, corpus, tmp_path, ["arc_easy"], method=method, **more)
    ended = run(spec)
    assert ended.code == 0, ended.out
    assert ended.message.evaluation
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base).eval()
    before, after = (
        {k: v for k, v in numbers(values).items() if "/" in k}
        for values in (ended.message.evaluation.baseline, ended.message.evaluation.tuned)
    )
    if method == "lora":
        assert before == pytest.approx(by_hand(model, tokenizer), rel=1e-4)
    trained = PeftModel.from_pretrained(model, tmp_path / "out/artifact").eval()
    assert after == pytest.approx(by_hand(trained, tokenizer), rel=1e-4)
    report = (tmp_path / "out/artifact/report.html").read_text()
    assert "arc_easy/acc_norm" in report
    assert "code ran" not in ended.out


def test_a_data_set_without_tables_is_refused(run: Run, hub: Hub, base: Path, corpus: Path, tmp_path: Path):
    hub.commit("datasets/allenai/ai2_arc", {"README.md": b"# Code", "ai2_arc.py": b"raise SystemExit"})
    ended = run(spec_of(hub, base, corpus, tmp_path, ["arc_easy"]))
    assert ended.message.reason == Reason.DATA_ERROR
    assert "hf://datasets/allenai/ai2_arc of evaluation.lmEval: no tables are there" in ended.message.message
