"""Broken and hostile models, tokenizers, adapters and reward models end a run before training, for good, and
with a message that names what is wrong."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kubetune.api.reinforcement import Grpo, RolloutSettings
from kubetune.api.runspec import RunAdapter, RunReward, RunSpec
from tests.fixtures.runs import finetune_spec, pretrain_spec, source
from tests.trainer.conftest import Process, Run

NAN = float("nan")
Harm = Callable[[Path], None]
SLOW = "(([a-z._0-9]+)+)+!"
"""A regular expression that is tried for years."""
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def made(corpus: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A LoRA adapter, and reward models as adapter and with full weights."""
    folder = tmp_path_factory.mktemp("made")
    pairs, preferences = (
        source(corpus / "pairs.jsonl", "alpaca"), source(corpus / "preferences.jsonl", "preference")
    )  # fmt: skip
    more: dict[str, Any] = {"training": {"max_steps": 2}}
    reward = more | {"stage": "reward", "packing": False}
    specs = {
        "lora": finetune_spec(folder / "lora", base, pairs, **more),
        "judge": finetune_spec(folder / "judge", base, preferences, **reward),
        "whole": finetune_spec(folder / "whole", base, preferences, method="full", **reward),
    }
    for name, spec in specs.items():
        process = Process(spec, folder / f"{name}-run")
        assert process.end() == 0, process.out
    return {name: folder / name / "artifact" for name in specs}


def harmed(folder: Path, copy: Path, harm: Harm) -> Path:
    shutil.copytree(folder, copy)
    (copy / "manifest.json").unlink()
    harm(copy)
    return copy


def write(name: str, content: object) -> Harm:
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    return lambda f: (f / name).write_bytes(text if isinstance(text, bytes) else text.encode()) and None


