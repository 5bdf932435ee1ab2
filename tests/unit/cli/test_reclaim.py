"""`kubetune reclaim` removes one folder of a volume and nothing else."""

from pathlib import Path

import pytest

from kubetune.cli.reclaim import main


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    root = tmp_path / "volume"
    for name in ("job/checkpoints/step-1", "other"):
        (root / name).mkdir(parents=True)
        (root / name / "weights").write_text("x")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("x")
    return root


def test_the_folder_goes_and_its_neighbours_stay(volume: Path):
    assert main(["--root", str(volume), str(volume / "job")]) == 0
    assert [path.name for path in volume.iterdir()] == ["other"]
    # A second pod finds it gone.
    assert main(["--root", str(volume), str(volume / "job")]) == 0


@pytest.mark.parametrize("path", [".", "job/..", "../outside", "job/../../outside", "link/outside"])
def test_nothing_outside_is_touched(volume: Path, path: str, capsys: pytest.CaptureFixture[str]):
    (volume / "link").symlink_to(volume.parent)
    assert main(["--root", str(volume), str(volume / path)]) == 2
    assert "nothing was removed" in capsys.readouterr().err
    assert (volume.parent / "outside/secret").exists()
    assert (volume / "other/weights").exists()


def test_links_are_removed_and_not_followed(volume: Path):
    (volume / "job/link").symlink_to(volume.parent / "outside")
    (volume / "whole").symlink_to(volume.parent / "outside")
    assert main(["--root", str(volume), str(volume / "job")]) == 0
    assert main(["--root", str(volume), str(volume / "whole")]) == 0
    assert (volume.parent / "outside/secret").exists()
    assert not (volume / "whole").is_symlink()


def test_what_cannot_be_removed_is_named(capsys: pytest.CaptureFixture[str]):
    # No file of /proc can be removed, not even by root.
    assert main(["--root", "/proc", "/proc/sys/kernel"]) == 1
    assert "/proc/sys" in capsys.readouterr().err
