"""The children of an AdapterSet: Deployment of gateway and engine, Service, table. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from kubetune.api.adapterset import AdapterSetSpec, Engine
from kubetune.api.defaults import PodDefaults
from kubetune.api.status import AdapterStatus, ResolvedBase
from kubetune.api.table import (
    ADAPTER_CACHE,
    ADMIN_PORT,
    ANY_DIGEST,
    API_PORT,
    CHECK_BASE,
    ENGINE_PORT,
    TABLE_DIR,
    TABLE_PATH,
    Table,
    TableAdapter,
    TableBase,
)
from kubetune.desired.adapterset_engine import (
    EngineLimits,
    changes_config,
    engine_args,
    engine_env,
    engine_resources,
)
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
from kubetune.desired.volumes import Location, locate, mounts

GRACE_SECONDS = 120
"""For requests in flight; the gateway's own limits are shorter (gateway.options)."""
GATEWAY, ENGINE = "gateway", "engine"
_GATEWAY_RESOURCES = {
    "requests": {"cpu": "100m", "memory": "128Mi"},
    # It is one process: two processors are what it and the hashing of files can use.
    "limits": {"cpu": "2", "memory": "1Gi"},
}
# A saturated engine answers everything late, its health too: it must be silent for minutes to be restarted.
_PATIENCE_SECONDS = 60
_IS_HEALTHY = f"""\
import sys, urllib.request
try:
    urllib.request.urlopen("http://127.0.0.1:{ENGINE_PORT}/health", timeout={_PATIENCE_SECONDS - 5})
except OSError as error:
    sys.exit(str(error))
"""
# The first process of a container ignores a signal that it does not handle, and the engine handles none while
# it starts: a shell in front of it passes SIGTERM on.
PASS_ON_SIGTERM = """\
"$@" & engine=$!
trap 'kill -TERM $engine' TERM
wait $engine; code=$?
while kill -0 $engine 2>/dev/null; do wait $engine; code=$?; done
exit $code
"""
_HOURS_TO_START = 2


@dataclass(frozen=True)
class ServingSettings:
    """What the operator was started with, as far as serving pods are concerned."""

    gateway_image: str
    """Image with kubetune itself."""
    engine_image: str
    """Image with vLLM."""
    image_pull_policy: str
    """When they are pulled."""
    defaults: PodDefaults = field(default_factory=PodDefaults)
    """What the chart says of all pods."""


def table(
    spec: AdapterSetSpec, base: ResolvedBase, versions: Iterable[AdapterStatus], max_lora_rank: int
) -> Table:
    """What the pods should serve; versions: those that are resolved."""
    return Table(
        base_model=TableBase(name=spec.base_model.name, path=locate(base.uri).mounted, digest=base.digest),
        max_lora_rank=max_lora_rank,
        adapters=sorted((_entry(v) for v in versions), key=lambda entry: entry.name),
    )


def _entry(version: AdapterStatus) -> TableAdapter:
    assert version.uri is not None, "only resolved versions go into the table"
    assert version.digest is not None, "only resolved versions go into the table"
    location = locate(version.uri)
    return TableAdapter(name=version.name, digest=version.digest, path=location.mounted, root=location.root)


def table_name(resource: Mapping[str, Any]) -> str:
    """Name of the ConfigMap with the table."""
    return f"{resource['metadata']['name']}-table"


