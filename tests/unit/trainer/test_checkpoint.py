import json
import shutil
from pathlib import Path

import pytest
import torch

from kubetune.api.training import PretrainTraining
from kubetune_trainer import optimizer as optimizers
from kubetune_trainer.checkpoint import Checkpoints, State
from kubetune_trainer.errors import StorageError
from tests.fixtures.runs import pretrain_spec, source

SHAPES = {"a.weight": (4, 3), "a.bias": (4,)}


def made(seed: int = 0, names=SHAPES):
    torch.manual_seed(seed)
    parameters = [(n, torch.nn.Parameter(torch.randn(SHAPES.get(n, (2, 2))))) for n in names]
    settings = PretrainTraining(max_steps=1, learning_rate=1e-2, weight_decay=0.1)
    return parameters, optimizers.adamw(parameters, settings, (0.9, 0.95))


def step(parameters, optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _, p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()


@pytest.fixture
def spec(tmp_path: Path):
    return pretrain_spec(tmp_path / "out", source(tmp_path / "x.jsonl"))


def checkpoints(spec) -> Checkpoints:
    return Checkpoints(Path(spec.output.path) / "checkpoints", "pvc://out/checkpoints", spec)


def save(spec, *steps: int) -> Path:
    parameters, optimizer = made()
    kept = checkpoints(spec)
    for n in steps:
        step(parameters, optimizer, n)
        kept.save(
            State(step=n, tokens=10 * n, stream={"windows": [n]}, curve=[(n, 1.5)]), parameters, optimizer
        )
    return Path(spec.output.path) / "checkpoints"


def test_a_restored_optimizer_goes_on_bit_for_bit(spec):
    folder = save(spec, 1, 2)
    parameters, optimizer = made()
    for n in (1, 2, 3):
        step(parameters, optimizer, n)
    restored, fresh = made(seed=9)
    state = checkpoints(spec).load(restored, fresh)
    assert state == State(step=2, tokens=20, stream={"windows": [2]}, curve=[[2, 1.5]])
    step(restored, fresh, 3)
    for (_, p), (_, q) in zip(parameters, restored, strict=True):
        assert torch.equal(p, q)
    assert {p.name for p in (folder / "step-2").iterdir()} == {
        "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json",
    }  # fmt: skip


def test_only_the_last_are_kept(spec):
    folder = save(spec, 1, 2, 3, 10)
    assert {p.name for p in folder.iterdir()} == {"step-3", "step-10"}


def test_status_names_the_newest(spec):
    save(spec, 3)
    kept = checkpoints(spec)
    kept.load(*made())
    assert kept.newest is not None
    assert (kept.newest.step, kept.newest.uri) == (3, "pvc://out/checkpoints/step-3")
    assert kept.newest.digest.startswith("sha256:")


def damage_manifest(folder: Path, **changes) -> None:
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    (folder / "manifest.json").write_text(json.dumps(manifest))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


JOB = {"kind": "PretrainJob", "namespace": "test", "name": "out", "uid": "another"}


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda f: truncate(f / "model.safetensors"), "incomplete or damaged"),
        (lambda f: truncate(f / "state.json"), "incomplete or damaged"),
        (lambda f: (f / "optimizer.safetensors").unlink(), "incomplete or damaged"),
        (lambda f: (f / "extra").write_text("x"), "incomplete or damaged"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda f: truncate(f / "manifest.json"), "malformed"),
        (lambda f: damage_manifest(f, job=JOB), "another job"),
        (lambda f: damage_manifest(f, runSpecDigest="sha256:0"), "another run spec"),
        (lambda f: [p.unlink() for p in f.iterdir()], "manifest.json is missing"),
    ],
)
def test_the_newest_valid_one_is_used(spec, capsys, damage, why: str):
    folder = save(spec, 1, 2)
    damage(folder / "step-2")
    state = checkpoints(spec).load(*made(seed=9))
    assert state is not None
    assert state.step == 1
    out = capsys.readouterr().out
    assert "skipped=step-2" in out
    assert why in out
    assert (folder / "step-2").exists(), "nothing is deleted that somebody may want to look at"


def test_no_valid_one(spec, capsys):
    assert checkpoints(spec).load(*made()) is None
    folder = save(spec, 1)
    (folder / "step-1/model.safetensors").unlink()
    assert checkpoints(spec).load(*made()) is None


def test_other_parameters_are_not_loaded(spec, capsys):
    save(spec, 1)
    assert checkpoints(spec).load(*made(names=["a.weight", "b"])) is None
    assert "parameters differ" in capsys.readouterr().out


def test_a_damaged_one_of_the_same_step_is_replaced_and_leftovers_go(spec):
    folder = save(spec, 1, 2)
    truncate(folder / "step-2/state.json")
    (folder / ".step-3.tmp").mkdir()
    kept = checkpoints(spec)
    kept.clean()
    save(spec, 2)
    assert {p.name for p in folder.iterdir()} == {"step-1", "step-2"}
    state = kept.load(*made())
    assert state is not None
    assert state.step == 2


def test_an_output_that_cannot_be_written(spec):
    folder = save(spec, 1)
    shutil.rmtree(folder)
    folder.write_text("a file stands where the folder should be")
    with pytest.raises(StorageError, match="check free space and permissions"):
        save(spec, 2)
