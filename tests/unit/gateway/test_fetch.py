"""What is copied from a shared volume, and what never is."""

import os
import socket
from pathlib import Path

import pytest

from kubetune.api.table import AdapterReason
from kubetune.artifacts.digest import digest_of, folder_digest
from kubetune.gateway.fetch import copy_folder, fingerprint, resolve
from kubetune.gateway.refused import AdapterRefused
from tests.fixtures.adapters import write_adapter

LIMIT = 1 << 20


def copy(source: Path, *, root: Path | None = None, max_bytes: int = LIMIT) -> Path:
    """The copy; what it says of the source must agree with what `kubetune digest` says."""
    target = source.parent / "copy"
    root = root or source.parent
    files = copy_folder(source.resolve(), target, root=root, max_bytes=max_bytes)
    assert digest_of(files) == folder_digest(source, within=root)
    return target


def test_copies_what_is_read_and_counts_the_rest(tmp_path: Path):
    """As transformers' Trainer leaves a folder."""
    source = write_adapter(tmp_path / "a")
    before = folder_digest(source)
    (source / "adapter_model.safetensors").chmod(0o600)
    (source / "checkpoint-10").mkdir()
    for name in (
        "training_args.bin",
        "optimizer.pt",
        "README.md",
        "modeling.py",
        "checkpoint-10/rng_state.pth",
    ):
        (source / name).write_bytes(b"\x80\x04.")
    (source / "checkpoint-10" / "adapter_config.json").write_text("{}")
    found = copy(source)
    assert {p.name for p in found.iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}
    assert (found / "adapter_model.safetensors").stat().st_mode & 0o777 == 0o644
    assert folder_digest(source) != before


def test_a_folder_of_the_hubs_cache(tmp_path: Path):
    """Its files are links to blobs beside it."""
    real = write_adapter(tmp_path / "real")
    hub = tmp_path / "models--org--name"
    snapshot = hub / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (hub / "blobs").mkdir()
    for number, file in enumerate(sorted(real.iterdir())):
        file.rename(hub / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    files = copy_folder(snapshot, tmp_path / "copy", root=tmp_path, max_bytes=LIMIT)
    assert digest_of(files) == folder_digest(snapshot, within=tmp_path) == folder_digest(tmp_path / "copy")
    assert not any(p.is_symlink() for p in (tmp_path / "copy").iterdir())
    with pytest.raises(AdapterRefused, match="leads out of its volume") as caught:
        copy_folder(snapshot, tmp_path / "copy2", root=snapshot, max_bytes=LIMIT)
    assert caught.value.reason is AdapterReason.UNSAFE_FILE
    before = fingerprint(snapshot)
    (hub / "blobs" / "0").write_text("{}")
    assert fingerprint(snapshot) != before


def link_file(folder: Path) -> None:
    (folder / "config.json").symlink_to("/etc/hostname")


def link_folder(folder: Path) -> None:
    (folder / "sub").symlink_to("/etc")


def link_to_itself(folder: Path) -> None:
    (folder / "config.json").symlink_to("config.json")


def link_to_nothing(folder: Path) -> None:
    (folder / "config.json").symlink_to("nothing.json")


def link_in_a_circle(folder: Path) -> None:
    (folder / "sub").symlink_to(".")


def link_to_the_process(folder: Path) -> None:
    (folder / "environ.json").symlink_to("/proc/self/environ")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def unix_socket(folder: Path) -> None:
    here = Path.cwd()
    os.chdir(folder)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as s:
        s.bind("s")
    os.chdir(here)


def a_name_of_two_lines(folder: Path) -> None:
    (folder / "x\nabc  3  y").write_text("x")


def a_name_that_is_no_text(folder: Path) -> None:
    (folder / os.fsdecode(b"\xff")).write_text("x")


@pytest.mark.parametrize(
    "harm",
    [
        link_file,
        link_folder,
        link_to_itself,
        link_to_nothing,
        link_in_a_circle,
        link_to_the_process,
        pipe,
        unix_socket,
        a_name_of_two_lines,
        a_name_that_is_no_text,
    ],
)
def test_refuses_what_is_no_plain_file(tmp_path: Path, harm):
    source = write_adapter(tmp_path / "a")
    harm(source)
    with pytest.raises(AdapterRefused) as caught:
        copy_folder(source, tmp_path / "copy", root=tmp_path, max_bytes=LIMIT)
    assert caught.value.reason is AdapterReason.UNSAFE_FILE


def test_refuses_what_is_too_large(tmp_path: Path):
    source = write_adapter(tmp_path / "a")
    with pytest.raises(AdapterRefused) as caught:
        copy_folder(source, tmp_path / "copy", root=tmp_path, max_bytes=100)
    assert caught.value.reason is AdapterReason.TOO_LARGE


def test_what_is_not_read_may_be_large_but_not_without_end(tmp_path: Path):
    source = write_adapter(tmp_path / "a")
    size = sum(f.stat().st_size for f in source.iterdir())
    with (source / "optimizer.pt").open("wb") as file:
        file.truncate(10 * size)
    copy_folder(source, tmp_path / "copy", root=tmp_path, max_bytes=size)
    with (source / "optimizer.pt").open("wb") as file:
        file.truncate(20 * size)
    with pytest.raises(AdapterRefused) as caught:
        copy_folder(source, tmp_path / "copy2", root=tmp_path, max_bytes=size)
    assert caught.value.reason is AdapterReason.TOO_LARGE


def test_a_folder_must_lie_inside_its_volume(tmp_path: Path):
    outside = write_adapter(tmp_path / "outside")
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "a").symlink_to(outside)
    with pytest.raises(AdapterRefused) as caught:
        resolve(str(volume / "a"), str(volume))
    assert caught.value.reason is AdapterReason.UNSAFE_FILE


@pytest.mark.parametrize("target", ["a", "/proc/self/root", "/proc/self/cwd", "..", "../volume/../.."])
def test_a_folder_that_is_an_odd_link(tmp_path: Path, target: str):
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "a").symlink_to(target)
    with pytest.raises(AdapterRefused) as caught:
        resolve(str(volume / "a"), str(volume))
    assert caught.value.reason is AdapterReason.UNSAFE_FILE
    assert fingerprint(volume / "nothing" / "a") is None


def test_a_link_that_stays_inside_its_volume_is_fine(tmp_path: Path):
    inside = write_adapter(tmp_path / "v1")
    (tmp_path / "latest").symlink_to(inside)
    assert resolve(str(tmp_path / "latest"), str(tmp_path)) == inside.resolve()


@pytest.mark.parametrize(
    ("path", "root", "what"), [("a", ".", "not a folder"), ("volume/a", "volume", "not mounted")]
)
def test_missing_folders_are_told_apart(tmp_path: Path, path: str, root: str, what: str):
    with pytest.raises(AdapterRefused, match=what) as caught:
        resolve(str(tmp_path / path), str(tmp_path / root))
    assert caught.value.reason is AdapterReason.NOT_FOUND


def test_a_fingerprint_tells_changed_files(tmp_path: Path):
    source = write_adapter(tmp_path / "a")
    before = fingerprint(source)
    assert before == fingerprint(source)
    (source / "adapter_config.json").write_text("{}")
    assert before != fingerprint(source)
    assert fingerprint(tmp_path / "nothing") is None
