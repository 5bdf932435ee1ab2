"""No engine starts on a base that is not the one meant; the hub's cache is a folder like any other."""

from pathlib import Path

import pytest

from kubetune.artifacts.digest import folder_digest
from kubetune.gateway import check_base
from tests.fixtures.adapters import write_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Its weights are a link to a blob of the same volume."""
    folder = write_base(tmp_path / "volume" / "base")
    (tmp_path / "volume" / "blob").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../blob")
    return folder


def judge(base: Path, digest: str, volume: Path) -> int:
    return check_base.main([str(base), digest, str(volume)])


def test_the_base_that_is_meant(base: Path):
    assert judge(base, folder_digest(base, within=base.parent), base.parent) == 0


@pytest.mark.parametrize(
    ("volume", "told"), [("volume", "not sha256:0000"), ("volume/base", "is a link that may not be followed")]
)
def test_another_base_or_a_link_out_of_the_volume(base: Path, tmp_path: Path, volume: str, told: str, capsys):
    assert judge(base, "sha256:" + "0" * 64, tmp_path / volume) == 1
    assert told in capsys.readouterr().err


def test_no_base(tmp_path: Path, capsys):
    assert judge(tmp_path / "base", "sha256:" + "0" * 64, tmp_path) == 1
    assert "cannot be read" in capsys.readouterr().err
