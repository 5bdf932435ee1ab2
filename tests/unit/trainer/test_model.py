import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    BertModel,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from kubetune.artifacts.digest import folder_digest
from kubetune_trainer.data.tokenizer import load as load_tokenizer
from kubetune_trainer.errors import BaseModelMismatch, DataError, InvalidSpec
from kubetune_trainer.model.checking import check_finite, check_kind, check_length
from kubetune_trainer.model.counting import context_of
from kubetune_trainer.model.digest import checked_digest
from kubetune_trainer.model.heads import CLASSIFIER
from kubetune_trainer.model.loading import load
from kubetune_trainer.model.making import create
from kubetune_trainer.model.probing import check_causal
from tests.fixtures.families import tiny
from tests.fixtures.runs import TINY_BERT, TINY_LLAMA, encoder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "lama"}, "'lama' is not a causal language model"),
        ({"model_type": "gemma3"}, "takes more than text.* name its text part, gemma3_text"),
        ({"model_type": "bert-for-cats"}, "not a causal language model"),
        ({"hiden_size": 64}, "no field 'hiden_size' for model_type llama: did you mean hidden_size"),
        ({"auto_map": {"AutoModel": "x.py"}}, "no field 'auto_map'"),
        ({"num_attention_heads": 3}, "makes no valid llama model"),
        ({"hidden_size": "big"}, "makes no valid llama model"),
        ({"hidden_act": "sillu"}, "makes no valid llama model"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, and at most 10000"),
        ({"max_position_embeddings": 16}, "exceeds the model's context of 16: raise max_position_embeddings"),
    ],
)
def test_configs_that_make_no_model(tokenizer, change: dict, message: str):
    with pytest.raises(InvalidSpec, match=message):
        create(TINY_LLAMA | change, tokenizer, 32)


def test_a_whole_number_does_where_a_fraction_may_stand(tokenizer):
    """Kubernetes turns 1.0 into 1."""
    made = create(TINY_LLAMA | {"rms_norm_eps": 1, "attention_dropout": 0}, tokenizer, 32)
    assert (made.config.rms_norm_eps, made.config.attention_dropout) == (1.0, 0.0)


def test_vocabulary_and_special_tokens_come_from_the_tokenizer(tokenizer):
    model = create(TINY_LLAMA | {"vocab_size": 7, "bos_token_id": 5}, tokenizer, 32)
    c = model.config
    assert (c.vocab_size, c.bos_token_id, c.eos_token_id, c.pad_token_id) == (320, None, 0, 1)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_names_that_a_model_type_gives_its_fields_are_known(tokenizer):
    create({"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "num_attention_heads": 2}, tokenizer, 32)


@pytest.fixture
def folder(tiny, tokenizer, tmp_path: Path) -> Path:
    tiny.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_classifier_is_no_language_model(tiny, folder: Path, tokenizer):
    """Where embeddings and head are one, nothing would be missing in its files."""
    config = copy.deepcopy(tiny.config)
    config.num_labels, config.tie_word_embeddings = 1, True
    LlamaForSequenceClassification(config).save_pretrained(folder)
    with pytest.raises(InvalidSpec, match=r"classifier \(LlamaForSequenceClassification\): name a causal"):
        load(folder, {"dtype": torch.float32}, tokenizer, 32)
    load(folder, {"dtype": torch.float32}, tokenizer, 32, CLASSIFIER)


def test_loading(folder: Path, tokenizer):
    assert load(folder, {"dtype": torch.bfloat16}, tokenizer, 32)[0].dtype == torch.bfloat16
    with pytest.raises(InvalidSpec, match=r"lower data\.sequenceLength"):
        load(folder, {"dtype": torch.float32}, tokenizer, 65)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda f: (f / "model.safetensors").write_bytes(b"damaged"), "cannot be loaded"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "cannot be loaded"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be loaded"),
    ],
)
def test_a_folder_that_is_no_model(folder: Path, tokenizer, damage, message: str):
    damage(folder)
    with pytest.raises(InvalidSpec, match=message):
        load(folder, {"dtype": torch.float32}, tokenizer, 32)


