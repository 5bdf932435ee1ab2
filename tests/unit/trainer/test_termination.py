import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetune.api.exitcodes import Reason
from kubetune.api.progress import (
    ArtifactStatus,
    EvaluationStatus,
    Measurement,
    NamedValue,
    Sample,
    TerminationMessage,
    TrainerStatus,
)
from kubetune.api.warnings import RunWarning
from kubetune_trainer import termination


def message(samples: list[Sample], text: str = "") -> TerminationMessage:
    return TerminationMessage(
        reason=Reason.SUCCEEDED,
        message=text,
        trainer_status=TrainerStatus(
            metrics=[NamedValue(name=f"metric{i}", value="1.2345") for i in range(12)]
        ),
        evaluation=EvaluationStatus(tuned=[Measurement(name="loss", value="1")], samples=samples),
        artifact=ArtifactStatus(
            uri="pvc://" + "x" * 200, digest="sha256:" + "0" * 64, size_bytes=1, format="full"
        ),
    )


@given(
    st.lists(
        st.builds(Sample, prompt=st.text(max_size=1024), before=st.text(max_size=3000), after=st.text()),
        max_size=8,
    ),
    st.text(max_size=9000),
)
def test_it_always_fits_and_always_is_valid(samples: list[Sample], text: str):
    encoded = termination.fitted(message(samples, text))
    assert len(encoded) <= 4096
    read = TerminationMessage.model_validate_json(encoded)
    assert read.reason is Reason.SUCCEEDED


@given(st.integers(0, 400))
def test_the_artifact_is_never_what_is_left_out(count: int):
    many = [Measurement(name=f"task_{i}/{'m' * (i % 200)}", value="0.123456") for i in range(count)]
    full = message([], "x" * 5000)
    status = TrainerStatus(warnings=[RunWarning(reason="Reason", message="🙂" * 1024)] * 16)
    full = full.model_copy(
        update={"evaluation": EvaluationStatus(baseline=many, tuned=many), "trainer_status": status}
    )
    read = TerminationMessage.model_validate_json(termination.fitted(full))
    assert read.artifact == full.artifact
    assert read.evaluation
    assert read.evaluation.tuned[:4] == many[:4]
    assert read.trainer_status
    assert read.trainer_status.warnings


def test_what_fits_is_left_alone():
    samples = [Sample(prompt="p", before="b", after="a" * 1000)]
    assert TerminationMessage.model_validate_json(termination.fitted(message(samples))) == message(samples)


def test_eight_long_samples_are_all_kept_short():
    samples = [Sample(prompt=f"{i} " + "p" * 1000, before="b" * 4000, after="🙂" * 4000) for i in range(8)]
    read = TerminationMessage.model_validate_json(termination.fitted(message(samples)))
    assert read.evaluation is not None
    assert [s.prompt[0] for s in read.evaluation.samples] == list("01234567")
    assert all(s.after.endswith("…") and s.after.startswith("🙂") for s in read.evaluation.samples)
    assert read.artifact == message([]).artifact


def test_many_samples_never_cost_the_rest():
    read = TerminationMessage.model_validate_json(termination.fitted(message([], "x" * 9000)))
    assert read.message.startswith("xxx")
    assert read.artifact == message([]).artifact


def test_where_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv(termination.PATH_VARIABLE, str(tmp_path / "log"))
    termination.write(message([]))
    assert json.loads((tmp_path / "log").read_text())["reason"] == "Succeeded"
    monkeypatch.setenv(termination.PATH_VARIABLE, str(tmp_path / "none/log"))
    termination.write(message([]))
    assert "was not written" in capsys.readouterr().out
