"""Which adapters are refused before the engine sees them, and for what reason."""

import json
from pathlib import Path

import pytest

from kubetune.api.table import AdapterReason
from kubetune.artifacts.digest import folder_digest
from kubetune.artifacts.manifest import write_manifest
from kubetune.gateway.prepare import prepare
from kubetune.gateway.refused import AdapterRefused
from kubetune.gateway.verify import Limits
from tests.fixtures.adapters import entry, manifest_of, write_adapter, write_base

LIMIT = 1 << 20


@pytest.fixture
def limits(tmp_path: Path) -> Limits:
    base = write_base(tmp_path / "base")
    return Limits(base_digest=folder_digest(base), base_path=base, max_rank=16)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


def refusal(folder: Path, limits: Limits, *, digest: str | None = None) -> AdapterRefused:
    """Why a folder is refused; nothing may be left of it in the cache."""
    cache = folder.parent / "cache"
    cache.mkdir()
    with pytest.raises(AdapterRefused) as caught:
        prepare(entry("a", folder, digest=digest), limits, cache, max_bytes=LIMIT)
    assert list(cache.iterdir()) == []
    return caught.value


def test_a_good_adapter_is_copied_under_its_loaded_name(tmp_path: Path, limits: Limits, cache: Path):
    folder = write_adapter(tmp_path / "a", base_digest=limits.base_digest)
    wanted = entry("medical", folder)
    copy = prepare(wanted, limits, cache, max_bytes=LIMIT)
    assert copy == cache / f"medical-{wanted.digest[7:15]}"
    assert (copy / "adapter_model.safetensors").read_bytes() == (
        folder / "adapter_model.safetensors"
    ).read_bytes()


def test_a_foreign_adapter_without_manifest_is_fine(tmp_path: Path, limits: Limits, cache: Path):
    prepare(entry("a", write_adapter(tmp_path / "a")), limits, cache, max_bytes=LIMIT)


def test_a_damaged_copy_is_fetched_again(tmp_path: Path, limits: Limits, cache: Path):
    wanted = entry("a", write_adapter(tmp_path / "a"))
    copy = prepare(wanted, limits, cache, max_bytes=LIMIT)
    good = (copy / "adapter_config.json").read_text()
    (copy / "adapter_config.json").write_text("{}")
    assert (prepare(wanted, limits, cache, max_bytes=LIMIT) / "adapter_config.json").read_text() == good
    (copy / ".files").write_text("nonsense\n")
    assert (prepare(wanted, limits, cache, max_bytes=LIMIT) / ".files").read_text() != "nonsense\n"


def test_a_good_copy_is_used_when_the_source_is_gone(tmp_path: Path, limits: Limits, cache: Path):
    wanted = entry("a", write_adapter(tmp_path / "a"))
    copy = prepare(wanted, limits, cache, max_bytes=LIMIT)
    for file in (tmp_path / "a").iterdir():
        file.unlink()
    assert prepare(wanted, limits, cache, max_bytes=LIMIT) == copy


def test_a_disk_that_fails_is_told_in_the_same_words_at_each_try(tmp_path: Path, limits: Limits, cache: Path):
    wanted = entry("a", write_adapter(tmp_path / "a"))
    (cache / wanted.loaded_name).write_text("in the way")
    told = set()
    for _ in range(2):
        with pytest.raises(AdapterRefused, match=r"cannot copy the files: .*Not a directory") as caught:
            prepare(wanted, limits, cache, max_bytes=LIMIT)
        told.add(str(caught.value))
    assert len(told) == 1


def test_another_digest(tmp_path: Path, limits: Limits):
    found = refusal(write_adapter(tmp_path / "a"), limits, digest="sha256:" + "0" * 64)
    assert found.reason is AdapterReason.DIGEST_MISMATCH
    assert "0000" in str(found)


def test_another_base_by_manifest(tmp_path: Path, limits: Limits):
    folder = write_adapter(tmp_path / "a", base_digest="sha256:" + "1" * 64)
    assert refusal(folder, limits).reason is AdapterReason.BASE_MODEL_MISMATCH


def test_another_base_by_features(tmp_path: Path, limits: Limits):
    found = refusal(write_adapter(tmp_path / "a", features=64), limits)
    assert found.reason is AdapterReason.BASE_MODEL_MISMATCH
    assert "64 features" in str(found)


