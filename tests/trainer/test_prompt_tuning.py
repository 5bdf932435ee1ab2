"""Virtual tokens before a frozen base: as peft has them, and learned."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
)

from kubetune.api.data import Evaluation
from kubetune.api.exitcodes import Reason
from kubetune.api.finetunejob import PromptTuning
from kubetune.api.runspec import RunAdapter, RunSpec
from kubetune.artifacts.digest import folder_digest
from kubetune.artifacts.manifest import read_manifest
from kubetune_trainer.data.rows import collate, row_of
from kubetune_trainer.data.store import IGNORED
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.evaluate import BATCH_TOKENS, in_batches
from kubetune_trainer.generate import answers
from kubetune_trainer.loss import LossModel
from kubetune_trainer.methods import prompt_tuning
from kubetune_trainer.model.heads import CAUSAL_LM
from kubetune_trainer.model.probing import check_isolation
from kubetune_trainer.signals import Stop
from tests.fixtures.runs import finetune_spec, numbered, source
from tests.trainer.conftest import Run
from tests.trainer.test_runs import answer_of, numbers

TEXT = "Name the kind of a word."


@pytest.fixture
def gpt2(base: Path, tmp_path: Path) -> Path:
    """A base that counts positions from a table, and embeds tokens by another name."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2
        )
    )
    model.save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def spec_of(base: Path, training: dict | None = None, **settings) -> RunSpec:
    return finetune_spec(
        Path("out"), base, method="prompt-tuning", prompt_tuning=PromptTuning(**settings),
        training=training or {},
    )  # fmt: skip


def ours(base: Path, **settings):
    model = AutoModelForCausalLM.from_pretrained(base)
    return prompt_tuning.apply(model, spec_of(base, **settings), CAUSAL_LM, [])


def theirs(base: Path, rows: torch.Tensor) -> PeftModel:
    """peft's model with the same virtual tokens."""
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=len(rows))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.prompt_encoder["default"].embedding.weight.data.copy_(rows)
    return model


@pytest.mark.parametrize("plain_head", [True, False])
@pytest.mark.parametrize("kind", ["base", "gpt2"])
def test_loss_and_gradients_are_those_of_peft(kind: str, plain_head: bool, request: pytest.FixtureRequest):
    base = request.getfixturevalue(kind)
    model = ours(base, virtual_tokens=7)
    reference = theirs(base, model.soft_prompt.rows)
    store = numbered([12, 5, 30])
    rows = [row_of([store.piece(i, 0, int(store.lengths[i]) - 1)]) for i in range(3)]
    tokens, positions, labels = collate(rows, pad=0)

    loss_model = LossModel(model, "fp32").eval()
    assert loss_model._plain_head
    loss_model._plain_head = plain_head
    loss = loss_model(tokens, positions, labels)
    loss.backward()

    # transformers shifts labels itself: ours stand where they are predicted.
    shifted = torch.cat([torch.full((3, 1), IGNORED), labels], 1)
    padded = torch.cat([tokens, torch.zeros(3, 1, dtype=torch.long)], 1)
    wanted = reference.eval()(input_ids=padded, labels=shifted).loss
    wanted.backward()
    count = int((labels != IGNORED).sum())
    assert loss.item() / count == pytest.approx(wanted.item(), abs=1e-5)
    gradient = reference.prompt_encoder["default"].embedding.weight.grad
    assert gradient.any()
    torch.testing.assert_close(model.soft_prompt.rows.grad / count, gradient, atol=1e-5, rtol=1e-4)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["soft_prompt.rows"]


@pytest.mark.parametrize("plain_head", [True, False])
@pytest.mark.parametrize("kind", ["base", "gpt2"])
def test_documents_in_one_row_are_learned_as_if_each_were_alone(
    kind: str, plain_head: bool, request: pytest.FixtureRequest
):
    store = numbered([12, 5, 30, 9])
    pieces = [store.piece(i, 0, int(store.lengths[i]) - 1) for i in range(4)]
    rows = [[0, 1], [2], [3, 1, 0]]

    def learned(batch: list[list[int]]) -> tuple[float, torch.Tensor]:
        model = ours(request.getfixturevalue(kind), virtual_tokens=7)
        check_isolation(model)
        loss_model = LossModel(model, "fp32").eval()
        loss_model._plain_head = plain_head
        loss = loss_model(*collate([row_of([pieces[i] for i in row]) for row in batch], pad=0))
        loss.backward()
        return loss.item(), model.soft_prompt.rows.grad

    (packed, gradient), (alone, expected) = learned(rows), learned([[i] for row in rows for i in row])
    assert packed == pytest.approx(alone, rel=1e-5)
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("text", [TEXT, "cat"], ids=["cut", "repeated"])
def test_a_text_is_taken_as_by_peft(base: Path, text: str):
    config = PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=5, prompt_tuning_init="TEXT", prompt_tuning_init_text=text,
        tokenizer_name_or_path=str(base),
    )  # fmt: skip
    reference = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    rows = reference.prompt_encoder["default"].embedding.weight
    assert torch.equal(ours(base, virtual_tokens=5, init_text=text).soft_prompt.rows, rows)


