"""From a job to its run spec."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from kubetune.api.data import Evaluation, FineTuneSource, MixtureSource
from kubetune.api.finetunejob import FineTuneJobSpec, Lora
from kubetune.api.pretrainjob import PretrainJobSpec
from kubetune.api.runspec import (
    JobIdentity,
    RunData,
    RunModel,
    RunOutput,
    RunSource,
    RunSpec,
)
from kubetune.desired.volumes import locate

JobSpec = PretrainJobSpec | FineTuneJobSpec
S = TypeVar("S", MixtureSource, FineTuneSource)


def parse_spec(resource: Mapping[str, Any]) -> JobSpec:
    """The typed spec of a job.

    Raises:
        pydantic.ValidationError: it is not what the CRD would accept.
    """
    if resource["kind"] == "PretrainJob":
        return PretrainJobSpec.model_validate(resource["spec"])
    return FineTuneJobSpec.model_validate(resource["spec"])


def run_spec(resource: Mapping[str, Any], spec: JobSpec, base: RunModel | None) -> RunSpec:
    """The run spec of a job.

    Args:
        resource: the job.
        spec: its spec.
        base: the resolved base model of a FineTuneJob.
    """
    if isinstance(spec, PretrainJobSpec):
        return RunSpec(
            job=identity(resource),
            stage="pretrain",
            method="full",
            model=RunModel(config=spec.model.config),
            tokenizer=spec.tokenizer.train,
            data=RunData(
                sources=[
                    source(s.name, s.uri, "text", weight=s.weight, text_field=s.text_field)
                    for s in _by_name(spec.data.mixture)
                ],
                sequence_length=spec.data.sequence_length,
                validation_fraction=spec.data.validation.fraction,
            ),
            evaluation=Evaluation(),
            pretrain=spec.training,
            checkpoint=spec.checkpoint,
            output=output(resource, spec.output.storage_uri),
        )
    if base is None:
        raise ValueError("a FineTuneJob needs a resolved base model")
    measured = spec.evaluation.data
    return RunSpec(
        job=identity(resource),
        stage=spec.stage,
        method=spec.method,
        lora=(spec.lora or Lora()) if spec.method == "lora" else None,
        model=base,
        data=RunData(
            sources=[source(s.name, s.uri, s.format, weight=s.weight) for s in _by_name(spec.data.sources)],
            sequence_length=spec.data.sequence_length,
            packing=spec.data.packing,
            prompt_loss=spec.data.prompt_loss,
            validation_fraction=spec.data.validation.fraction,
        ),
        evaluation=spec.evaluation,
        evaluation_source=source("evaluation", measured.uri, measured.format) if measured else None,
        finetune=spec.training,
        checkpoint=spec.checkpoint,
        output=output(resource, spec.output.storage_uri),
    )


def _by_name(sources: Sequence[S]) -> list[S]:
    """In an order of our own: a job's sources may be reordered, and that does not make another run of it."""
    return sorted(sources, key=lambda s: s.name)


def identity(resource: Mapping[str, Any]) -> JobIdentity:
    """Which job it is."""
    meta = resource["metadata"]
    return JobIdentity(kind=resource["kind"], namespace=meta["namespace"], name=meta["name"], uid=meta["uid"])


def output(resource: Mapping[str, Any], storage_uri: str) -> RunOutput:
    """The folder of this run; by the UID in it, a later job of the same name never finds these files."""
    meta = resource["metadata"]
    uri = f"{storage_uri.rstrip('/')}/{meta['name']}-{meta['uid'][:8]}"
    return RunOutput(uri=uri, path=locate(uri).mounted)


def source(name: str, uri: str, format: Any, *, weight: float = 1.0, text_field: str = "text") -> RunSource:
    """A part of the data, as it lies in the pod."""
    location = locate(uri)
    return RunSource(
        name=name,
        uri=uri,
        path=location.mounted,
        root=location.root,
        format=format,
        weight=weight,
        text_field=text_field,
    )


def base_model(uri: str, digest: str | None) -> RunModel:
    """A base that lies in a folder."""
    location = locate(uri)
    return RunModel(uri=uri, path=location.mounted, root=location.root, digest=digest)


def uris(spec: RunSpec) -> list[str]:
    """Every URI that a run touches."""
    found = [spec.output.uri, *(s.uri for s in spec.data.sources)]
    if spec.model.uri:
        found.append(spec.model.uri)
    if spec.evaluation_source:
        found.append(spec.evaluation_source.uri)
    return found
