"""The children of a PretrainJob or FineTuneJob: the run spec's ConfigMap, and a batch/v1 Job per attempt."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from kubetune.api.defaults import PodDefaults
from kubetune.api.kinds import KINDS
from kubetune.api.labels import ACTIVE_ANNOTATION, ATTEMPT_LABEL, RESTARTS_ANNOTATION, TRAINER_CONTAINER
from kubetune.api.resources import gpu_of
from kubetune.api.runspec import CA_PATH, CACHE_ROOT, GPU_VARIABLE, RUN_SPEC_PATH, TOKEN_PATH, RunSpec
from kubetune.desired.common import labels_of, metadata, shared_memory
from kubetune.desired.pod_template import (
    container_security,
    init_containers,
    of_container,
    placement,
    pod_security,
    resources,
    spreading,
    variables,
)
from kubetune.desired.runspec import secrets, uris
from kubetune.desired.volumes import locate, mounts, secret_mounts

TOKEN_AUDIENCE = "kubetune-progress"
TOKEN_SECONDS = 3600
GRACE_SECONDS = 120
"""For the checkpoint that is saved on SIGTERM."""
_RESOURCES = {"requests": {"cpu": "500m", "memory": "1Gi"}}
"""No limits: what a run needs is for its author to know, and too little would end it."""
RUN_KEY = PurePosixPath(RUN_SPEC_PATH).name
_RUN_VOLUME = "run"
_PLURALS = {kind.name: kind.plural for kind in KINDS}


@dataclass(frozen=True)
class TrainingSettings:
    """What the operator was started with, as far as training pods are concerned."""

    image: str
    """Trainer image."""
    image_pull_policy: str
    """When it is pulled."""
    progress_url: str
    """Root URL of the progress receiver."""
    progress_ca: str
    """PEM of the authority that issued its certificate."""
    operator_image: str
    """Image with kubetune itself, for the pod that removes a deleted job's files."""
    defaults: PodDefaults = field(default_factory=PodDefaults)
    """What the chart says of all pods."""


@dataclass(frozen=True)
class Turn:
    """Which attempt it is, and what the ones before it have used up."""

    attempt: int
    """1 for the first."""
    restarts: int = 0
    """Attempts before it that count against backoffLimit."""
    active_seconds: int = 0
    """How long their pods ran."""
    deadline_seconds: int | None = None
    """How long this one may run."""


def progress_path(kind: str, namespace: str, name: str) -> str:
    """URL path to which the trainer of a job posts."""
    return f"/v1alpha1/namespaces/{namespace}/{_PLURALS[kind]}/{name}/progress"


def config_map(resource: Mapping[str, Any], run: str, settings: TrainingSettings) -> dict[str, Any]:
    """The immutable ConfigMap with run spec and the receiver's authority; its name carries their digest.

    Args:
        resource: the owner.
        run: the run spec as JSON text.
        settings: of the operator.
    """
    data = {
        RUN_KEY: run,
        PurePosixPath(CA_PATH).name: settings.progress_ca,
    }
    digest = hashlib.sha256("".join(f"{k}\0{v}\0" for k, v in sorted(data.items())).encode()).hexdigest()
    name = f"{resource['metadata']['name']}-run-{digest[:8]}"
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(resource, name),
        "immutable": True,
        "data": data,
    }


def job_name(resource: Mapping[str, Any], attempt: int) -> str:
    """Name of an attempt's Job: the same each time it is asked for, so it is never created twice."""
    meta = resource["metadata"]
    digest = hashlib.sha256(f"{meta['uid']}/{attempt}".encode()).hexdigest()
    return f"{meta['name']}-{digest[:8]}"


def config_map_of(child: Mapping[str, Any]) -> str | None:
    """Name of the run spec's ConfigMap that an attempt's Job mounts."""
    volumes = child["spec"]["template"]["spec"].get("volumes") or []
    return next((v["configMap"]["name"] for v in volumes if v["name"] == _RUN_VOLUME), None)


