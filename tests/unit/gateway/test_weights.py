"""What the tensors of an adapter tell before the engine is asked: for good, and by name."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from kubetune.api.table import AdapterReason
from kubetune.gateway.base import BaseModules
from kubetune.gateway.refused import AdapterRefused
from kubetune.gateway.tensors import HeaderError, read_header
from kubetune.gateway.verify import check_weights
from tests.fixtures.adapters import write_safetensors

HIDDEN, INNER, VOCABULARY, RANK = 32, 48, 64, 8
PREFIX = "base_model.model."
BLOCK = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
BASE = {f"model.layers.{n}.{m}.weight": shape for n in range(2) for m, shape in BLOCK.items()} | {
    "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
    "model.layers.0.input_layernorm.weight": (HIDDEN,),
}
Shapes = dict[str, tuple[int, ...]]


def matrices(*modules: str, prefix: str = PREFIX, rank: int = RANK) -> Shapes:
    """A and B of modules of the base, by peft's names."""
    found: Shapes = {}
    for module in modules:
        out, into = next(
            shape for name, shape in BASE.items() if name.removesuffix(".weight").endswith(module)
        )
        found[f"{prefix}{module}.lora_A.weight"] = (rank, into)
        found[f"{prefix}{module}.lora_B.weight"] = (out, rank)
    return found


ALL = tuple(f"model.layers.{n}.{m}" for n in range(2) for m in BLOCK)
EMBEDDING: Shapes = {
    f"{PREFIX}model.embed_tokens.lora_embedding_A": (RANK, VOCABULARY),
    f"{PREFIX}model.embed_tokens.lora_embedding_B": (HIDDEN, RANK),
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", BASE)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": True}))
    return folder


def judge(base: Path, shapes: Shapes, ranks: set[int] | None = None) -> None:
    file = base.parent / "adapter_model.safetensors"
    write_safetensors(file, shapes)
    check_weights(file, base, ranks or {RANK})


def refusal(base: Path, shapes: Shapes, ranks: set[int] | None = None) -> AdapterRefused:
    with pytest.raises(AdapterRefused) as caught:
        judge(base, shapes, ranks)
    assert not caught.value.reason.may_pass
    return caught.value


def lm_head(rank: int = RANK) -> Shapes:
    return {
        f"{PREFIX}lm_head.lora_A.weight": (rank, HIDDEN),
        f"{PREFIX}lm_head.lora_B.weight": (VOCABULARY, rank),
    }