def config_map(resource: Mapping[str, Any], content: Table) -> dict[str, Any]:
    """The table as the pods mount it."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(resource, table_name(resource)),
        "data": {PurePosixPath(TABLE_PATH).name: content.canonical()},
    }


def service(resource: Mapping[str, Any], spec: AdapterSetSpec) -> dict[str, Any]:
    """The address of the API."""
    meta = metadata(resource, resource["metadata"]["name"])
    if spec.service.annotations:
        meta["annotations"] = dict(spec.service.annotations)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {
            "type": spec.service.type,
            "selector": labels_of(resource),
            "ports": [{"name": "http", "port": spec.service.port, "targetPort": "api", "protocol": "TCP"}],
        },
    }


def disruption_budget(resource: Mapping[str, Any], spec: AdapterSetSpec) -> dict[str, Any] | None:
    """How many pods a drain of nodes may take away; None: as many as it likes."""
    budget = spec.pod_disruption_budget
    if budget is None:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(resource, resource["metadata"]["name"]),
        "spec": {
            **budget.wire(),
            "selector": {"matchLabels": labels_of(resource)},
            # A pod that is not ready does not keep a node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def endpoint(resource: Mapping[str, Any], spec: AdapterSetSpec) -> str:
    """URL of the API inside the cluster."""
    meta = resource["metadata"]
    return f"http://{meta['name']}.{meta['namespace']}.svc:{spec.service.port}"


def deployment(
    resource: Mapping[str, Any],
    spec: AdapterSetSpec,
    base: ResolvedBase,
    limits: EngineLimits,
    replicas: int,
    settings: ServingSettings,
) -> dict[str, Any]:
    """The serving pods. The template says nothing of adapters: they come and go without a rollout."""
    template = spec.engine.pod_template.wire() if spec.engine.pod_template else {}
    labels = labels_of(resource)
    pod_metadata: dict[str, Any] = {"labels": {**(template.get("labels") or {}), **labels}}
    if template.get("annotations"):
        pod_metadata["annotations"] = template["annotations"]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(resource, resource["metadata"]["name"]),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": pod_metadata,
                "spec": _pod_spec(resource, spec, base, limits, template, settings),
            },
        },
    }


def _pod_spec(
    resource: Mapping[str, Any],
    spec: AdapterSetSpec,
    base: ResolvedBase,
    limits: EngineLimits,
    template: Mapping[str, Any],
    settings: ServingSettings,
) -> dict[str, Any]:
    defaults = settings.defaults
    claim_volumes, claim_mounts = mounts(Location(name, is_claim=True, path="") for name in limits.claims)
    wanted = spec.gateway.resources.wire() if spec.gateway and spec.gateway.resources else None
    gateway = {
        "image": template.get("image") or settings.gateway_image,
        "imagePullPolicy": template.get("imagePullPolicy") or settings.image_pull_policy,
        "resources": resources(wanted, defaults.gateway, _GATEWAY_RESOURCES),
    }
    if env := variables({}, (), defaults.gateway):
        gateway["env"] = env
    engine = {
        "image": spec.engine.image or settings.engine_image,
        "imagePullPolicy": template.get("imagePullPolicy") or settings.image_pull_policy,
        "resources": engine_resources(spec.engine, defaults.engine),
        **of_container(template, engine_env(spec.engine, defaults.engine)),
        "args": engine_args(
            spec.engine,
            limits,
            defaults.engine,
            base_name=spec.base_model.name,
            base_path=locate(base.uri).mounted,
        ),
        "securityContext": container_security(template.get("containerSecurityContext")),
    }
    users_mounts = template.get("volumeMounts") or ()
    out = {
        **placement(template, defaults),
        **spreading(template, labels_of(resource)),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": pod_security(template, defaults),
        "initContainers": [
            *init_containers(template),
            _check_base(base, spec.engine, gateway, claim_mounts),
            _engine(engine, [*claim_mounts, *users_mounts]),
        ],
        "containers": [_gateway(limits, gateway, claim_mounts)],
        "volumes": [
            {"name": "table", "configMap": {"name": table_name(resource)}},
            {"name": "adapters", "emptyDir": {}},
            {"name": "gateway-tmp", "emptyDir": {}},
            {"name": "engine-tmp", "emptyDir": {}},
            shared_memory(),
            *claim_volumes,
            *(template.get("volumes") or ()),
        ],
    }
    if spec.engine.service_account_name:
        out["serviceAccountName"] = spec.engine.service_account_name
    return out


def _check_base(
    base: ResolvedBase, engine: Engine, gateway: Mapping[str, Any], claim_mounts: list[dict[str, Any]]
) -> dict[str, Any]:
    """No engine is ever started on a base that is not the one meant, or that generates no text."""
    at = locate(base.uri)
    command = ["python", "-m", "kubetune.gateway.check_base", at.mounted, base.digest or ANY_DIGEST, at.root]
    return {
        "name": CHECK_BASE,
        **gateway,
        "command": [*command, "--any-model"] if changes_config(engine) else command,
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": claim_mounts,
    }


def _engine(engine: Mapping[str, Any], more_mounts: list[dict[str, Any]]) -> dict[str, Any]:
    """A native sidecar: it is stopped only after the gateway has drained."""
    probe = {"exec": {"command": ["python3", "-c", _IS_HEALTHY]}, "timeoutSeconds": _PATIENCE_SECONDS}
    return {
        "name": ENGINE,
        **engine,
        "restartPolicy": "Always",
        "command": ["sh", "-c", PASS_ON_SIGTERM, "sh", "python3", "-m", "vllm.entrypoints.openai.api_server"],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "startupProbe": {**probe, "periodSeconds": 2, "failureThreshold": _HOURS_TO_START * 1800},
        "livenessProbe": {
            **probe,
            "periodSeconds": 10,
            "failureThreshold": 3,
            "terminationGracePeriodSeconds": 10,
        },
        "volumeMounts": [
            {"name": "adapters", "mountPath": ADAPTER_CACHE, "readOnly": True},
            {"name": "engine-tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - shared memory of the engine's processes
            *more_mounts,
        ],
    }


def _gateway(
    limits: EngineLimits, gateway: Mapping[str, Any], claim_mounts: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "name": GATEWAY,
        **gateway,
        "command": ["kubetune", "gateway", f"--max-lora-rank={limits.max_lora_rank}"],
        "ports": [
            {"name": "api", "containerPort": API_PORT, "protocol": "TCP"},
            {"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"},
        ],
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "admin"},
            "periodSeconds": 1,
            "timeoutSeconds": 5,  # late is not unready
            "failureThreshold": 1,
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "admin"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "volumeMounts": [
            {"name": "table", "mountPath": TABLE_DIR, "readOnly": True},
            {"name": "adapters", "mountPath": ADAPTER_CACHE},
            {"name": "gateway-tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir
            *claim_mounts,
        ],
    }
