"""Any folder, hostile ones too: it is served as it is or refused for a reason, and nothing else happens."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubetune.api.table import AdapterReason, TableAdapter
from kubetune.artifacts.digest import UnsafePath, folder_digest
from kubetune.gateway.chat import chat_template
from kubetune.gateway.fetch import READ, fingerprint
from kubetune.gateway.prepare import prepare
from kubetune.gateway.refused import AdapterRefused
from kubetune.gateway.verify import Limits
from tests.fixtures.adapters import write_adapter, write_base

Harm = Callable[[Path], None]
FIELDS = (
    "peft_type", "r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_dora", "bias",
    "init_lora_weights", "modules_to_save", "lora_bias", "layer_replication", "chat_template", "bos_token",
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
CONFIGS = ("adapter_config.json", "tokenizer_config.json", "manifest.json")
TARGETS = (
    "adapter_config.json", "../../outside/secret", "/etc/hostname", "/proc/self/environ", "/dev/zero", "..",
    ".", "nothing", "../base/model.safetensors", "self",
)  # fmt: skip
NAMES = st.sampled_from([*sorted(READ), "x.bin", "sub/adapter_config.json", "self", "é"]) | st.text(
    st.characters(blacklist_characters="/\0", codec="utf-8"), min_size=1, max_size=20
).filter(lambda n: n not in (".", ".."))


def put(name: str, make: Callable[[Path], Any]) -> Harm:
    """In the place of whatever is there."""

    def harm(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            os.unlink(path)
        make(path)

    return harm


def edit_json(name: str, field: str, value: Any) -> Harm:
    def harm(folder: Path) -> None:
        path = folder / name
        known = json.loads(path.read_bytes()) if path.is_file() and path.stat().st_size < 10_000 else {}
        path.unlink(missing_ok=True)
        path.write_text(json.dumps(known | {field: value}) if isinstance(known, dict) else "{}")

    return guarded(harm)


def edit_weights(at: int, new: bytes, cut: int) -> Harm:
    def harm(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        content = bytearray(own(path))
        at_ = at % (len(content) + 1)
        content[at_ : at_ + len(new)] = new
        path.write_bytes(bytes(content[: len(content) - cut]))

    return guarded(harm)


def edit_header(which: int, field: str, value: Any) -> Harm:
    def harm(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        content = own(path)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        name = sorted(header)[which % len(header)]
        if field == "name":
            header[str(value)] = header.pop(name)
        else:
            header[name][field] = value
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])

    return guarded(harm)


def own(path: Path) -> bytes:
    """The content of a file of the folder. /dev/zero would never end; /etc/hostname is not ours to edit."""
    if path.is_symlink() or not path.is_file():
        raise ValueError(path)
    return path.read_bytes()


def guarded(harm: Harm) -> Harm:
    """Nothing happens where an earlier harm has left nothing to edit."""

    def tried(folder: Path) -> None:
        try:
            harm(folder)
        except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError):
            return

    return tried


HARMS = st.one_of(
    st.builds(lambda n, c: put(n, lambda p: p.write_bytes(c)), NAMES, st.binary(max_size=50)),
    st.builds(lambda n, v: put(n, lambda p: p.write_text(json.dumps(v))), st.sampled_from(CONFIGS), JSON),
    st.builds(lambda n, t: put(n, lambda p: p.symlink_to(t)), NAMES, st.sampled_from(TARGETS)),
    st.builds(lambda n: put(n, os.mkfifo), NAMES),
    st.builds(lambda n: put(n, os.mkdir), NAMES),
    st.builds(edit_json, st.sampled_from(CONFIGS), st.sampled_from(FIELDS), JSON),
    st.builds(edit_weights, st.integers(0, 10**6), st.binary(max_size=9), st.integers(0, 20)),
    st.builds(
        edit_header, st.integers(0, 5), st.sampled_from(["name", "dtype", "shape", "data_offsets"]),
        JSON | st.sampled_from(["F16", "I8", "base_model.model.lm_head.weight", [8, 32], [0, 1024]]),
    ),
)  # fmt: skip


def tried(harms: list[Harm]) -> AdapterReason | None:
    """Why the folder is refused; None where it is served."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "outside").mkdir()
        (root / "outside" / "secret").write_text("{}")
        volume, cache = root / "volume", root / "cache"
        base = write_base(volume / "base")
        folder = write_adapter(volume / "a")
        cache.mkdir()
        for harm in harms:
            harm(folder)
        fingerprint(folder)
        try:
            digest = folder_digest(folder, within=volume)
        except (UnsafePath, OSError):
            digest = "sha256:" + "0" * 64
        wanted = TableAdapter(name="org/a:1", digest=digest, path=str(folder), root=str(volume))
        limits = Limits(base_digest=None, base_path=base, max_rank=16)
        try:
            copy = prepare(wanted, limits, cache, max_bytes=1 << 20)
            chat_template(copy, base)
        except AdapterRefused as refused:
            return refused.reason
        finally:
            assert len(list(cache.iterdir())) <= 1
            assert {p.name for p in root.iterdir()} == {"outside", "volume", "cache"}
        assert all(p.is_file() and not p.is_symlink() for p in copy.iterdir())
        assert {p.name for p in copy.iterdir()} <= READ | {".files"}
        assert prepare(wanted, limits, cache, max_bytes=1 << 20) == copy
        return None


def judge(harms: list[Harm]) -> None:
    reason = tried(harms)
    # Neither may be told to wait for what will never pass.
    assert reason is None or not reason.may_pass, reason


@settings(max_examples=150, deadline=None)
@given(harms=st.lists(HARMS, max_size=3))
def test_any_folder_is_served_or_refused(harms: list[Harm]):
    judge(harms)


def test_any_folder_is_served_or_refused_at_length(thorough: bool):
    if not thorough:
        pytest.skip("only with --chaos=long")
    settings(max_examples=5_000, deadline=None)(given(harms=st.lists(HARMS, max_size=5))(judge))()


def test_nothing_is_no_harm():
    assert tried([]) is None
