"""What is looked at before a library reads a user's files, and what becomes of what it raises."""

import json
from pathlib import Path

import pytest

from kubetune_trainer.errors import DataError, InvalidSpec, StorageError
from kubetune_trainer.model_files import check_config, check_folder, weight_files
from kubetune_trainer.reading import cause, panicked, reading


def write_index(folder: Path, *shards: object, name: str = "model.safetensors.index.json") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / name).write_text(json.dumps({"weight_map": {str(i): s for i, s in enumerate(shards)}}))


def test_shards_are_files_of_the_folder(tmp_path: Path):
    write_index(tmp_path, "a.safetensors", "sub/b.safetensors", "a.safetensors")
    (tmp_path / "sub").mkdir()
    for name in ("a.safetensors", "sub/b.safetensors"):
        (tmp_path / name).touch()
    write_index(tmp_path, "w.bin", name="pytorch_model.bin.index.json")  # never read
    check_folder(tmp_path, "base model")
    assert weight_files(tmp_path, "base model") == [
        tmp_path / "a.safetensors",
        tmp_path / "sub/b.safetensors",
    ]


@pytest.mark.parametrize(
    "shard",
    [
        "../a.safetensors",
        "sub/../../a.safetensors",
        "/a.safetensors",
        "w.bin",
        "",
        "a.safetensors\0",
        5,
        None,
        [],
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors.index.json", "other.safetensors.index.json"])
def test_other_names_are_refused(tmp_path: Path, shard: object, name: str):
    (tmp_path / "a.safetensors").touch()
    write_index(tmp_path / "base", shard, name=name)
    with pytest.raises(InvalidSpec, match=rf"{name} names .*not a safetensors file in"):
        check_folder(tmp_path / "base", "base model")


def test_a_shard_that_is_no_file(tmp_path: Path):
    write_index(tmp_path, "a.safetensors")
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(InvalidSpec, match=r"a\.safetensors, which .* is not a regular file"):
        check_folder(tmp_path, "base model")
    (tmp_path / "a.safetensors").rmdir()
    (tmp_path / "a.safetensors").symlink_to("/etc/passwd")
    with pytest.raises(InvalidSpec, match="is not a regular file"):
        check_folder(tmp_path, "base model")


@pytest.mark.parametrize(
    "index", ["[]", "{", "5", '{"weight_map": {}}', '{"weight_map": []}', "{}", "[" * 200_000]
)
def test_a_malformed_index(tmp_path: Path, index: str):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(
        InvalidSpec, match=r"model\.safetensors\.index\.json (is not a JSON object|has no weight_map)"
    ):
        check_folder(tmp_path, "base model")


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 20_000}, {"n_layer": 10**9}, {"text_config": {"num_hidden_layers": 10**12}},
        {"n_routed_experts": 10**6}, {"encoder_layers": 10**6}, {"_attn_implementation": "evil/kernel"},
        {"hidden_dropout_prob": -0.1}, {"attn_pdrop": 3},
    ],
)  # fmt: skip
def test_configs_that_are_refused(config: dict):
    with pytest.raises(InvalidSpec, match=r"config\.json: "):
        check_config(config, "config.json")


def test_configs_as_they_are():
    check_config(
        {
            "num_hidden_layers": 61, "n_routed_experts": 256, "shared_expert_intermediate_size": 20_480,
            "attn_implementation": "sdpa", "attention_dropout": 0.0, "classifier_dropout": None,
            "n_layer": 12, "layer_norm_eps": 1e-5, "vocab_size": 10**6, "text_config": None,
        },
        "config.json",
    )  # fmt: skip


def test_what_goes_wrong_in_reading():
    panic = type("PanicException", (BaseException,), {})("Onig: gave up")
    assert panicked(panic)
    for error, message in [
        (AttributeError(), "config.json cannot be used: AttributeError: restore it"),
        (KeyError("nope"), "config.json cannot be used: KeyError: 'nope': restore it"),
        (panic, "config.json cannot be used: Onig: gave up: restore it"),
        (ImportError("one\n  two"), "config.json cannot be used: one two: restore it"),
        (
            ValueError("It is bad. Set `trust_remote_code=True`."),
            "config.json cannot be used: It is bad.: rest",
        ),
    ]:
        with pytest.raises(InvalidSpec) as found, reading("config.json", "restore it"):
            raise error
        assert str(found.value).startswith(message)
    assert len(cause(ValueError("x " * 1000))) == 300
    for error in (
        MemoryError(),
        DataError("no data"),
        KeyboardInterrupt(),
        RuntimeError("CUDA error: launch"),
    ):
        with pytest.raises(type(error)), reading("config.json", "restore it"):
            raise error
    with pytest.raises(StorageError), reading("config.json", "restore it"):
        raise OSError(5, "Input/output error")
