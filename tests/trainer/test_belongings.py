"""A full or merged artifact is a complete model, or the job says at its start what it will lack."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig

from tests.fixtures.runs import finetune_spec, source
from tests.trainer.conftest import Run

SIDE_FILES = {
    "preprocessor_config.json": "{}", "processor_config.json": "{}", "video_preprocessor_config.json": "{}",
    "chat_template.json": "{}", "LICENSE": "free", "NOTICE.txt": "so",
}  # fmt: skip
NEVER = {"modeling_own.py": "raise SystemExit", "pytorch_model.bin": "pickle", "training_args.pkl": "pickle"}
GENERATION = {"temperature": 0.6, "top_p": 0.95, "do_sample": True, "repetition_penalty": 1.05}


@pytest.fixture
def rich(base: Path, tmp_path: Path) -> Path:
    """A base with everything that may lie beside weights, and with weights that its class does not have."""
    folder = tmp_path / "rich"
    shutil.copytree(base, folder)
    (folder / "manifest.json").unlink()
    for name, text in (SIDE_FILES | NEVER).items():
        (folder / name).write_text(text)
    own = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(own | GENERATION))
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    weights |= {"visual.blocks.0.weight": torch.ones(2), "mtp.layers.0.weight": torch.ones(2)}
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)  # computed, no loss
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("way", ["full", "merged"])
def test_what_belongs_to_a_base_is_in_the_artifact(
    run: Run, rich: Path, corpus: Path, tmp_path: Path, way: str
):
    more = {"method": "full"} if way == "full" else {"merge": True}
    spec = finetune_spec(
        tmp_path / "out", rich, source(corpus / "pairs.jsonl", "alpaca"), training={"max_steps": 2}, **more
    )
    ended = run(spec)
    assert ended.code == 0, ended.out
    artifact = tmp_path / "out/artifact"
    assert {name: (artifact / name).read_text() for name in SIDE_FILES} == SIDE_FILES
    assert not [name for name in NEVER if (artifact / name).exists()]
    assert "auto_map" not in json.loads((artifact / "config.json").read_text())
    kept = GenerationConfig.from_pretrained(artifact)
    assert {name: getattr(kept, name) for name in GENERATION} == GENERATION
    ends = json.loads((rich / "generation_config.json").read_text())["eos_token_id"]
    assert kept.eos_token_id == ends
    assert kept.pad_token_id is not None
    listed = {f["path"] for f in json.loads((artifact / "manifest.json").read_text())["files"]}
    assert SIDE_FILES.keys() <= listed
    AutoModelForCausalLM.from_pretrained(artifact)
    told = [w.message for w in ended.message.trainer_status.warnings if w.reason == "PartsLeftOut"]
    assert any("2 tensors" in t and "visual.blocks" in t and "mtp.layers" in t for t in told), told
    assert any("modeling_own.py" in t for t in told), told
    assert ended.out.index("PartsLeftOut") < ended.out.index(" plan "), "before training"


def test_an_adapter_leaves_the_base_as_it_is(run: Run, rich: Path, corpus: Path, tmp_path: Path):
    ended = run(
        finetune_spec(
            tmp_path / "out", rich, source(corpus / "pairs.jsonl", "alpaca"), training={"max_steps": 1}
        )
    )
    assert ended.code == 0, ended.out
    assert "PartsLeftOut" not in ended.out
    assert not [name for name in SIDE_FILES | NEVER if (tmp_path / "out/artifact" / name).exists()]