class Harm:
    """Pickled, it leaves a mark when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def put_code(folder: Path, mark: Path) -> None:
    """Python files that leave a mark when they are imported, and every file that may name them does."""
    (folder / "evil.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
        "from transformers import *\nclass Evil: pass\n"
    )
    auto = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
    for name in ("config.json", "tokenizer_config.json"):
        text = json.loads((folder / name).read_text())
        text["auto_map"] = {
            key: ["evil.Evil", "evil.Evil"] if key == auto[2] else "evil.Evil" for key in auto
        }
        (folder / name).write_text(json.dumps(text))


def test_a_base_runs_no_code(folder: Path, tokenizer, tmp_path: Path):
    mark = tmp_path / "mark"
    pickled = pickle.dumps(Harm(mark))
    (folder / "pytorch_model.bin").write_bytes(pickled)
    (folder / "optimizer.pt").write_bytes(pickled)
    put_code(folder, mark)
    # It has weights and a tokenizer of known kinds beside: they are taken.
    assert load(folder, {"dtype": torch.float32}, load_tokenizer(folder), 32)[0].num_parameters() > 0
    (folder / "model.safetensors").unlink()
    with pytest.raises(InvalidSpec, match="cannot be loaded"):
        load(folder, {"dtype": torch.float32}, tokenizer, 32)
    for name in ("config.json", "tokenizer_config.json"):
        text = json.loads((folder / name).read_text()) | {"model_type": "evil", "tokenizer_class": "Evil"}
        (folder / name).write_text(json.dumps(text))
    with pytest.raises(InvalidSpec, match="cannot be loaded"):
        load(folder, {"dtype": torch.float32}, tokenizer, 32)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InvalidSpec, match=r"cannot be loaded: config\.json"):
        load_tokenizer(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InvalidSpec, match="no usable tokenizer"):
        load_tokenizer(folder)
    assert not mark.exists()
    # The trap works.
    pickle.loads(pickled)
    assert mark.exists()


def test_a_tokenizer_that_belongs_to_another_model(folder: Path, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(InvalidSpec, match="321 tokens but the model embeds 320"):
        load(folder, {"dtype": torch.float32}, tokenizer, 32)


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
def test_an_encoder_is_told_by_its_config(kind: type[PreTrainedModel], tmp_path: Path):
    folder = encoder(tmp_path / "bert", kind)
    for stage in ("pretrain", "domain", "sft", "dpo", "reward", "ppo", "grpo"):
        with pytest.raises(InvalidSpec, match=rf"an encoder \({kind.__name__}\), and stage {stage} needs"):
            check_kind(folder, stage)
    for stage in ("mlm", "classification"):
        check_kind(folder, stage)


def test_causal_models_are_none(folder: Path, tmp_path: Path):
    check_kind(folder, "sft")
    check_kind(tmp_path, "sft")  # what is not there is told of later
    path = folder / "config.json"
    for changes in ({"model_type": "bert", "architectures": ["BertLMHeadModel"]},
                    {"model_type": "bert", "architectures": ["BertModel"], "is_decoder": True}):  # fmt: skip
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        check_kind(folder, "sft")
    for content in ("[]", "{", "[" * 200_000):
        path.write_text(content)
        with pytest.raises(InvalidSpec, match=r"config\.json is not a JSON object"):
            check_kind(folder, "sft")


def test_a_model_that_sees_what_comes_is_not_causal(tiny, tokenizer):
    check_causal(tiny)
    assert tiny.training
    with pytest.raises(InvalidSpec, match="each token of this bert model sees later ones"):
        check_causal(create(TINY_BERT, tokenizer, 32))
    fields = {k: v for k, v in TINY_BERT.items() if k != "model_type"}
    check_causal(BertLMHeadModel(BertConfig(vocab_size=320, is_decoder=True, **fields)))


def test_weights_that_are_no_numbers():
    large = torch.full((4,), 3e38)
    check_finite([("sums to infinity", large), ("integers", torch.ones(2, dtype=torch.int64))], "its files")
    check_finite([("half", torch.full((9,), 6e4, dtype=torch.float16))], "its files")
    for bad in (float("nan"), float("inf"), float("-inf")):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            with pytest.raises(
                InvalidSpec, match=r"its files hold numbers in layer\.weight that are not finite"
            ):
                check_finite([("layer.weight", torch.tensor([[1, bad], [2, 3]], dtype=dtype))], "its files")


def test_digests(folder: Path):
    digest = folder_digest(folder)
    assert checked_digest("base model", str(folder), str(folder.parent), digest) == digest
    assert checked_digest("base model", str(folder), None, None) == digest
    with pytest.raises(BaseModelMismatch, match=f"has digest {digest}, not sha256:0"):
        checked_digest("base model", str(folder), None, "sha256:0")
    with pytest.raises(DataError, match="does not exist"):
        checked_digest("base model", str(folder / "none"), None, None)
    (folder.parent / "round").symlink_to("round")
    with pytest.raises(DataError, match="does not exist"):
        checked_digest("base model", str(folder.parent / "round"), str(folder.parent), None)
    link = folder.parent / "inside/link"
    link.parent.mkdir()
    link.symlink_to(folder)
    with pytest.raises(BaseModelMismatch, match="leads out of its volume"):
        checked_digest("base model", str(link), str(link.parent), None)
    (folder / "link").symlink_to(folder / "config.json")
    with pytest.raises(BaseModelMismatch, match="plain files only"):
        checked_digest("base model", str(folder), None, None)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("lama", r"does not know model_type 'lama'.* \(it has llama"),
        ("t5", "has no causal language model of model_type 't5'"),
        ("qwen2_vl", "has no causal language model of model_type 'qwen2_vl'"),
    ],
)
def test_unsupported_architectures_are_told_what_to_do(tokenizer, tmp_path: Path, kind: str, message: str):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(InvalidSpec, match=message) as refused:
        load(tmp_path, {"dtype": torch.float32}, tokenizer, 32)
    assert "architectures that docs/models.md lists" in str(refused.value)
    assert len(str(refused.value)) < 330, "not a list of all"


def test_a_config_may_state_no_context(tokenizer):
    assert context_of(create(tiny("xlnet"), tokenizer, 4096)) is None, "it says -1"
    model = create(TINY_LLAMA, tokenizer, 32)
    model.config.max_position_embeddings = -1
    check_length(model, 4096, "")
    fields = {k: v for k, v in tiny("gemma3").items() if k != "model_type"}
    composite = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma3", **fields))
    assert context_of(composite) == 64, "the text part's"


def test_a_type_may_insist_on_a_token_to_begin_with(tokenizer):
    assert create(tiny("modernbert-decoder"), tokenizer, 32).config.bos_token_id == tokenizer.eos_token_id
