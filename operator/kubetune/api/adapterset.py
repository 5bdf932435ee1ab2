"""AdapterSet: serve one base model with many adapters, chosen by each request's `model` field."""

import re
from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field
from pydantic.json_schema import WithJsonSchema

from kubetune.api.containers import Image
from kubetune.api.keyvalue import UNRESERVED, WELL_FORMED_LABELS, Annotations, LabelValue
from kubetune.api.meta import Block, Check, cel, immutable, map_list, matches, one_of, rules
from kubetune.api.pod import PodTemplate, claims_are_there
from kubetune.api.resources import ResourceRequirements
from kubetune.api.source import Digest, JobName, ModelSource, ObjectName, PvcUri

_PART = "[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?"
ServedName = Annotated[
    str,
    Field(min_length=1, max_length=96),
    matches(
        f"{_PART}([/:]{_PART})*",
        "must be letters, digits, '-', '_' and '.', with '/' or ':' between parts; each part begins and ends "
        "with a letter or digit",
    ),
]
LoraRank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]
"""What vLLM accepts for --max-lora-rank."""
ENGINE_LORA_RANKS: tuple[int, ...] = get_args(LoraRank)

# Arguments that the operator sets, that would bypass the gateway, or that run code from a model's folder.
_RESERVED_ARGS = [
    "--api-key", "--config", "--enable-lora", "--host", "--lora-modules", "--max-lora-rank", "--max-loras",
    "--model", "--no-enable-lora", "--no-trust-remote-code", "--port", "--root-path", "--served-model-name",
    "--ssl-", "--trust-remote-code", "--trust-request-chat-template", "--no-trust-request-chat-template",
    "--uds",
]  # fmt: skip
_RESERVED_PREFIX = "--ssl-"


def _unreserved(argument: str) -> bool:
    # vLLM takes _ for -, any beginning of a flag that fits no other, and --flag.key=value for a JSON value.
    flag = re.split("[=.]", argument.replace("_", "-"), maxsplit=1)[0]
    abbreviates = flag.startswith("--") and any(reserved.startswith(flag) for reserved in _RESERVED_ARGS)
    return not abbreviates and not flag.startswith(_RESERVED_PREFIX)


_UNRESERVED_ARGS = Check(
    "self.map(a, a.replace('_', '-').split('=')[0].split('.')[0])"
    f".all(f, !f.startsWith('{_RESERVED_PREFIX}')"
    f" && !(f.startsWith('--') && {_RESERVED_ARGS}.exists(r, r.startsWith(f))))",
    "remove what kubetune sets (--model, --host, --port, --served-model-name, --enable-lora; --max-loras and "
    "--max-lora-rank by the fields maxLoras and maxLoraRank), what it does not offer (--api-key, "
    "--config, --lora-modules, --root-path, --ssl-*, --uds, --trust-remote-code, "
    "--trust-request-chat-template), and abbreviations of these",
    lambda args: all(_unreserved(a) for a in args),
)
_VALUE_OF_ITS_OWN = re.compile("-[^=]*[.][^=]*")
_WHOLE_ARGS = Check(
    "self.size() == 0 || !self[self.size() - 1].matches(r'^-[^=]*[.][^=]*$')",
    "the last argument has no value and would take the next one, set by kubetune, as its value: write "
    "--flag.key=value",
    lambda args: not args or not _VALUE_OF_ITS_OWN.fullmatch(args[-1]),
)


class ServedBase(ModelSource):
    """The base model."""

    name: ServedName
    """The name by which clients ask for the base itself."""


class AdapterJobRef(Block):
    """A FineTuneJob of the same namespace. It may still be running, or not exist yet."""

    name: JobName
    """Name of the FineTuneJob."""


class JobSelector(Block):
    """Chooses the newest Complete FineTuneJob with these labels: a later, finished run goes live by
    itself."""

    match_labels: Annotated[dict[str, LabelValue], Field(min_length=1, max_length=8), WELL_FORMED_LABELS]
    """Labels that the FineTuneJob must have."""


class AdapterSource(Block):
    """Where an adapter comes from."""

    model_config = ConfigDict(json_schema_extra=rules(one_of("jobRef", "jobSelector", "uri")))

    job_ref: AdapterJobRef | None = None
    """The artifact of this job."""
    job_selector: JobSelector | None = None
    """The artifact of the newest Complete job with these labels."""
    uri: PvcUri | None = None
    """Folder with a peft adapter."""


