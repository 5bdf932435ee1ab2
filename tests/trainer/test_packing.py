"""Documents share rows where the architecture keeps them apart, and have their own where it does not."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from kubetune.api.exitcodes import Reason
from kubetune_trainer import packing
from tests.fixtures.families import tiny
from tests.fixtures.runs import finetune_spec, pretrain_spec, source
from tests.trainer.conftest import Run

FEW = {"max_steps": 3}


def opt(corpus: Path, out: Path, **changes):
    return pretrain_spec(out, source(corpus / "web.jsonl"), config=tiny("opt"), **{"training": FEW} | changes)


def test_an_architecture_that_cannot_pack_is_trained_unpacked_in_every_stage(
    run: Run, corpus: Path, tmp_path: Path
):
    ended = run(opt(corpus, tmp_path / "base"))
    assert ended.code == 0, ended.out
    assert (ended.message.plan.packing, ended.message.plan.attention) == (False, "sdpa")
    [warning] = [w for w in ended.message.trainer_status.warnings if w.reason == "NotPacked"]
    assert "would see each other in a opt model" in warning.message
    base = tmp_path / "base/artifact"
    stages = {
        "sft": source(corpus / "pairs.jsonl", "alpaca"),
        "domain": source(corpus / "web.jsonl"),
        "dpo": source(corpus / "preferences.jsonl", "preference"),
    }
    for stage, data in stages.items():
        more = {"packing": False} if stage == "dpo" else {}
        spec = finetune_spec(tmp_path / stage, base, data, stage=stage, training=FEW, **more)
        ended = run(spec)
        assert ended.code == 0, ended.out
        assert ended.message.plan.packing is False
        told = {w.reason for w in ended.message.trainer_status.warnings or []}
        assert ("NotPacked" in told) == (stage != "dpo")


def test_packing_that_is_asked_for_is_refused_where_it_cannot_be(run: Run, corpus: Path, tmp_path: Path):
    ended = run(opt(corpus, tmp_path / "base", packing=True))
    assert ended.message.reason == Reason.INVALID_SPEC, ended.out
    assert "would see each other in a opt model: set data.packing to false" in ended.message.message


def test_what_is_meant_is_not_warned_of_and_gives_the_same(run: Run, corpus: Path, tmp_path: Path):
    weights = []
    for packed in (None, False):
        ended = run(opt(corpus, tmp_path / str(packed), packing=packed))
        assert ended.code == 0, ended.out
        assert ("NotPacked" in ended.out) == (packed is None)
        weights.append(load_file(tmp_path / f"{packed}/artifact/model.safetensors"))
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_max_tokens_counts_the_tokens_that_are_there(run: Run, corpus: Path, tmp_path: Path):
    training = {"max_steps": None, "max_tokens": 2000, "global_batch_size": 4, "warmup_steps": 0}
    ended = run(opt(corpus, tmp_path / "out", training=training, length=64))
    assert ended.code == 0, ended.out
    seen = ended.out.split("tokens=")[-1]
    assert ended.message.plan.total_steps > 2000 / (4 * 64), f"rows are not full: {seen}"


@pytest.mark.parametrize("kept", [True, False])
def test_a_later_attempt_keeps_what_an_earlier_one_decided(
    run: Run, corpus: Path, tmp_path: Path, kept: bool
):
    spec = pretrain_spec(tmp_path / "out", source(corpus / "web.jsonl"), training=FEW)
    packing.save(tmp_path / "out/checkpoints", spec, kept)
    ended = run(spec)
    assert ended.code == 0, ended.out
    assert ended.message.plan.packing is kept