@pytest.mark.parametrize(
    "shapes",
    [
        matrices(*ALL),
        matrices(*ALL, prefix=""),
        matrices(ALL[0]),
        matrices(*ALL) | EMBEDDING,
        matrices(*ALL) | lm_head(),
        matrices(*ALL) | EMBEDDING | {f"{PREFIX}model.embed_tokens.base_layer.weight": (VOCABULARY, HIDDEN)},
        matrices(*ALL) | lm_head() | {f"{PREFIX}lm_head.base_layer.weight": (VOCABULARY, HIDDEN)},
    ],
    ids=["all", "without-prefix", "one-layer", "embedding", "tied-head", "copy-of-embedding", "copy-of-head"],
)
def test_what_fits_is_taken(base: Path, shapes: Shapes):
    judge(base, shapes)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({f"{PREFIX}model.embed_tokens.weight": (VOCABULARY, HIDDEN)}, "model.embed_tokens.weight"),
        ({f"{PREFIX}lm_head.weight": (VOCABULARY, HIDDEN)}, "lm_head.weight"),
        ({f"{PREFIX}model.norm.weight": (HIDDEN,)}, "model.norm.weight"),
        ({f"{PREFIX}score.weight": (2, HIDDEN)}, "score.weight"),
        ({f"{PREFIX}{ALL[0]}.lora_magnitude_vector.weight": (HIDDEN,)}, "lora_magnitude_vector"),
        ({f"{PREFIX}{ALL[0]}.lora_B.bias": (HIDDEN,)}, "lora_B.bias"),
        ({f"{PREFIX}{ALL[0]}.bias": (HIDDEN,)}, "q_proj.bias"),
        ({f"{PREFIX}model.embed_tokens.base_layer.weight": (VOCABULARY + 3, HIDDEN)}, "base_layer.weight"),
        (
            {f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta": (1, HIDDEN)},
            "trainable_tokens",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_is_no_lora_matrix_is_named(base: Path, more: Shapes, named: str):
    found = refusal(base, matrices(*ALL) | more)
    assert found.reason is AdapterReason.UNSUPPORTED
    assert named in str(found)


@pytest.mark.parametrize(
    "names",
    [
        "lora_unet_down_blocks_0.lora_down.weight",
        "model.layers.0.self_attn.q_proj.lora_a",
        f"{PREFIX}{ALL[0]}.lora_A.default.weight",
        "layers.0.attention.wq.lora_a.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "transformer.encoder.layers.0.lora_linear.matrix_A.weight",
    ],
)
def test_names_of_another_layout(base: Path, names: str):
    found = refusal(base, {names: (RANK, HIDDEN)})
    assert found.reason is AdapterReason.UNSUPPORTED
    assert "no LoRA matrices by peft's names" in str(found)
    assert names in str(found)


def test_no_tensors(base: Path):
    assert "no LoRA matrices" in str(refusal(base, {}))


@pytest.mark.parametrize("side", "AB")
def test_a_matrix_without_its_other_half(base: Path, side: str):
    shapes = matrices(*ALL)
    del shapes[f"{PREFIX}{ALL[2]}.lora_{side}.weight"]
    found = refusal(base, shapes)
    assert found.reason is AdapterReason.UNSUPPORTED
    assert f"{ALL[2]}.lora_{'BA'['AB'.index(side)]}.weight" in str(found)


@pytest.mark.parametrize(
    ("into", "named"),
    [
        ("model.language_model.layers.{}.", "6 of the adapter's 6"),
        ("language_model.model.layers.{}.", "6 of the adapter's 6"),
        ("layers.{}.", "6 of the adapter's 6"),
        ("model.model.layers.{}.", "6 of the adapter's 6"),
        ("transformer.layers.{}.", "6 of the adapter's 6"),
        ("model.decoder.layers.{}.", "6 of the adapter's 6"),
    ],
)
def test_modules_that_the_base_has_not(base: Path, into: str, named: str):
    shapes = {
        PREFIX + re.sub(r"model\.layers\.(\d)\.", lambda m: into.format(m[1]), name): shape
        for name, shape in matrices(*ALL, prefix="").items()
    }
    found = refusal(base, shapes)
    assert found.reason is AdapterReason.BASE_MODEL_MISMATCH
    assert named in str(found)
    assert into.format(0) in str(found)


def test_some_modules_that_the_base_has_not(base: Path):
    deep = {k.replace("layers.1", "layers.7"): v for k, v in matrices(ALL[3], ALL[4]).items()}
    found = refusal(base, matrices(*ALL) | deep)
    assert "2 of the adapter's 8 modules" in str(found)
    assert "model.layers.7.self_attn.q_proj, model.layers.7.self_attn.v_proj" in str(found)


def test_names_that_the_engine_judges_are_left_to_it(base: Path):
    """It refuses last parts that it does not know by itself, and knows some that the files do not."""
    fused = {f"{PREFIX}model.layers.0.self_attn.qkv.lora_{s}.weight": (RANK, RANK) for s in "AB"}
    judge(base, matrices(*ALL) | fused)


def test_sizes_of_another_base(base: Path):
    shapes = matrices(*ALL)
    shapes[f"{PREFIX}{ALL[2]}.lora_A.weight"] = (RANK, HIDDEN)
    found = refusal(base, shapes)
    assert found.reason is AdapterReason.BASE_MODEL_MISMATCH
    assert f"{ALL[2]}.lora_A.weight is made for 32 features where the base's {ALL[2]} has 48" in str(found)


@pytest.mark.parametrize("side", "AB")
def test_sizes_of_another_vocabulary(base: Path, side: str):
    shapes = dict(EMBEDDING)
    name = f"{PREFIX}model.embed_tokens.lora_embedding_{side}"
    shapes[name] = tuple(n + 1 if n != RANK else n for n in shapes[name])
    assert refusal(base, shapes).reason is AdapterReason.BASE_MODEL_MISMATCH


def test_ranks(base: Path):
    judge(base, matrices(*ALL[:3]) | matrices(*ALL[3:], rank=4), {8, 4})
    assert "rank 8, which neither r" in str(refusal(base, matrices(*ALL), {4}))
    odd = matrices(ALL[0]) | {f"{PREFIX}{ALL[0]}.lora_B.weight": (HIDDEN, 4)}
    assert "ranks 8 and 4" in str(refusal(base, odd, {4, 8}))


@pytest.mark.parametrize("shape", [(RANK,), (RANK, HIDDEN, 1), (0, HIDDEN), ()])
def test_what_is_no_matrix(base: Path, shape: tuple[int, ...]):
    assert "must be a matrix" in str(
        refusal(base, matrices(ALL[0]) | {f"{PREFIX}{ALL[0]}.lora_A.weight": shape})
    )


def test_a_base_that_nests_a_language_model(tmp_path: Path):
    """Checkpoints, transformers and engines name the same module in three ways."""
    folder = tmp_path / "base"
    folder.mkdir()
    nested = {k.replace("model.", "language_model.model.", 1): v for k, v in BASE.items()}
    write_safetensors(folder / "model.safetensors", nested)
    (folder / "config.json").write_text(json.dumps({"text_config": {}, "vision_config": {}}))
    for prefix in ("model.language_model.", "language_model.model.", "model."):
        judge(
            folder,
            {k.replace("model.layers", f"{prefix}layers"): v for k, v in matrices(*ALL, prefix="").items()},
        )
    assert "layers.7" in str(
        refusal(folder, {k.replace("layers.1", "layers.7"): v for k, v in matrices(*ALL).items()})
    )


def test_a_base_whose_files_lack_the_prefix_of_its_class(tmp_path: Path):
    folder = tmp_path / "base"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", {k.removeprefix("model."): v for k, v in BASE.items()})
    judge(folder, matrices(*ALL))


@pytest.mark.parametrize(
    "stored", ["experts.0.gate_proj.weight", "experts.gate_up_proj", "experts.0.w1.qweight"]
)
def test_experts_are_named_one_by_one_or_together(tmp_path: Path, stored: str):
    folder = tmp_path / "base"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", BASE | {f"model.layers.0.mlp.{stored}": (4, HIDDEN, 8)})
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_vl_moe"}))
    for module in ("experts.base_layer", "experts", "experts.0.gate_proj", "experts.3.down_proj"):
        a, b = (f"{PREFIX}model.layers.0.mlp.{module}.lora_{s}.weight" for s in "AB")
        judge(folder, {a: (4 * RANK, HIDDEN), b: (HIDDEN, 4 * RANK)})
        elsewhere = {a.replace("layers.0", "layers.1"): (RANK, HIDDEN)}
        elsewhere[b.replace("layers.0", "layers.1")] = (HIDDEN, RANK)
        if module.rpartition(".")[2] in BaseModules.of(folder).leaves:
            assert "layers.1.mlp.experts" in str(refusal(folder, elsewhere))


@pytest.mark.parametrize("module", ["experts", "experts.base_layer"])
def test_stacked_experts_that_the_engine_would_pass_over_are_refused(tmp_path: Path, module: str):
    """vLLM looks for matrices of single experts there, and these would have no effect."""
    folder = tmp_path / "base"
    folder.mkdir()
    held = {"model.layers.0.mlp.experts.0.gate_proj.weight": (INNER, HIDDEN)}
    write_safetensors(folder / "model.safetensors", BASE | held)
    (folder / "config.json").write_text(json.dumps({"model_type": "mixtral"}))
    a, b = (f"{PREFIX}model.layers.0.mlp.{module}.lora_{s}.weight" for s in "AB")
    found = refusal(folder, {a: (4 * RANK, HIDDEN), b: (HIDDEN, 4 * RANK)})
    assert found.reason is AdapterReason.UNSUPPORTED
    for told in ("mixtral", "output.merge", "targetParameters"):
        assert told in str(found)


def write_raw(file: Path, dtype: str, values: bytes, *, zero_b: bool = False) -> None:
    """One pair of rank 1 by 2 features, A with these bytes."""
    width = len(values) // 2
    b = (b"\0" if zero_b else b"\x01") * len(values)
    header: dict[str, Any] = {
        f"{PREFIX}x.lora_A.weight": {"dtype": dtype, "shape": [1, 2], "data_offsets": [0, len(values)]},
        f"{PREFIX}x.lora_B.weight": {
            "dtype": dtype,
            "shape": [2, 1],
            "data_offsets": [len(values), 4 * width],
        },
    }
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + values + b)


def half(value: float, dtype: str) -> bytes:
    if dtype == "BF16":
        return struct.pack("<f", value)[2:]
    return struct.pack({"F16": "<e", "F32": "<f", "F64": "<d"}[dtype], value)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers(tmp_path: Path, dtype: str, value: float):
    file = tmp_path / "adapter_model.safetensors"
    write_raw(file, dtype, half(1, dtype) + half(value, dtype))
    with pytest.raises(AdapterRefused, match="NaN or infinity") as caught:
        check_weights(file, tmp_path / "base", {1})
    assert caught.value.reason is AdapterReason.UNSUPPORTED


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("value", [1.5, -0.0, 65000, 1e-7, -1.0])
def test_values_that_are_numbers(tmp_path: Path, dtype: str, value: float):
    file = tmp_path / "adapter_model.safetensors"
    write_raw(file, dtype, half(1, dtype) + half(value, dtype))
    check_weights(file, tmp_path / "base", {1})


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
def test_matrices_that_are_zero_have_no_effect(tmp_path: Path, dtype: str):
    file = tmp_path / "adapter_model.safetensors"
    for a, zero_b in ((half(0, dtype) + half(-0.0, dtype), False), (2 * half(1, dtype), True)):
        write_raw(file, dtype, a, zero_b=zero_b)
        with pytest.raises(AdapterRefused) as caught:
            check_weights(file, tmp_path / "base", {1})
        assert caught.value.reason is AdapterReason.WITHOUT_EFFECT


@pytest.mark.parametrize("dtype", ["I8", "U8", "I32", "BOOL", "F8_E4M3", "F4", "nonsense"])
def test_numbers_that_are_no_fractions(tmp_path: Path, dtype: str):
    file = tmp_path / "adapter_model.safetensors"
    width = {"I32": 4}.get(dtype, 1)
    write_raw(file, dtype, b"\1" * 2 * width)
    with pytest.raises(AdapterRefused, match=f"lora_A.weight is {dtype}: save the adapter as"):
        check_weights(file, tmp_path / "base", {1})


def test_a_file_that_is_cut_or_longer_is_damaged(tmp_path: Path):
    file = tmp_path / "adapter_model.safetensors"
    write_safetensors(file, matrices(*ALL))
    whole = file.read_bytes()
    assert len(read_header(file)) == 12
    for damaged in (whole[:-1], whole + b"x", whole[:-4000], whole[:100], whole[:8], whole[:3], b""):
        file.write_bytes(damaged)
        with pytest.raises(HeaderError):
            read_header(file)


@pytest.mark.parametrize(
    "header",
    [
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, '
        '"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}}',
        '{"a": {"dtype": 32, "shape": [1], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        '{"a": {"dtype": "F32", "shape": [99999999999999999999], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
        '{"a": 3}',
        "[]",
        '{"a": ' * 3000,
    ],
)  # fmt: skip
def test_a_header_that_lies(tmp_path: Path, header: str):
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"\0\0\0\0")
    with pytest.raises(HeaderError):
        read_header(file)
