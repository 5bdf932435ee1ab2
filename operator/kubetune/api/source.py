"""Where things are read from: a URI (see `uris`), or the artifact of another job."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from kubetune.api import uris
from kubetune.api.meta import Block, cel, matches, one_of, rules
from kubetune.api.uris import DNS_SUBDOMAIN

DNS_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"

IS_LABEL = matches(
    DNS_LABEL, "must be lower-case letters, digits and '-', beginning and ending with a letter or digit"
)
IS_SUBDOMAIN = matches(
    DNS_SUBDOMAIN,
    "must be lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit",
)

PvcUri = Annotated[str, Field(max_length=1024), uris.IS_FOLDER, uris.PLAIN]
DataUri = Annotated[
    str,
    Field(max_length=1024),
    uris.IS_DATA,
    uris.PLAIN,
    uris.WELL_FORMED_HOST,
    uris.NO_PASSWORD,
    uris.NO_QUERY,
    uris.NO_METADATA,
    uris.WHOLE_REPOSITORY,
]
BaseUri = Annotated[
    str, Field(max_length=1024), uris.NO_HTTPS, uris.NO_MODEL_REPOSITORY, uris.IS_BASE, uris.PLAIN
]
Digest = Annotated[
    str,
    Field(max_length=71),
    matches(
        "sha256:[0-9a-f]{64}", "must be sha256: and 64 lower-case hex digits, as `kubetune digest` prints it"
    ),
]
JobName = Annotated[str, Field(min_length=1, max_length=52), IS_LABEL]
ObjectName = Annotated[str, Field(min_length=1, max_length=253), IS_SUBDOMAIN]
PartName = Annotated[str, Field(min_length=1, max_length=63), IS_LABEL]


class JobRef(Block):
    """A job of the same namespace, whose artifact is used. It may still be running, or not exist yet."""

    kind: Literal["PretrainJob", "FineTuneJob"]
    """Kind of the job."""
    name: JobName
    """Name of the job."""


class SecretRef(Block):
    """A Secret of the same namespace, mounted read-only as a folder; it must exist when the job starts."""

    name: ObjectName
    """Name of the Secret. Keys for s3://: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, optionally
    AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL (of another S3-compatible store) and ca.crt. For hf://:
    HF_TOKEN, optionally HF_ENDPOINT (of a mirror) and ca.crt. For https://: token (a bearer token), or
    username and password, optionally ca.crt. ca.crt is PEM of the authorities to trust instead of the public
    ones."""


SECRET_GOES_WITH_REMOTE = cel(
    "!has(self.secretRef) || (has(self.uri) && (self.uri.startsWith('https://') || "
    "self.uri.startsWith('s3://') || self.uri.startsWith('hf://')))",
    "secretRef goes with https://, s3:// and hf://: remove it, volumes need no credentials",
    field_path=".secretRef",
)

DIGEST_GOES_WITH_URI = cel(
    "!has(self.digest) || has(self.uri)",
    "digest goes with uri: remove it, since a job's artifact has a digest already",
)


def _one_place(folder: str, made: str) -> dict[str, str]:
    """A source is a folder, or what a job made."""
    return one_of(f"uri ({folder})", f"jobRef ({made})")


def _of_a_finetunejob(what: str) -> dict[str, str]:
    return cel(
        "!has(self.jobRef) || self.jobRef.kind == 'FineTuneJob'",
        f"must be FineTuneJob: a PretrainJob makes no {what}",
        field_path=".jobRef.kind",
    )


class ModelSource(Block):
    """Full weights in the Hugging Face layout: a folder on a claim, or what a job produced."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            _one_place("weights on a volume", "the artifact of a job"),
            DIGEST_GOES_WITH_URI,
        )
    )

    uri: PvcUri | None = None
    """Folder with config.json, *.safetensors and the tokenizer."""
    job_ref: JobRef | None = None
    """The job whose artifact is the model."""
    digest: Digest | None = None
    """Expected digest of the folder; a folder that differs is refused."""


class BaseSource(Block):
    """Full weights in the Hugging Face layout: a folder, or what a job produced."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            _one_place("weights in a folder", "the artifact of a job"),
            DIGEST_GOES_WITH_URI,
            SECRET_GOES_WITH_REMOTE,
        )
    )

    uri: BaseUri | None = None
    """Folder with config.json, *.safetensors and the tokenizer: pvc://<claim>/<path>, s3://<bucket>/<prefix>
    or hf://<org>/<name>[@<revision>]. Weights in other formats are not downloaded."""
    secret_ref: SecretRef | None = None
    """Credentials for s3:// and hf://."""
    job_ref: JobRef | None = None
    """The job whose artifact is the model."""
    digest: Digest | None = None
    """Expected digest of the folder; a folder that differs is refused."""


class AdapterStart(Block):
    """An adapter in peft's layout: a folder, or what a FineTuneJob produced."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            _one_place("an adapter in a folder", "the artifact of a FineTuneJob"),
            _of_a_finetunejob("adapter"),
            DIGEST_GOES_WITH_URI,
            SECRET_GOES_WITH_REMOTE,
        )
    )

    uri: BaseUri | None = None
    """Folder with adapter_config.json and adapter_model.safetensors: pvc://<claim>/<path>,
    s3://<bucket>/<prefix> or hf://<org>/<name>[@<revision>]."""
    secret_ref: SecretRef | None = None
    """Credentials for s3:// and hf://."""
    job_ref: JobRef | None = None
    """The FineTuneJob whose artifact is the adapter."""
    digest: Digest | None = None
    """Expected digest of the folder; a folder that differs is refused."""


class RewardModel(Block):
    """A reward model: a folder with full weights or a LoRA adapter of the job's base model, or what a
    FineTuneJob of stage reward produced."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            _one_place("a reward model in a folder", "the artifact of a FineTuneJob of stage reward"),
            _of_a_finetunejob("reward model"),
            DIGEST_GOES_WITH_URI,
            SECRET_GOES_WITH_REMOTE,
        )
    )

    uri: BaseUri | None = None
    """Folder with a sequence classifier of one output, or with a LoRA adapter that turns the base model into
    one: pvc://<claim>/<path>, s3://<bucket>/<prefix> or hf://<org>/<name>[@<revision>]."""
    secret_ref: SecretRef | None = None
    """Credentials for s3:// and hf://."""
    job_ref: JobRef | None = None
    """The FineTuneJob whose artifact is the reward model."""
    digest: Digest | None = None
    """Expected digest of the folder; a folder that differs is refused."""
