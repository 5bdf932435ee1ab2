"""No engine starts on a base that is not the one meant, or that generates no text.

The hub's cache is a folder like any other.
"""

import json
from pathlib import Path

import pytest

from kubetune.api.table import ANY_DIGEST, BaseFault
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


def judge(base: Path, digest: str, volume: Path, *flags: str) -> int:
    return check_base.main([str(base), digest, str(volume), *flags])


def test_the_base_that_is_meant(base: Path):
    assert judge(base, folder_digest(base, within=base.parent), base.parent) == 0


@pytest.mark.parametrize(
    ("volume", "code", "told"),
    [
        ("volume", BaseFault.DIGEST_MISMATCH, "not sha256:0000"),
        ("volume/base", 1, "is a link that may not be followed"),
    ],
)
def test_another_base_or_a_link_out_of_the_volume(
    base: Path, tmp_path: Path, volume: str, code: int, told: str, capsys
):
    assert judge(base, "sha256:" + "0" * 64, tmp_path / volume) == code
    assert told in capsys.readouterr().err


def test_no_base(tmp_path: Path, capsys):
    assert judge(tmp_path / "base", "sha256:" + "0" * 64, tmp_path) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_of_a_base_without_a_digest_it_is_judged_what_it_is(base: Path):
    assert judge(base, ANY_DIGEST, base.parent) == 0
    (base / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    assert judge(base, ANY_DIGEST, base.parent) == 0


@pytest.mark.parametrize(
    ("architecture", "what"),
    [
        ("LlamaForSequenceClassification", "a classifier"),
        ("Qwen3ForTokenClassification", "a classifier"),
        ("InternLM2ForRewardModel", "a reward model"),
        ("BertForMaskedLM", "a masked language model"),
        ("Qwen2Model", "an encoder"),
    ],
)
def test_a_model_that_generates_no_text(base: Path, capsys, architecture: str, what: str):
    (base / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    assert judge(base, ANY_DIGEST, base.parent) == BaseFault.NOT_A_LANGUAGE_MODEL
    assert f"is {what} ({architecture}), which generates no text" in capsys.readouterr().err
    assert judge(base, ANY_DIGEST, base.parent, "--any-model") == 0


@pytest.mark.parametrize("config", ["[]", "{", '{"architectures": null}', '{"architectures": [1]}', "{}"])
def test_of_a_config_that_tells_nothing_the_engine_judges(base: Path, config: str):
    (base / "config.json").write_text(config)
    assert judge(base, ANY_DIGEST, base.parent) == 0


def test_an_adapter_is_no_base(base: Path, capsys):
    (base / "adapter_config.json").write_text("{}")
    assert judge(base, ANY_DIGEST, base.parent) == BaseFault.NOT_FULL_WEIGHTS
    assert "name the model that it was trained on as baseModel" in capsys.readouterr().err