def test_without_a_text_different_common_tokens_by_the_seed(base: Path):
    model = ours(base, virtual_tokens=9)
    rows, words = model.soft_prompt.rows, model.get_input_embeddings().weight
    chosen = [int((words == row).all(1).nonzero()) for row in rows]
    assert len(set(chosen)) == 9
    assert not {*chosen} & {*AutoTokenizer.from_pretrained(base).all_special_ids}
    assert torch.equal(ours(base, virtual_tokens=9).soft_prompt.rows, rows)
    assert not torch.equal(ours(base, training={"seed": 1}, virtual_tokens=9).soft_prompt.rows, rows)


def test_the_base_in_bf16_and_the_virtual_tokens_in_fp32(base: Path):
    spec = spec_of(base, virtual_tokens=4)
    options = prompt_tuning.base_options(spec, "bf16", torch.device("cpu"))
    model = prompt_tuning.apply(AutoModelForCausalLM.from_pretrained(base, **options), spec, CAUSAL_LM, [])
    tokens = torch.arange(10, 26).reshape(2, 8)
    loss = LossModel(model, "bf16")(tokens, torch.arange(8).expand(2, -1), tokens)
    loss.backward()
    assert model.dtype == torch.bfloat16
    assert model.soft_prompt.rows.grad.dtype == torch.float32
    assert model.soft_prompt.rows.grad.any()