def job(
    resource: Mapping[str, Any], spec: RunSpec, run: str, turn: Turn, settings: TrainingSettings
) -> dict[str, Any]:
    """The Job of one attempt.

    Args:
        resource: the owner.
        spec: its run spec.
        run: name of the ConfigMap with the run spec.
        turn: which attempt it is.
        settings: of the operator.
    """
    template = (resource["spec"].get("compute") or {}).get("podTemplate") or {}
    meta = metadata(resource, job_name(resource, turn.attempt), labels={ATTEMPT_LABEL: str(turn.attempt)})
    meta["annotations"] = {RESTARTS_ANNOTATION: str(turn.restarts)}
    pod_metadata = {
        "labels": {**(template.get("labels") or {}), **meta["labels"]},
        "annotations": {**(template.get("annotations") or {}), ACTIVE_ANNOTATION: str(turn.active_seconds)},
    }
    pod = pod_spec(resource, spec, run, template, settings)
    if turn.deadline_seconds is not None:
        # The pod's deadline and not the Job's, which also counts the time before a node takes the pod.
        pod["activeDeadlineSeconds"] = turn.deadline_seconds
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta,
        "spec": {
            # Whether there is another attempt is the operator's decision alone.
            "backoffLimit": 0,
            # A queue may suspend and resume the Job: no pod starts while another one still saves.
            "podReplacementPolicy": "Failed",
            "completions": 1,
            "parallelism": 1,
            "completionMode": "Indexed",
            "template": {"metadata": pod_metadata, "spec": pod},
        },
    }


def pod_spec(
    resource: Mapping[str, Any],
    spec: RunSpec,
    run: str,
    template: Mapping[str, Any],
    settings: TrainingSettings,
) -> dict[str, Any]:
    """The training pod."""
    compute = resource["spec"].get("compute") or {}
    volumes, volume_mounts = _volumes(spec)
    run_folder, token_folder = str(PurePosixPath(RUN_SPEC_PATH).parent), str(PurePosixPath(TOKEN_PATH).parent)
    token = {
        "path": PurePosixPath(TOKEN_PATH).name,
        "audience": TOKEN_AUDIENCE,
        "expirationSeconds": TOKEN_SECONDS,
    }
    url = settings.progress_url + progress_path(spec.job.kind, spec.job.namespace, spec.job.name)
    environment = {
        "HF_HUB_OFFLINE": "1",
        "HOME": "/tmp",  # noqa: S108 - an emptyDir
        "KUBEFLOW_TRAINER_SERVER_CA_CERT": CA_PATH,
        "KUBEFLOW_TRAINER_SERVER_TOKEN": TOKEN_PATH,
        "KUBEFLOW_TRAINER_SERVER_URL": url,
        "USER": "kubetune",  # torch asks who it is, and the image does not know every user
    }
    wanted = compute.get("resourcesPerNode") or {}
    asked = resources(wanted, settings.defaults.trainer, _RESOURCES)
    if gpu := gpu_of(asked.get("limits")):
        environment[GPU_VARIABLE] = gpu
    container: dict[str, Any] = {
        "name": TRAINER_CONTAINER,
        "image": template.get("image") or settings.image,
        "imagePullPolicy": template.get("imagePullPolicy") or settings.image_pull_policy,
        "command": ["python", "-m", "kubetune_trainer"],
        **of_container(
            template, variables(environment, template.get("env") or [], settings.defaults.trainer)
        ),
        "resources": asked,
        "securityContext": container_security(template.get("containerSecurityContext")),
        "terminationMessagePath": "/dev/termination-log",
        "volumeMounts": [
            {"name": _RUN_VOLUME, "mountPath": run_folder, "readOnly": True},
            {"name": "token", "mountPath": token_folder, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - shared memory of data loaders and NCCL
            *volume_mounts,
            *(template.get("volumeMounts") or ()),
        ],
    }
    out: dict[str, Any] = {
        **placement(template, settings.defaults),
        **spreading(template, labels_of(resource)),
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": pod_security(template, settings.defaults),
        "containers": [container],
        "volumes": [
            {"name": _RUN_VOLUME, "configMap": {"name": run}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
            {"name": "tmp", "emptyDir": {}},
            shared_memory(),
            *volumes,
            *(template.get("volumes") or ()),
        ],
    }
    if own := init_containers(template):
        out["initContainers"] = own
    if compute.get("serviceAccountName"):
        out["serviceAccountName"] = compute["serviceAccountName"]
    return out


def _volumes(spec: RunSpec) -> tuple[list[Any], list[Any]]:
    """What a run reads and writes."""
    written = [spec.output.uri, *([spec.cache.uri] if spec.cache and spec.cache.uri else [])]
    volumes, volume_mounts = mounts(
        [locate(uri) for uri in uris(spec)], {locate(uri).volume for uri in written}
    )
    if spec.cache:
        volumes.append({"name": "cache", "emptyDir": {}})
        volume_mounts.append({"name": "cache", "mountPath": CACHE_ROOT})
    secret_volumes, secret_volume_mounts = secret_mounts(secrets(spec))
    return [*volumes, *secret_volumes], [*volume_mounts, *secret_volume_mounts]