def fields(name: str, **changes: object) -> Harm:
    def harm(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return harm


def weights(change: Callable[[dict[str, torch.Tensor]], Any], name: str = WEIGHTS) -> Harm:
    def harm(folder: Path) -> None:
        found = {n: t.clone() for n, t in load_file(folder / name).items()}
        save_file(change(found) or found, folder / name, metadata={"format": "pt"})

    return harm


def index(shard: str, put: Callable[[Path], Any]) -> Harm:
    """An index in place of the weights, which `put` puts elsewhere."""

    def harm(folder: Path) -> None:
        names = [*load_file(folder / WEIGHTS)]
        put(folder)
        (folder / WEIGHTS).unlink()
        shards = {"metadata": {}, "weight_map": dict.fromkeys(names, shard)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(shards))

    return harm


def both(*harms: Harm) -> Harm:
    return lambda f: [h(f) for h in harms] and None


def first(name: str, value: float) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda found: found[name].view(-1)[:1].fill_(value) and None


def narrower(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n: t[:2].contiguous() for n, t in found.items()}


def other_ids(folder: Path) -> None:
    """Tokens whose numbers do not fit 2 bytes; there are as many as before."""
    path = folder / "tokenizer.json"
    whole = json.loads(path.read_text())
    vocabulary = whole["model"]["vocab"]
    vocabulary |= {token: number + 65536 for token, number in vocabulary.items() if number > 2}
    path.write_text(json.dumps(whole))


def begins_with(number: int) -> Harm:
    single = [{"SpecialToken": {"id": "<x>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    token = {"id": "<x>", "ids": [number], "tokens": ["<x>"]}
    processor = {"type": "TemplateProcessing", "single": single, "special_tokens": {"<x>": token}}
    processor["pair"] = [*single, {"Sequence": {"id": "B", "type_id": 0}}]
    return fields("tokenizer.json", post_processor=processor)


def model(**changes: object) -> Harm:
    return fields("config.json", **changes)


BASES: dict[str, tuple[Harm, str]] = {
    "an index that leads out": (
        index("../out.safetensors", lambda f: shutil.copy(f / WEIGHTS, f.parent / "out.safetensors")),
        r"model.safetensors.index.json names '../out.safetensors', which is not a safetensors file in",
    ),
    "an index with an absolute path": (index("/etc/x.safetensors", lambda f: None), "not a safetensors file"),
    "an index of pickles": (
        index("w.bin", lambda f: torch.save(load_file(f / WEIGHTS), f / "w.bin")),
        "names 'w.bin', which is not a safetensors file",
    ),
    "an index of what is not there": (index("w.safetensors", lambda f: None), "w.safetensors, which .*index"),
    "an index of nothing": (write("model.safetensors.index.json", {"weight_map": {}}), "has no weight_map"),
    "an index that is a list": (write("model.safetensors.index.json", []), "holds a list, not an object"),
    "an index of numbers": (
        write("model.safetensors.index.json", {"weight_map": {"a": 1}}), "names 1, which is not a safetensors"
    ),
    "an adapter": (write("adapter_config.json", {"peft_type": "LORA"}), "adapter_config.json lies in its"),
    "a config of other types": (model(hidden_size="64"), "base model cannot be loaded: .*'hidden_size'"),
    "a config that is a list": (write("config.json", []), "config.json is not a JSON object .*holds a list"),
    "a deep config": (write("config.json", "[" * 200_000), "config.json is not a JSON object"),
    "a config with too many layers": (model(num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
    "a config of other shapes": (
        model(intermediate_size=96), r"down_proj.weight is \[64, 128\], not \[64, 96\]\): put the config.json"
    ),
    "a config without its fields": (model(model_type="llama", rope_parameters=[1]), "config.json cannot be"),
    "a quantiser that is not here": (
        model(quantization_config={"quant_method": "gptq", "bits": 4}),
        "the base model is quantised \\(gptq, by quantization_config .* as it was before",
    ),
    "attention that is not here": (
        model(attn_implementation="flash_attention_2"), "attn_implementation 'flash_attention_2' is not"
    ),
    "dropout beyond 1": (model(attention_dropout=2.0), "attention_dropout is 2.0, which is not a fraction"),
    "no heads": (model(num_attention_heads=0), "config.json"),
    "padding elsewhere": (model(pad_token_id=10**9), "base model cannot be loaded: .*[Pp]adding_idx"),
    "a list of generation settings": (write("generation_config.json", []), "generation_config.json is no"),
    "end tokens that are words": (
        write("generation_config.json", {"eos_token_id": ["</s>", 0]}), r"eos_token_id \['</s>', 0\], but"
    ),
    "an end token that is none": (write("generation_config.json", {"eos_token_id": 320}), "from 0 to 319"),
    "NaN": (weights(first("model.norm.weight", NAN)), "base model's files hold numbers in model.norm.weight"),
    "infinite": (weights(first("lm_head.weight", float("inf"))), "lm_head.weight that are not finite"),
    "a tokenizer that is a list": (write("tokenizer.json", []), "no usable tokenizer: tokenizer.json is no"),
    "settings of a tokenizer in a list": (write("tokenizer_config.json", []), "tokenizer_config.json is no"),
    "special tokens in a list": (write("special_tokens_map.json", []), "special_tokens_map.json is not"),
    "an end token of another type": (
        fields("tokenizer_config.json", eos_token=5), "no usable tokenizer: .*eos_token has to be"
    ),
    "a tokenizer that panics": (
        fields("tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "the base model has no usable tokenizer: .*Precompiled",
    ),
    "a tokenizer that fails": (
        fields(
            "tokenizer.json",
            model={
                "type": "WordLevel", "vocab": {"<|endoftext|>": 0, "<|pad|>": 1}, "unk_token": "[UNK]"
            },
        ),
        "tokenizer cannot be used: .*UNK.*: it fails at a text",
    ),
    "a tokenizer that floods": (
        fields(
            "tokenizer.json",
            normalizer={"type": "Replace", "pattern": {"Regex": "."}, "content": "x" * 10_000},
        ),
        "tokens of 23 characters: it fails at a text",
    ),
    "token ids beyond the embeddings": (other_ids, "tokenizer has 65856 tokens but the model embeds 320"),
    "a beginning beyond the embeddings": (begins_with(999), "tokenizer has 1000 tokens but the model embeds"),
    "a template that is a number": (
        both(
            fields("tokenizer_config.json", chat_template=5),
            lambda f: (f / "chat_template.jinja").unlink(),
        ),
        "chat template cannot be used, since it is no text",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BASES)
def test_a_base_is_refused(run: Run, base: Path, corpus: Path, tmp_path: Path, case: str) -> None:
    harm, message = BASES[case]
    folder = harmed(base, tmp_path / "base", harm)
    ended = run(finetune_spec(tmp_path / "out", folder, source(corpus / "pairs.jsonl", "alpaca")))
    expect(ended, 10, message, tmp_path)


def expect(ended: Any, code: int, message: str, folder: Path) -> None:
    assert ended.code == code, ended.out
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(ended.message.message)
    assert "train step" not in ended.out
    assert "Traceback" not in ended.out
    assert not (folder / "out/artifact").exists()


def test_a_base_with_an_adapter_is_none_for_full_training_either(
    run: Run, base: Path, corpus: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    """transformers would put the adapter into the base and save the adapter alone."""

    def add(folder: Path) -> None:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(made["lora"] / name, folder)

    folder = harmed(base, tmp_path / "base", add)
    data = source(corpus / "pairs.jsonl", "alpaca")
    expect(
        run(finetune_spec(tmp_path / "out", folder, data, method="full")), 10, "it is an adapter", tmp_path
    )


def test_a_name_that_is_no_text(run: Run, base: Path, corpus: Path, tmp_path: Path) -> None:
    def add(folder: Path) -> None:
        with open(os.path.join(os.fsencode(folder), b"\xff.txt"), "wb"):
            pass

    folder = harmed(base, tmp_path / "base", add)
    ended = run(finetune_spec(tmp_path / "out", folder, source(corpus / "pairs.jsonl", "alpaca")))
    expect(ended, 15, r"the file name '\\udcff.txt' is not one line of UTF-8", tmp_path)


def test_outputs_are_named_whatever_the_config_says(
    run: Run, base: Path, corpus: Path, tmp_path: Path
) -> None:
    folder = harmed(base, tmp_path / "base", model(return_dict=False))
    data = source(corpus / "pairs.jsonl", "alpaca")
    ended = run(finetune_spec(tmp_path / "out", folder, data, training={"max_steps": 1}))
    assert ended.code == 0, ended.out


def test_gaps_between_token_ids_are_no_harm(run: Run, base: Path, corpus: Path, tmp_path: Path) -> None:
    """They need more than 2 bytes each, though they are few."""

    def widen(folder: Path) -> None:
        other_ids(folder)
        model(vocab_size=65856)(folder)

        def grow(found: dict[str, torch.Tensor]) -> None:
            for name in ("model.embed_tokens.weight", "lm_head.weight"):
                found[name] = torch.nn.functional.pad(found[name], (0, 0, 65536, 0))

        weights(grow)(folder)

    folder = harmed(base, tmp_path / "base", widen)
    text = source(corpus / "web.jsonl")
    for spec in (
        finetune_spec(tmp_path / "sft", folder, source(corpus / "pairs.jsonl", "alpaca"), method="full",
                      training={"max_steps": 1}),
        pretrain_spec(tmp_path / "domain", text, base=folder, stage="domain", training={"max_steps": 1}),
    ):  # fmt: skip
        ended = run(spec)
        assert ended.code == 0, ended.out
        trained, begun = (
            load_file(f / WEIGHTS)["model.embed_tokens.weight"]
            for f in (Path(spec.output.path) / "artifact", folder)
        )
        changed = (trained != begun).any(1).nonzero()
        assert (changed > 65536).sum() > 20, (
            "the tokens that the text has, not those that 2 bytes make of them"
        )


def adapter(**changes: object) -> Harm:
    return fields("adapter_config.json", **changes)


ADAPTERS: dict[str, tuple[Harm, int, str]] = {
    "no rank": (adapter(r=None), 10, "has r None, which is not a whole number from 1"),
    "a rank that is text": (adapter(r="x"), 10, "has r 'x', which is not a whole number"),
    "a huge rank": (adapter(r=10**30), 10, "has r 1000.*, which is not a whole number"),
    "an infinite alpha": (adapter(lora_alpha=float("inf")), 10, "lora_alpha inf, which is not a finite"),
    "targets that are a number": (adapter(target_modules=5), 10, "has target_modules 5"),
    "targets that are malformed": (adapter(target_modules="(["), 10, "target_modules is not a regular expr"),
    "targets that are slow": (adapter(target_modules=SLOW), 10, "not matched in 1 seconds: list the names"),
    "exclusions that are slow": (adapter(exclude_modules=SLOW), 10, "exclude_modules is a regular expr"),
    "ranks in a list": (adapter(rank_pattern=[1]), 10, "rank_pattern"),
    "ranks by what is slow": (adapter(rank_pattern={SLOW: 4}), 10, "rank_pattern .* without repetitions"),
    "alphas by what is slow": (adapter(alpha_pattern={SLOW: 4}), 10, "alpha_pattern .* without repetitions"),
    "layers that are repeated": (adapter(layer_replication=[[0, 2]] * 9), 10, "has layer_replication"),
    "a base that it changes": (adapter(init_lora_weights="pissa"), 10, "init_lora_weights 'pissa'"),
    "tokens that it needs": (adapter(alora_invocation_tokens=[1]), 10, "has alora_invocation_tokens"),
    "tokens that it trains": (adapter(trainable_token_indices=[1]), 10, "has trainable_token_indices"),
    "biases that it trains": (adapter(bias="all"), 10, "has bias 'all'"),
    "what is not known": (adapter(evil=5), 10, "has evil 5, from which training cannot continue"),
    "a config that is a list": (write("adapter_config.json", []), 10, "adapter_config.json is not a JSON"),
    "a deep config": (write("adapter_config.json", "[" * 200_000), 10, "adapter_config.json is not a JSON"),
    "NaN": (weights(lambda w: {n: t * NAN for n, t in w.items()}, "adapter_model.safetensors"), 10, "finite"),
    "whole numbers": (
        weights(lambda w: {n: t.to(torch.int8) for n, t in w.items()}, "adapter_model.safetensors"),
        10, "is of type torch.int8, which no adapter has",
    ),
    "other shapes": (weights(narrower, "adapter_model.safetensors"), 15, "does not fit the base: .*mismatch"),
    "a manifest that is a folder": (lambda f: (f / "manifest.json").mkdir(), 10, "remove manifest.json or"),
}  # fmt: skip


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubetune_trainer.methods.adapter_config.SECONDS", 1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_is_refused(
    run: Run, base: Path, corpus: Path, made: dict[str, Path], tmp_path: Path, case: str
) -> None:
    harm, code, message = ADAPTERS[case]
    method = "full" if case == "NaN" else "lora"
    ended = run(
        going_on(tmp_path, base, corpus, harmed(made["lora"], tmp_path / "first", harm), method=method)
    )
    expect(ended, code, message, tmp_path)


def going_on(tmp: Path, base: Path, corpus: Path, folder: Path, **changes: Any) -> RunSpec:
    start = RunAdapter(uri="pvc://out/first", path=str(folder), root=str(folder.parent))
    data = source(corpus / "pairs.jsonl", "alpaca")
    return finetune_spec(
        tmp / "out", base, data, lora=None, adapter=start, training={"max_steps": 1}, **changes
    )


UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:k_proj|v_proj|q_proj|out_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\."
    r"(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:k_proj|v_proj|q_proj|o_proj|gate_proj|up_proj|"
    r"down_proj)))"
)


def test_adapters_as_others_write_them(
    run: Run, base: Path, corpus: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    harm = adapter(
        target_modules=UNSLOTH, init_lora_weights="gaussian",
        rank_pattern={r"^model\.layers\.0\.mlp.up_proj": 4},
        enable_lora=None, eva_config=None, loftq_config=None,
        auto_mapping={"base_model_class": "LlamaForCausalLM", "parent_library": "transformers"},
    )  # fmt: skip
    ended = run(going_on(tmp_path, base, corpus, harmed(made["lora"], tmp_path / "first", harm)))
    assert ended.code == 0, ended.out
    old, new = (load_file(f / "adapter_model.safetensors") for f in (made["lora"], tmp_path / "out/artifact"))
    assert old.keys() == new.keys()


REWARDS: dict[str, tuple[str, Harm, int, str]] = {
    "another kind": ("judge", adapter(peft_type="XLORA"), 10, "is an adapter of type XLORA: name one"),
    "another rank": ("judge", adapter(r=8), 15, "reward model .* does not fit the base: .*size mismatch"),
    "no rank": ("judge", adapter(r=0), 10, "reward model .*has r 0"),
    "other layers": ("judge", adapter(target_modules=["nope"]), 15, "does not fit the base"),
    "fewer layers": ("judge", adapter(target_modules=["q_proj"]), 15, "has other layers than the base"),
    "slow targets": ("judge", adapter(target_modules=SLOW), 10, "reward model .*list the names"),
    "no head": (
        "judge",
        weights(lambda w: {n: t for n, t in w.items() if "score" not in n}, "adapter_model.safetensors"),
        15, "reward model .* does not fit the base: .*score",
    ),
    "damaged": ("judge", write("adapter_model.safetensors", b"xx"), 10, "adapter_model.safetensors cannot"),
    "NaN in an adapter": (
        "judge",
        weights(lambda w: {n: t * NAN for n, t in w.items()}, "adapter_model.safetensors"),
        10, "reward model .*not finite",
    ),
    "NaN": ("whole", weights(first("score.weight", NAN)), 10, "reward model .*score.weight .*not finite"),
    "a config of other types": ("whole", model(hidden_size="x"), 10, "reward model pvc://out/judge"),
    "an index that leads out": ("whole", index("../x.safetensors", lambda f: None), 10, "reward .*index"),
    "a manifest that is a folder": ("judge", lambda f: (f / "manifest.json").mkdir(), 10, "remove manifest"),
}  # fmt: skip


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("case", REWARDS)
def test_a_reward_model_is_refused(
    run: Run, base: Path, corpus: Path, made: dict[str, Path], tmp_path: Path, case: str
) -> None:
    kind, harm, code, message = REWARDS[case]
    ended = run(rewarded(tmp_path, base, corpus, harmed(made[kind], tmp_path / "judge", harm)))
    expect(ended, code, message, tmp_path)


def rewarded(tmp: Path, base: Path, corpus: Path, judge: Path) -> RunSpec:
    named = RunAdapter(uri="pvc://out/judge", path=str(judge), root=str(judge.parent))
    return finetune_spec(
        tmp / "out", base, source(corpus / "prompts.jsonl", "prompts"), stage="grpo", packing=False,
        length=40,
        training={"max_steps": 1}, reward=RunReward(model=named), rollout=RolloutSettings(max_new_tokens=4),
        grpo=Grpo(group_size=2),
    )  # fmt: skip


def test_rewards_that_are_all_equal_teach_nothing(
    run: Run, base: Path, corpus: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    zero = weights(lambda w: {n: torch.zeros_like(t) for n, t in w.items()})
    ended = run(rewarded(tmp_path, base, corpus, harmed(made["whole"], tmp_path / "judge", zero)))
    assert ended.code == 10, ended.out
    assert "nothing was learned" in ended.message.message
    assert "reward" in ended.message.message


@pytest.mark.parametrize("method", ["lora", "prompt-tuning"])
def test_an_adapter_takes_the_chat_template_along_that_its_base_lacks(
    run: Run, base: Path, corpus: Path, tmp_path: Path, method: str
) -> None:
    data = source(corpus / "pairs.jsonl", "alpaca")
    more: dict[str, Any] = {"method": method, "length": 40, "training": {"max_steps": 1}}
    bare = harmed(base, tmp_path / "base", lambda f: (f / "chat_template.jinja").unlink())
    for folder, added in ((bare, True), (base, False)):
        ended = run(finetune_spec(tmp_path / f"out{added}", folder, data, **more))
        assert ended.code == 0, ended.out
        assert ("the base model has no chat template" in ended.out) == added
        written = tmp_path / f"out{added}/artifact/chat_template.jinja"
        assert written.exists() == added
        if added:
            assert written.read_text() == (base / "chat_template.jinja").read_text()


def test_a_panic_has_a_last_word(run: Run, base: Path, corpus: Path, tmp_path: Path) -> None:
    """A regular expression of the tokenizer gives up at a text of the data."""
    bomb = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "x"}
    folder = harmed(base, tmp_path / "base", fields("tokenizer.json", normalizer=bomb))
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"{i} {'a' * 40}!"}) + "\n" for i in range(20)))
    ended = run(pretrain_spec(tmp_path / "out", source(data), base=folder, stage="domain"))
    assert ended.code == 10, ended.out
    assert "tokenizer cannot be used: " in ended.message.message
    prompts = tmp_path / "pairs.jsonl"
    prompts.write_text(
        "".join(json.dumps({"instruction": f"{i} {'a' * 40}!", "output": "b"}) + "\n" for i in range(20))
    )
    ended = run(finetune_spec(tmp_path / "out", folder, source(prompts, "alpaca")))
    assert ended.code == 10, ended.out
    assert "Onig" in ended.message.message
