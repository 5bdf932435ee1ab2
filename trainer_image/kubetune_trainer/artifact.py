"""The result of a run: a folder that is complete or absent."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubetune.api.progress import ArtifactStatus
from kubetune.api.runspec import RunSpec
from kubetune.artifacts.digest import digest_of, files_of
from kubetune.artifacts.manifest import Manifest, ManifestError, ManifestFile, read_manifest, write_manifest
from kubetune_trainer.clock import rfc3339
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.files import folder_to_be, leads_into, remove_leftovers, writing
from kubetune_trainer.log import say


def check_output(spec: RunSpec) -> None:
    """Check that the output lies on its volume: what is written elsewhere is lost with the pod.

    Raises:
        InvalidSpec: a symbolic link on the way leads out of the volume.
    """
    _, _, below = spec.output.uri.partition("://")[2].partition("/")
    root = spec.output.path.removesuffix(below) or "/"
    if not leads_into(Path(spec.output.path), Path(root)):
        raise InvalidSpec(
            f"{spec.output.uri} leads out of its volume by a symbolic link: choose another folder"
        )


def write(
    spec: RunSpec,
    report: dict[str, Any],
    base_digest: str | None,
    fill: Callable[[Path], dict[str, Any]],
) -> ArtifactStatus:
    """Write an artifact: fill a temporary folder, add its manifest, rename it into place.

    Args:
        spec: the run.
        report: goes into the manifest.
        base_digest: digest of the base that an adapter belongs to.
        fill: writes the files; returns rank and target_modules of an adapter.

    Raises:
        StorageError: the output cannot be written.
        Superseded: another trainer has taken over the output.
    """
    final = Path(spec.output.path) / "artifact"
    remove_leftovers(final.parent, "artifact")
    with folder_to_be(final) as folder:
        facts = fill(folder)
        files = files_of(folder)
        manifest = Manifest(
            format=spec.format,
            digest=digest_of(files),
            files=[ManifestFile(path=f.path, sha256=f.sha256, size_bytes=f.size) for f in files],
            job=spec.job,
            run_spec_digest=spec.digest(),
            base_model_digest=None if spec.format == "full" else base_digest,
            created=rfc3339(),
            report=report,
            **facts,
        )
        write_manifest(folder, manifest)
    return status(spec, manifest)


def status(spec: RunSpec, manifest: Manifest) -> ArtifactStatus:
    """What the job's status says about an artifact."""
    return ArtifactStatus(
        uri=f"{spec.output.uri}/artifact",
        digest=manifest.digest,
        size_bytes=sum(f.size_bytes for f in manifest.files),
        format=manifest.format,
        base_model_digest=manifest.base_model_digest,
        rank=manifest.rank,
        target_modules=manifest.target_modules,
    )


def finished(spec: RunSpec) -> Manifest | None:
    """The manifest of this run's artifact, if an earlier attempt finished it and died before reporting it.

    A damaged artifact is removed, so that it is made again.

    Raises:
        InvalidSpec: the folder holds the artifact of another run.
    """
    folder = Path(spec.output.path) / "artifact"
    if not folder.exists():
        return None
    try:
        manifest = read_manifest(folder)
        if manifest.job is not None and (manifest.job.uid, manifest.run_spec_digest) != (
            spec.job.uid,
            spec.digest(),
        ):
            raise InvalidSpec(f"{spec.output.uri} holds the artifact of another run: choose another output")
        if digest_of(files_of(folder)) != manifest.digest:
            raise ManifestError("its files are not those of its manifest")
    except (ManifestError, OSError) as error:
        say("artifact", removed="artifact", why=str(error))
        with writing(folder):
            shutil.rmtree(folder)
        return None
    return manifest