class ServedAdapter(Block):
    """One adapter."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "!has(self.source.uri) || has(self.digest)",
                "is required with source.uri: set it to what `kubetune digest <folder>` prints",
                field_path=".digest",
            )
        )
    )

    name: ServedName
    """The model name that clients ask for."""
    source: AdapterSource
    """Where it comes from."""
    digest: Digest | None = None
    """Serve exactly this version: a job's status.artifact.digest, or what `kubetune digest` prints."""


class Engine(Block):
    """The inference engine."""

    model_config = ConfigDict(json_schema_extra=rules(claims_are_there("resources")))

    type: Literal["vllm"] = "vllm"
    """vllm: vLLM's OpenAI-compatible server."""
    image: Image | None = None
    """Image used instead of the chart's."""
    args: Annotated[
        list[Annotated[str, Field(max_length=1024)]],
        Field(max_length=64),
        _UNRESERVED_ARGS,
        _WHOLE_ARGS,
    ] = []
    """Extra arguments of the engine, for example --max-model-len=512. Arguments that kubetune sets itself are
    refused."""
    resources: ResourceRequirements | None = None
    """Resources of the engine container. More than one GPU is used only with args that say how, for example
    --tensor-parallel-size=2."""
    max_loras: Annotated[int, Field(ge=1, le=256)] | None = None
    """Adapters active in one batch. Default: the number of adapters, at least 2 and at most 8."""
    max_lora_rank: LoraRank | None = None
    """Highest rank the engine makes room for. Default: the highest rank known when the engine starts, at
    least 16; an adapter that exceeds it restarts the engine. With a number, such an adapter is refused."""
    service_account_name: ObjectName | None = None
    """ServiceAccount for workload identity. Its API token is never mounted."""
    pod_template: PodTemplate | None = None
    """Overrides on the serving pods; its image is that of the gateway."""


class Gateway(Block):
    """The gateway, which stands before the engine in every pod, and the check of the base before both."""

    resources: ResourceRequirements | None = None
    """Resources of each of the two containers. Default: requests of 100m CPU and 128Mi memory, limits of 2
    CPUs and 1Gi. A resource named here replaces both its default request and its default limit."""


class ServiceTemplate(Block):
    """The Service in front of the pods."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port of the OpenAI-compatible API."""
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Type of the Service."""
    annotations: Annotated[Annotations, UNRESERVED] | None = None
    """Annotations of the Service, for example of a cloud's load balancer."""


_PERCENT = "([0-9]|[1-9][0-9]|100)%"
Share = Annotated[
    int | str,
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 4}),
    Check(
        f"type(self) == int ? self >= 0 : self.matches('^{_PERCENT}$')",
        "must be a number of pods or a percentage, for example 1 or 50%",
        lambda share: (
            share >= 0 if isinstance(share, int) else re.fullmatch("([0-9]|[1-9][0-9]|100)%", share)
        ),
    ),
]


class DisruptionBudget(Block):
    """A policy/v1 PodDisruptionBudget for the serving pods."""

    model_config = ConfigDict(json_schema_extra=rules(one_of("minAvailable", "maxUnavailable")))

    min_available: Share | None = None
    """Pods that must stay available while nodes are drained."""
    max_unavailable: Share | None = None
    """Pods that may be unavailable while nodes are drained."""


class AdapterSetSpec(Block):
    """One base model, and the adapters served from it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            *immutable("baseModel", kind="AdapterSet"),
            cel(
                "self.adapters.all(a, a.name != self.baseModel.name)",
                "an adapter must not have the name of the base model: rename one of them",
                field_path=".adapters",
            ),
        )
    )

    base_model: ServedBase
    """The base model."""
    engine: Engine = Engine()
    """The engine."""
    gateway: Gateway | None = None
    """The gateway."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Number of serving pods."""
    adapters: Annotated[list[ServedAdapter], Field(max_length=256, json_schema_extra=map_list("name"))] = []
    """The adapters."""
    service: ServiceTemplate = ServiceTemplate()
    """The Service."""
    pod_disruption_budget: DisruptionBudget | None = None
    """How many pods a drain of nodes may take away at a time."""