@pytest.mark.parametrize("kind", ["base", "gpt2"])
def test_an_answer_is_the_greedy_continuation_after_the_virtual_tokens(
    kind: str, request: pytest.FixtureRequest
):
    base = request.getfixturevalue(kind)
    model, tokenizer = ours(base, virtual_tokens=6), AutoTokenizer.from_pretrained(base)
    with torch.no_grad():  # so that it is sure of what it says
        for name, parameter in model.named_parameters():
            parameter.mul_(1 if "norm" in name or "ln_" in name else 2)
    reference = theirs(base, model.soft_prompt.rows)
    reference.base_model.load_state_dict(
        {n: p for n, p in model.state_dict().items() if "soft_prompt" not in n}
    )
    prompts = ["the", "the cat sat on", "one dog and a big red house"]

    def greedy(text: str) -> str:
        ids = tokenizer(text)["input_ids"]
        prompt = len(ids)
        for _ in range(8):
            with torch.no_grad():
                ids.append(int(reference(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        return tokenizer.decode(ids[prompt:], skip_special_tokens=True).strip()

    said = answers(model, tokenizer, [(p, True) for p in prompts], 8, Stop())
    assert [one.answer for one in said] == [greedy(p) for p in prompts]
    assert len(set(said)) > 1
    long = [("the cat sat on a mat " * 20, True)]
    assert answers(model, tokenizer, long, 4, Stop()), "its beginning is cut for the virtual tokens, too"


def test_batches_of_the_evaluation_make_room_for_the_virtual_tokens():
    rows = [[0] * 2] * 20
    assert [len(batch) for batch in in_batches(rows, Stop())] == [20]
    assert [len(batch) for batch in in_batches(rows, Stop(), BATCH_TOKENS // 8 - 2)] == [8, 8, 4]


def test_what_does_not_fit_is_refused(base: Path):
    with pytest.raises(InvalidSpec, match="48 and 17 virtual tokens exceed the model's context of 64"):
        ours(base, virtual_tokens=17)
    recurrent = MambaForCausalLM(MambaConfig(vocab_size=320, hidden_size=8, num_hidden_layers=1))
    with pytest.raises(InvalidSpec, match="a mamba model takes no virtual tokens: choose method lora"):
        prompt_tuning.apply(recurrent, spec_of(base), CAUSAL_LM, [])


DATA = {
    "sft": ("pairs", "alpaca"), "dpo": ("preferences", "preference"), "domain": ("web", "text"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # peft says so of its own generate
@pytest.mark.parametrize("stage", DATA)
def test_it_learns_and_peft_loads_it(run: Run, base: Path, corpus: Path, tmp_path: Path, stage: str):
    file, form = DATA[stage]
    spec = finetune_spec(
        tmp_path / "out", base, source(corpus / f"{file}.jsonl", form), stage=stage, packing=stage != "dpo",
        method="prompt-tuning", prompt_tuning=PromptTuning(virtual_tokens=8, init_text=TEXT),
        training={"max_steps": 60, "learning_rate": 0.1},
        evaluation=Evaluation(sample_prompts=["What is cat1?"], max_new_tokens=8),
    )  # fmt: skip
    ended = run(spec)
    assert ended.code == 0, ended.out
    message = ended.message
    assert message.plan.trainable_parameters == 8 * 64
    before, after = numbers(message.evaluation.baseline), numbers(message.evaluation.tuned)
    # The base knows these texts, whose words are drawn at random: little is left to learn.
    assert after["loss"] < (0.999 if stage == "domain" else 0.8) * before["loss"]

    artifact = tmp_path / "out/artifact"
    manifest = read_manifest(artifact)
    assert (manifest.format, manifest.rank) == ("prompt", None)
    assert manifest.base_model_digest == folder_digest(base)
    assert message.artifact.format == "prompt"
    assert {p.name for p in artifact.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "report.html", "README.md", "manifest.json",
    }  # fmt: skip
    assert str(base) not in (artifact / "adapter_config.json").read_text()
    assert json.loads((artifact / "adapter_config.json").read_text())["num_virtual_tokens"] == 8
    assert "soft prompt" in (artifact / "README.md").read_text()
    [rows] = load_file(artifact / "adapter_model.safetensors").values()
    assert (rows.dtype, rows.shape) == (torch.float32, (8, 64))

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), artifact).eval()
    own = ours(base, virtual_tokens=8).eval()
    own.soft_prompt.rows.data.copy_(rows)
    tokens = torch.arange(3, 43).reshape(2, 20)
    with torch.no_grad():
        logits = model(input_ids=tokens).logits
        torch.testing.assert_close(logits[:, 8:], own(input_ids=tokens).logits, atol=1e-5, rtol=0)
    if stage != "domain":  # which goes on with a prompt, and answers no user
        # Whoever loads it gets the answers that the job reported.
        tokenizer = AutoTokenizer.from_pretrained(base)
        assert answer_of(model, tokenizer, message) == message.evaluation.samples[0].after


def test_former_virtual_tokens_are_trained_on(run: Run, base: Path, corpus: Path, tmp_path: Path):
    examples = source(corpus / "pairs.jsonl", "alpaca")
    first = finetune_spec(
        tmp_path / "first/out", base, examples, method="prompt-tuning", training={"max_steps": 10},
        prompt_tuning=PromptTuning(virtual_tokens=6),
    )  # fmt: skip
    former = run(first)
    assert former.code == 0, former.out
    at = tmp_path / "first/out/artifact"
    start = RunAdapter(uri="pvc://out/first", path=str(at), root=str(at.parent), digest=folder_digest(at))
    onward = finetune_spec(
        tmp_path / "out", base, examples, method="prompt-tuning", adapter=start,
        training={"max_steps": 20, "learning_rate": 0.1},
    )  # fmt: skip
    ended = run(onward)
    assert ended.code == 0, ended.out
    began, reached = (numbers(v) for v in (ended.message.evaluation.baseline, ended.message.evaluation.tuned))
    assert began["loss"] == pytest.approx(numbers(former.message.evaluation.tuned)["loss"], rel=1e-5)
    assert reached["loss"] < 0.97 * began["loss"]
    old, new = (load_file(p / "adapter_model.safetensors") for p in (at, tmp_path / "out/artifact"))
    assert [t.shape for t in new.values()] == [t.shape for t in old.values()]

    narrow = tmp_path / "narrow"
    narrow.mkdir()
    (narrow / "adapter_config.json").write_text((at / "adapter_config.json").read_text())
    save_file({"prompt_embeddings": torch.zeros(6, 8)}, narrow / "adapter_model.safetensors")
    elsewhere = start.model_copy(update={"path": str(narrow), "root": str(tmp_path), "digest": None})
    cases = {
        "a LoRA job from them": ("lora", start, Reason.INVALID_SPEC, "is of format prompt: name a LoRA"),
        "of another base": (
            "prompt-tuning", elsewhere, Reason.BASE_MODEL_MISMATCH, "holds no virtual tokens of width 64",
        ),
    }  # fmt: skip
    for case, (method, adapter, reason, message) in cases.items():
        spec = finetune_spec(tmp_path / case, base, examples, method=method, lora=None, adapter=adapter)
        refused = run(spec)
        assert refused.message.reason is reason, refused.out
        assert message in refused.message.message
