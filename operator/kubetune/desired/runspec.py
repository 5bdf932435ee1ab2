"""From a job to its run spec."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from kubetune.api.data import Evaluation, EvaluationData, FineTuneSource, MixtureSource
from kubetune.api.finetunejob import (
    LORA_METHODS,
    Classification,
    Dpo,
    FineTuneJobSpec,
    Lora,
    PromptTuning,
    Quantization,
)
from kubetune.api.lmeval import LmEval, Tasks
from kubetune.api.pretrainjob import Mlm, PretrainJobSpec, Tokenizer
from kubetune.api.reinforcement import Grpo, Ppo, RolloutSettings
from kubetune.api.runspec import (
    CACHE_ROOT,
    SECRET_ROOT,
    JobIdentity,
    RunAdapter,
    RunCache,
    RunData,
    RunLmEval,
    RunModel,
    RunOutput,
    RunReward,
    RunSecret,
    RunSource,
    RunSpec,
)
from kubetune.api.source import SecretRef
from kubetune.api.stages import REWARDED, UNPACKED
from kubetune.api.training import Compute
from kubetune.api.uris import inner_path, is_remote
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


def run_spec(
    resource: Mapping[str, Any],
    spec: JobSpec,
    base: RunModel | None,
    adapter: RunAdapter | None = None,
    reward: RunAdapter | None = None,
) -> RunSpec:
    """The run spec of a job.

    Args:
        resource: the job.
        spec: its spec.
        base: the resolved model that it starts from, if it does.
        adapter: the resolved adapter that it starts from, if it does.
        reward: the resolved model that rewards its answers, if one does.
    """
    if isinstance(spec, PretrainJobSpec):
        masked = spec.objective == "mlm"
        model = RunModel(config=spec.model.config) if spec.model.from_ is None else base or RunModel()
        return RunSpec(
            job=identity(resource),
            stage="mlm" if masked else "pretrain",
            mlm=(spec.mlm or Mlm()) if masked else None,
            method="full",
            model=model,
            tokenizer=None if spec.model.from_ else (spec.tokenizer or Tokenizer()).train,
            data=RunData(
                sources=[
                    source(s.name, s.uri, "text", s.secret_ref, weight=s.weight, text_field=s.text_field)
                    for s in _by_name(spec.data.mixture)
                ],
                sequence_length=spec.data.sequence_length,
                packing=False if masked else spec.data.packing,
                validation_fraction=spec.data.validation.fraction,
            ),
            evaluation=Evaluation(),
            pretrain=spec.training,
            checkpoint=spec.checkpoint,
            cache=cache(spec.compute, [model.uri or "", *(s.uri for s in spec.data.mixture)]),
            output=output(resource, spec.output.storage_uri),
        )
    if base is None:
        raise ValueError("a FineTuneJob needs a resolved base model")
    measured = spec.evaluation.data
    classifies = spec.stage == "classification"
    tunes_prompt = spec.method == "prompt-tuning" and spec.adapter is None
    read = [base.uri or "", *(s.uri for s in spec.data.sources), *([measured.uri] if measured else [])]
    read += [folder.uri for folder in (adapter, reward) if folder]
    tasks = spec.evaluation.lm_eval
    return RunSpec(
        job=identity(resource),
        stage=spec.stage,
        method=spec.method,
        lora=(spec.lora or Lora()) if spec.method in LORA_METHODS and spec.adapter is None else None,
        merge=True if spec.output.merge else None,
        adapter=adapter,
        quantization=(spec.quantization or Quantization()) if spec.method == "qlora" else None,
        prompt_tuning=(spec.prompt_tuning or PromptTuning()) if tunes_prompt else None,
        dpo=(spec.dpo or Dpo()) if spec.stage == "dpo" else None,
        reward=RunReward(model=reward, functions=spec.reward.functions) if spec.reward else None,
        rollout=(spec.rollout or RolloutSettings()) if spec.stage in REWARDED else None,
        ppo=(spec.ppo or Ppo()) if spec.stage == "ppo" else None,
        grpo=(spec.grpo or Grpo()) if spec.stage == "grpo" else None,
        classification=(spec.classification or Classification()) if classifies else None,
        model=base,
        data=RunData(
            sources=[
                source(s.name, s.uri, s.format, s.secret_ref, weight=s.weight, fields=s.fields)
                for s in _by_name(spec.data.sources)
            ],
            sequence_length=spec.data.sequence_length,
            packing=False if spec.stage in UNPACKED else spec.data.packing,
            prompt_loss=spec.data.prompt_loss,
            enable_thinking=spec.data.enable_thinking,
            labels=spec.data.labels,
            validation_fraction=spec.data.validation.fraction,
        ),
        evaluation=spec.evaluation.model_copy(update={"lm_eval": None}),
        evaluation_source=evaluation_source(measured) if measured else None,
        lm_eval=_lm_eval(tasks) if tasks else None,
        finetune=spec.training,
        checkpoint=spec.checkpoint,
        cache=cache(spec.compute, [*read, *(["hf://"] if tasks else [])]),
        output=output(resource, spec.output.storage_uri),
    )


def _by_name(sources: Sequence[S]) -> list[S]:
    """Sorted: a job whose sources are written in another order is the same run."""
    return sorted(sources, key=lambda s: s.name)


def identity(resource: Mapping[str, Any]) -> JobIdentity:
    """Which job it is."""
    meta = resource["metadata"]
    return JobIdentity(kind=resource["kind"], namespace=meta["namespace"], name=meta["name"], uid=meta["uid"])


def output(resource: Mapping[str, Any], storage_uri: str) -> RunOutput:
    """The folder of this run. The UID in its name keeps a later job of the same name from these files."""
    meta = resource["metadata"]
    uri = f"{storage_uri.rstrip('/')}/{meta['name']}-{meta['uid'][:8]}"
    return RunOutput(uri=uri, path=locate(uri).mounted)


def source(
    name: str,
    uri: str,
    format: Any,
    secret_ref: SecretRef | None = None,
    *,
    weight: float = 1.0,
    text_field: str = "text",
    fields: Mapping[str, str] | None = None,
    place: str = "data",
) -> RunSource:
    """A part of the data, as it lies in the pod.

    Args:
        name: in reports.
        uri: as in the job.
        format: shape of a record.
        secret_ref: credentials of a remote source.
        weight: as in the job.
        text_field: as in the job.
        fields: as in the job; that of format text is the text field.
        place: folder for the links of remote sources.
    """
    path, root = _in_pod(uri, f"{place}/{name}")
    renamed = dict(fields or {})
    if format == "text":
        text_field = renamed.pop("text", text_field)
    return RunSource(
        name=name,
        uri=uri,
        path=path,
        root=root,
        secret=_secret(secret_ref),
        format=format,
        weight=weight,
        text_field=text_field,
        fields=renamed or None,
    )


def evaluation_source(measured: EvaluationData) -> RunSource:
    """The evaluation's own data, apart from the others: one of them may have the same name."""
    return source(
        "evaluation", measured.uri, measured.format, measured.secret_ref, place="held-out",
        fields=measured.fields,
    )  # fmt: skip


