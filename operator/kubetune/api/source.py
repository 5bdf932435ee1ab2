"""Where things are read from: `pvc://claim/path`, `configmap://name/key`, or the artifact of another job."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from kubetune.api.meta import Block, Check, cel, matches, rules

DNS_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DNS_SUBDOMAIN = "[a-z0-9]([-.a-z0-9]*[a-z0-9])?"

IS_LABEL = matches(
    DNS_LABEL, "must be lower-case letters, digits and '-', beginning and ending with a letter or digit"
)
IS_SUBDOMAIN = matches(
    DNS_SUBDOMAIN,
    "must be lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit",
)

# No control characters, and only data is chosen by a pattern of names.
_FOLDER = rf"pvc://{DNS_SUBDOMAIN}(/[^/*\x00-\x1f\x7f]+)*/?"
_FILES = rf"pvc://{DNS_SUBDOMAIN}(/[^/\x00-\x1f\x7f]+)*/?|configmap://{DNS_SUBDOMAIN}/[-._a-zA-Z0-9]+"
# A path never holds '..' or '%': no traversal, no second decoding.
_PLAIN = Check(
    "!self.contains('..') && !self.contains('%')",
    "must not contain '..' or '%': write the plain path",
    lambda uri: ".." not in uri and "%" not in uri,
)

PvcUri = Annotated[
    str,
    Field(max_length=1024),
    matches(_FOLDER, "must be pvc://<claim>/<path> of a folder, for example pvc://models/tiny-lm"),
    _PLAIN,
]
DataUri = Annotated[
    str,
    Field(max_length=1024),
    matches(
        _FILES, "must be pvc://<claim>/<path>, where the path may hold * and **, or configmap://<name>/<key>"
    ),
    _PLAIN,
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
    """A job of the same namespace whose artifact is meant. It may still be running, or not exist yet."""

    kind: Literal["PretrainJob", "FineTuneJob"]
    """Kind of the job."""
    name: JobName
    """Name of the job."""


class ModelSource(Block):
    """Full weights in the Hugging Face layout: a folder on a claim, or what a job produced."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "has(self.uri) != has(self.jobRef)",
                "set exactly one of uri (weights on a volume) and jobRef (the artifact of a job)",
            ),
            cel(
                "!has(self.digest) || has(self.uri)",
                "digest goes with uri: the artifact of a job is pinned already",
            ),
        )
    )

    uri: PvcUri | None = None
    """Folder with config.json, *.safetensors and the tokenizer."""
    job_ref: JobRef | None = None
    """The job whose artifact is the model."""
    digest: Digest | None = None
    """Expected digest of the folder; a folder that differs is refused."""
