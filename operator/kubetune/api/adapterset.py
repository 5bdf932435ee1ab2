"""AdapterSet: serve one base model with many adapters, chosen by each request's `model` field."""

import re
from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field

from kubetune.api.keyvalue import WELL_FORMED_LABELS, LabelValue
from kubetune.api.meta import Block, Check, cel, immutable, map_list, matches, rules
from kubetune.api.pod import Image, PodTemplate
from kubetune.api.resources import ResourceRequirements
from kubetune.api.source import Digest, JobName, ModelSource, PvcUri

ServedName = Annotated[
    str,
    Field(min_length=1, max_length=63),
    matches(
        "[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?",
        "must be letters, digits, '-', '_' and '.', beginning and ending with a letter or digit",
    ),
]
LoraRank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]
"""What vLLM accepts for --max-lora-rank."""
ENGINE_LORA_RANKS: tuple[int, ...] = get_args(LoraRank)

# Arguments that the operator sets, that would bypass the gateway, or that run code from a model's folder.
_RESERVED_ARGS = (
    "model|host|port|uds|root-path|ssl-.*|api-key|config|served-model-name|(no-)?enable-lora|max-loras|max-lora-rank"
    "|lora-modules|(no-)?trust-remote-code"
)
_RESERVED_ARG = re.compile(f"--({_RESERVED_ARGS})(=.*)?", re.DOTALL)
_UNRESERVED_ARGS = Check(
    f"!self.exists(a, a.replace('_', '-').matches(r'^--({_RESERVED_ARGS})(=|$)'))",
    "remove what kubetune sets (--model, --host, --port, --served-model-name, --enable-lora; --max-loras and "
    "--max-lora-rank by the fields maxLoras and maxLoraRank) and what it does not offer (--api-key, "
    "--config, --lora-modules, --root-path, --ssl-*, --uds, --trust-remote-code)",
    lambda args: not any(_RESERVED_ARG.fullmatch(a.replace("_", "-")) for a in args),
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

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "[has(self.jobRef), has(self.jobSelector), has(self.uri)].filter(x, x).size() == 1",
                "set exactly one of jobRef, jobSelector and uri",
            )
        )
    )

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
    """Serve exactly this version."""


class Engine(Block):
    """The inference engine."""

    type: Literal["vllm"] = "vllm"
    """vllm: vLLM's OpenAI-compatible server."""
    image: Image | None = None
    """Image used instead of the chart's."""
    args: Annotated[
        list[Annotated[str, Field(max_length=1024)]],
        Field(max_length=64),
        _UNRESERVED_ARGS,
    ] = []
    """Extra arguments of the engine, for example --max-model-len=512. What kubetune sets itself is
    refused."""
    resources: ResourceRequirements | None = None
    """Resources of the engine container. More than one GPU is used only with args that say how, for example
    --tensor-parallel-size=2."""
    max_loras: Annotated[int, Field(ge=1, le=256)] | None = None
    """Adapters active in one batch. Default: the number of adapters, at least 2 and at most 8."""
    max_lora_rank: LoraRank | None = None
    """Highest rank the engine makes room for. Default: the highest rank known when the engine starts, at
    least 16; an adapter that exceeds it restarts the engine. With a number, such an adapter is refused."""
    pod_template: PodTemplate | None = None
    """Overrides on the serving pods; its image is that of the gateway."""


class ServiceTemplate(Block):
    """The Service in front of the pods."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port of the OpenAI-compatible API."""
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Type of the Service."""


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
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Number of serving pods."""
    adapters: Annotated[list[ServedAdapter], Field(max_length=256, json_schema_extra=map_list("name"))] = []
    """The adapters."""
    service: ServiceTemplate = ServiceTemplate()
    """The Service."""