def base_model(uri: str, digest: str | None, secret_ref: SecretRef | None = None) -> RunModel:
    """A base that lies in a folder."""
    path, root = _in_pod(uri, "model")
    return RunModel(uri=uri, path=path, root=root, secret=_secret(secret_ref), digest=digest)


def former_adapter(uri: str, digest: str | None, secret_ref: SecretRef | None = None) -> RunAdapter:
    """An adapter that lies in a folder."""
    return _folder("adapter", uri, digest, secret_ref)


def reward_model(uri: str, digest: str | None, secret_ref: SecretRef | None = None) -> RunAdapter:
    """A reward model that lies in a folder."""
    return _folder("reward", uri, digest, secret_ref)


def _folder(link: str, uri: str, digest: str | None, secret_ref: SecretRef | None) -> RunAdapter:
    path, root = _in_pod(uri, link)
    return RunAdapter(uri=uri, path=path, root=root, secret=_secret(secret_ref), digest=digest)


def cache(compute: Compute, read: Sequence[str]) -> RunCache | None:
    """Where the remote ones of some URIs are downloaded to."""
    if not any(is_remote(uri) for uri in read):
        return None
    if compute.cache is None:
        return RunCache(path=f"{CACHE_ROOT}/downloads")
    return RunCache(uri=compute.cache.uri, path=locate(compute.cache.uri).mounted)


def _in_pod(uri: str, link: str) -> tuple[str, str]:
    """Path and root of what a URI means."""
    if not is_remote(uri):
        location = locate(uri)
        return location.mounted, location.root
    root = f"{CACHE_ROOT}/{link}"
    return f"{root}/{inner_path(uri)}".rstrip("/"), root


def _secret(ref: SecretRef | None) -> RunSecret | None:
    return RunSecret(name=ref.name, path=f"{SECRET_ROOT}/{ref.name}") if ref else None


def _folders(spec: RunSpec) -> list[RunModel | RunAdapter]:
    """The folders with weights that a run starts from."""
    reward = spec.reward.model if spec.reward else None
    return [spec.model, *(folder for folder in (spec.adapter, reward) if folder)]


def _sources(spec: RunSpec) -> list[RunSource]:
    """All data of a run."""
    return [*spec.data.sources, *([spec.evaluation_source] if spec.evaluation_source else [])]


def _lm_eval(tasks: LmEval) -> RunLmEval:
    settings = {name: getattr(tasks, name) for name in Tasks.model_fields}
    return RunLmEval(**settings, root=f"{CACHE_ROOT}/lm-eval", secret=_secret(tasks.secret_ref))


def uris(spec: RunSpec) -> list[str]:
    """Every URI of a volume that a run touches."""
    read = [part.uri for part in (*_folders(spec), *_sources(spec)) if part.uri]
    kept = [spec.cache.uri] if spec.cache and spec.cache.uri else []
    return [uri for uri in (spec.output.uri, *read, *kept) if not is_remote(uri)]


def secrets(spec: RunSpec) -> list[RunSecret]:
    """The Secrets that a run reads, each once."""
    tasks = [spec.lm_eval] if spec.lm_eval else []
    read = (part.secret for part in (*_folders(spec), *_sources(spec), *tasks))
    found = {secret.name: secret for secret in read if secret}
    return [found[name] for name in sorted(found)]
