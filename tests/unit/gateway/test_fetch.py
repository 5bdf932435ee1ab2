"""What is copied from a shared volume, and what never is."""

import os
import socket
from pathlib import Path

import pytest

from kubetune.gateway.fetch import copy_folder, fingerprint, resolve
from kubetune.gateway.refused import Reason, Refused
from tests.fixtures.adapters import write_adapter

LIMIT = 1 << 20


def test_copies_plain_files_and_folders(tmp_path: Path):
    source = write_adapter(tmp_path / "a")
    (source / "sub").mkdir()
    (source / "sub" / "notes.md").write_text("hello")
    (source / "adapter_model.safetensors").chmod(0o600)
    copy_folder(source, tmp_path / "copy", max_bytes=LIMIT)
    assert (tmp_path / "copy" / "sub" / "notes.md").read_text() == "hello"
    assert (tmp_path / "copy" / "adapter_model.safetensors").stat().st_mode & 0o777 == 0o644


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


def pickle(folder: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")


def deep_pickle_in_capitals(folder: Path) -> None:
    (folder / "x" / "y").mkdir(parents=True)
    (folder / "x" / "y" / "OPTIMIZER.PT").write_bytes(b"\x80\x04.")


def code(folder: Path) -> None:
    (folder / "modeling.py").write_text("import os")


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
        pickle,
        deep_pickle_in_capitals,
        code,
    ],
)
def test_refuses_what_is_no_plain_file(tmp_path: Path, harm):
    source = write_adapter(tmp_path / "a")
    harm(source)
    with pytest.raises(Refused) as caught:
        copy_folder(source, tmp_path / "copy", max_bytes=LIMIT)
    assert caught.value.reason is Reason.UNSAFE_FILE


def test_refuses_what_is_too_large(tmp_path: Path):
    source = write_adapter(tmp_path / "a")
    with pytest.raises(Refused) as caught:
        copy_folder(source, tmp_path / "copy", max_bytes=100)
    assert caught.value.reason is Reason.TOO_LARGE


def test_a_folder_must_lie_inside_its_volume(tmp_path: Path):
    outside = write_adapter(tmp_path / "outside")
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "a").symlink_to(outside)
    with pytest.raises(Refused) as caught:
        resolve(str(volume / "a"), str(volume))
    assert caught.value.reason is Reason.UNSAFE_FILE


@pytest.mark.parametrize("target", ["a", "/proc/self/root", "/proc/self/cwd", "..", "../volume/../.."])
def test_a_folder_that_is_an_odd_link(tmp_path: Path, target: str):
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "a").symlink_to(target)
    with pytest.raises(Refused) as caught:
        resolve(str(volume / "a"), str(volume))
    assert caught.value.reason is Reason.UNSAFE_FILE
    assert fingerprint(volume / "nothing" / "a") is None


def test_a_link_that_stays_inside_its_volume_is_fine(tmp_path: Path):
    inside = write_adapter(tmp_path / "v1")
    (tmp_path / "latest").symlink_to(inside)
    assert resolve(str(tmp_path / "latest"), str(tmp_path)) == inside.resolve()


@pytest.mark.parametrize(
    ("path", "root", "what"), [("a", ".", "not a folder"), ("volume/a", "volume", "not mounted")]
)
def test_missing_folders_are_told_apart(tmp_path: Path, path: str, root: str, what: str):
    with pytest.raises(Refused, match=what) as caught:
        resolve(str(tmp_path / path), str(tmp_path / root))
    assert caught.value.reason is Reason.NOT_FOUND


def test_a_fingerprint_tells_changed_files(tmp_path: Path):
    source = write_adapter(tmp_path / "a")
    before = fingerprint(source)
    assert before == fingerprint(source)
    (source / "adapter_config.json").write_text("{}")
    assert before != fingerprint(source)
    assert fingerprint(tmp_path / "nothing") is None