def test_another_base_by_depth(tmp_path: Path, limits: Limits):
    found = refusal(write_adapter(tmp_path / "a", layers=3), limits)
    assert found.reason is AdapterReason.BASE_MODEL_MISMATCH
    assert "model.layers.2" in str(found)


def test_a_base_with_other_names_is_not_judged_by_names(tmp_path: Path, cache: Path):
    base = tmp_path / "base"
    base.mkdir()
    limits = Limits(base_digest=None, base_path=base, max_rank=16)
    prepare(entry("a", write_adapter(tmp_path / "a", layers=9)), limits, cache, max_bytes=LIMIT)


def test_rank_too_high(tmp_path: Path, limits: Limits):
    assert refusal(write_adapter(tmp_path / "a", rank=17), limits).reason is AdapterReason.RANK_TOO_HIGH


def test_rank_too_high_in_one_layer(tmp_path: Path, limits: Limits):
    folder = write_adapter(tmp_path / "a", config={"rank_pattern": {"q_proj": 32}})
    assert refusal(folder, limits).reason is AdapterReason.RANK_TOO_HIGH


@pytest.mark.parametrize(("form", "told"), [("full", "full weights"), ("prompt", "virtual tokens")])
def test_what_is_no_lora_adapter(tmp_path: Path, limits: Limits, form: str, told: str):
    folder = write_adapter(tmp_path / "a")
    write_manifest(folder, manifest_of(folder, "sha256:" + "1" * 64).model_copy(update={"format": form}))
    assert told in str(refusal(folder, limits))


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True},
        {"lora_bias": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"init_lora_weights": "pissa"},
        {"layer_replication": [[0, 1]]},
        {"peft_type": "PROMPT_TUNING"},
        {"r": 0},
        {"r": "8"},
        {"rank_pattern": 3},
        {"rank_pattern": {"(a*)*": 8}},
        {"rank_pattern": {".*.*.*.*x": 8}},
        {"rank_pattern": {"(": 8}},
        {"rank_pattern": {"q_proj": True}},
        {"lora_alpha": None},
        {"lora_alpha": "16"},
        {"alpha_pattern": {"q_proj": "16"}},
        {"target_modules": None},
    ],
    ids=lambda c: next(iter(c)) + "=" + str(next(iter(c.values()))),
)
def test_what_the_engine_cannot_serve(tmp_path: Path, limits: Limits, config):
    assert refusal(write_adapter(tmp_path / "a", config=config), limits).reason is AdapterReason.UNSUPPORTED


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva"])
def test_plain_initialisations_are_fine(tmp_path: Path, limits: Limits, cache: Path, init):
    folder = write_adapter(tmp_path / "a", config={"init_lora_weights": init})
    prepare(entry("a", folder), limits, cache, max_bytes=LIMIT)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_incomplete(tmp_path: Path, limits: Limits, name: str):
    folder = write_adapter(tmp_path / "a")
    (folder / name).unlink()
    found = refusal(folder, limits)
    assert found.reason is AdapterReason.NOT_FOUND
    assert name in str(found)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b"[]"),
        ("adapter_config.json", b"\xff"),
        ("adapter_config.json", b"[" * 100_000),
        ("adapter_model.safetensors", b""),
        ("adapter_model.safetensors", b"\xff" * 64),
        ("adapter_model.safetensors", (2).to_bytes(8, "little") + b"{}"),
        ("adapter_model.safetensors", (8).to_bytes(8, "little") + b'{"a": 1}'),
        ("manifest.json", b"{}"),
        ("manifest.json", b"not json"),
    ],
)
def test_garbage(tmp_path: Path, limits: Limits, name: str, content: bytes):
    folder = write_adapter(tmp_path / "a")
    (folder / name).write_bytes(content)
    assert refusal(folder, limits).reason is AdapterReason.UNSUPPORTED


def test_a_packed_base_is_left_to_the_engine(tmp_path: Path, cache: Path):
    base = write_base(tmp_path / "base")
    file = base / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for tensor in header.values():
        tensor.update(dtype="U8", shape=[4096, 1])
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    limits = Limits(base_digest=None, base_path=base, max_rank=16)
    prepare(entry("a", write_adapter(tmp_path / "a")), limits, cache, max_bytes=LIMIT)
