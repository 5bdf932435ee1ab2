"""URIs that a job reads from, and what their parts mean.

- `pvc://claim/path` and `configmap://name/key` are mounted.
- `https://host[:port]/path` (a file), `s3://bucket/key` (an object, a prefix or a pattern) and
  `hf://[datasets/]org/name[@revision][/path]` (a repository, or a file, a folder or a pattern in it) are
  downloaded.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from kubetune.api.meta import Check, matches

DNS_SUBDOMAIN = "[a-z0-9]([-.a-z0-9]*[a-z0-9])?"
REMOTE = ("https://", "s3://", "hf://")
"""Schemes of what is downloaded."""

# No control characters. What is a pattern may hold * and **.
_SEGMENT, _PATTERN = r"/[^/*\x00-\x1f\x7f]+", r"/[^/\x00-\x1f\x7f]+"
_PVC = f"pvc://{DNS_SUBDOMAIN}"
_CONFIGMAP = f"configmap://{DNS_SUBDOMAIN}/[-._a-zA-Z0-9]+"
HTTPS = f"https://[^/*\\x00-\\x1f\\x7f]+({_SEGMENT})+"
_BUCKET = "s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9]"
_REVISION = "(refs/(pr|convert)/)?[-_a-zA-Z0-9][-._a-zA-Z0-9]*"
_NAMED = rf"[a-zA-Z0-9][-._a-zA-Z0-9]*/[-._a-zA-Z0-9]+(@{_REVISION})?"
_REPOSITORY = f"hf://(datasets/)?{_NAMED}"

FOLDER = f"{_PVC}({_SEGMENT})*/?"
"""A folder on a claim."""
DATA = f"{_PVC}({_PATTERN})*/?|{_CONFIGMAP}|{HTTPS}|{_BUCKET}({_PATTERN})*/?|{_REPOSITORY}({_PATTERN})*/?"
"""URIs that data is read from."""
BASE = f"{FOLDER}|{_BUCKET}({_SEGMENT})*/?|hf://{_NAMED}"
"""URIs that a job reads a base model from."""

# A path never holds '..' or '%': no traversal, no second decoding.
PLAIN = Check(
    "!self.contains('..') && !self.contains('%')",
    "must not contain '..' or '%': write the plain path",
    lambda uri: ".." not in uri and "%" not in uri,
)
NO_HTTPS = Check(
    "!self.startsWith('https://')",
    "https:// cannot list the files of a folder: use s3:// or hf://, or put the model on a claim",
    lambda uri: not uri.startswith("https://"),
)
NO_MODEL_REPOSITORY = Check(
    "!self.startsWith('hf://datasets/')",
    "hf://datasets/ holds no models: write hf://<org>/<name>",
    lambda uri: not uri.startswith("hf://datasets/"),
)
_DATA_SET = f"hf://datasets/{_NAMED}(/|$)"
WHOLE_REPOSITORY = Check(
    f"!self.startsWith('hf://datasets/') || self.matches(r'^{_DATA_SET}')",
    "must name the data set in full: hf://datasets/<org>/<name>[@<revision>]",
    lambda uri: not uri.startswith("hf://datasets/") or re.match(_DATA_SET, uri),
)
NO_PASSWORD = Check(
    "!self.matches(r'^https://[^/]*@')",
    "must not hold a user name or password: put them into a Secret and name it in secretRef",
    lambda uri: not re.match("https://[^/]*@", uri),
)
NO_QUERY = Check(
    "!self.matches(r'^https://[^?#]*[?#]')",
    "must not hold a query or fragment, which may carry credentials: write the plain address, and name a "
    "Secret in secretRef if it needs credentials",
    lambda uri: not re.match("https://[^?#]*[?#]", uri),
)
_AUTHORITY = r"https://([a-zA-Z0-9]([-.a-zA-Z0-9]*[a-zA-Z0-9])?|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?/"
WELL_FORMED_HOST = Check(
    f"!self.startsWith('https://') || self.matches(r'^https://[^/]*@') || self.matches(r'^{_AUTHORITY}')",
    "must name a host, for example https://data.example.org/corpus.jsonl",
    lambda uri: (
        not uri.startswith("https://") or re.match("https://[^/]*@", uri) or re.match(_AUTHORITY, uri)
    ),
)
# What can be seen without asking a name server; the trainer judges the addresses that it connects to.
_FORBIDDEN = (
    r"https://(169\.254\.[0-9.]+|0\.0\.0\.0|100\.100\.100\.200|\[::\]|\[[fF][eE][89abAB][0-9a-fA-F]:[^]]*\]"
    r"|\[[fF][dD]00:[eE][cC]2::254\]|[mM][eE][tT][aA][dD][aA][tT][aA]\.[gG][oO][oO][gG][lL][eE]\.[iI][nN][tT]"
    r"[eE][rR][nN][aA][lL])(:[0-9]+)?/"
)
NO_METADATA = Check(
    f"!self.matches(r'^{_FORBIDDEN}')",
    "must not name a link-local address or a cloud's metadata service: name the server that has the data",
    lambda uri: not re.match(_FORBIDDEN, uri),
)
IS_FOLDER = matches(FOLDER, "must be pvc://<claim>/<path> of a folder, for example pvc://models/tiny-lm")
IS_DATA = matches(
    DATA,
    "must be pvc://<claim>/<path>, s3://<bucket>/<path> or hf://[datasets/]<org>/<name>[@<revision>][/<path>],"
    " where the path may hold * and **, or configmap://<name>/<key> or https://<host>/<path>",
)
IS_BASE = matches(
    BASE,
    "must be a folder: pvc://<claim>/<path>, s3://<bucket>/<path> or hf://<org>/<name>[@<revision>]",
)


@dataclass(frozen=True)
class S3Uri:
    """A bucket, and which objects of it are meant."""

    bucket: str
    key: str
    """An object, a prefix or a pattern; empty for the whole bucket."""


@dataclass(frozen=True)
class HubUri:
    """A repository of a model hub, and which of its files are meant."""

    is_dataset: bool
    repository: str
    """<org>/<name>"""
    revision: str
    """A branch, a tag or a commit."""
    path: str
    """A file, a folder or a pattern; empty for all of it."""


def is_remote(uri: str) -> bool:
    """Whether it is downloaded, rather than mounted."""
    return uri.startswith(REMOTE)


def parse_s3(uri: str) -> S3Uri:
    """The parts of an s3:// URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return S3Uri(bucket, key.strip("/"))


def parse_hub(uri: str) -> HubUri:
    """The parts of an hf:// URI."""
    rest = uri.removeprefix("hf://")
    is_dataset = rest.startswith("datasets/")
    found = re.fullmatch(
        rf"(?P<name>[^/@]+/[^/@]+)(@(?P<revision>{_REVISION}))?(/(?P<path>.*))?",
        rest.removeprefix("datasets/"),
        re.DOTALL,
    )
    if found is None:
        raise ValueError(f"{uri} is not hf://[datasets/]<org>/<name>[@<revision>][/<path>]")
    path = (found["path"] or "").strip("/")
    return HubUri(is_dataset, found["name"], found["revision"] or "main", path)


def inner_path(uri: str) -> str:
    """Path of a remote URI's content, relative to the folder that it is downloaded to."""
    if uri.startswith("s3://"):
        return parse_s3(uri).key
    if uri.startswith("hf://"):
        return parse_hub(uri).path
    return PurePosixPath(uri).name
