"""manifest.json of an artifact: what it is, what it belongs to, and the digest of every file."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from kubetune.api.meta import Block
from kubetune.api.runspec import ArtifactFormat, JobIdentity
from kubetune.artifacts.digest import MANIFEST


class ManifestError(ValueError):
    """There is no manifest, or it cannot be read."""


class ManifestFile(Block):
    """One file."""

    path: str
    """Relative path."""
    sha256: str
    """Hex."""
    size_bytes: int
    """Size."""


class Manifest(Block):
    """Facts about an artifact."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    format: ArtifactFormat
    """What it is."""
    digest: str
    """Digest of the files below."""
    files: list[ManifestFile]
    """Every file but this one."""
    job: JobIdentity | None = None
    """The job that made it."""
    run_spec_digest: str | None = None
    """Digest of that job's run spec."""
    base_model_digest: str | None = None
    """Digest of the root base that an adapter belongs to."""
    rank: int | None = None
    """Rank of a lora adapter."""
    target_modules: list[str] | None = None
    """Layers that a lora adapter changes."""
    created: str | None = None
    """RFC 3339, UTC."""
    report: dict[str, Any] = {}
    """Data report and metrics, for people."""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact.

    Raises:
        ManifestError: missing or malformed.
    """
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise ManifestError(f"{MANIFEST} is missing") from None
    except ValidationError as error:
        raise ManifestError(f"{MANIFEST} is malformed: {error.errors()[0]['msg']}") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it last: a folder with a manifest is complete."""
    temporary = folder / f".{MANIFEST}.tmp"
    temporary.write_text(json.dumps(manifest.wire(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.chmod(0o644)
    temporary.replace(folder / MANIFEST)
