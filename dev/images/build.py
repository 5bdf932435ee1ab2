"""Build the images from their Dockerfiles, each only once."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dev.cluster import requirements
from dev.cluster.paths import cache
from dev.cluster.report import ClusterError, Step, step
from dev.images import base, store
from dev.images.inputs import IMAGES, UV_CACHE, Image, Inputs

# Older code stays a while: a Job that was created from it may start another pod. It is small.
_KEEP = 10


def build(names: Iterable[str] = IMAGES) -> dict[str, str]:
    """Build what is not built yet.

    Returns:
        The reference of each image by its name.

    Raises:
        ClusterError: a build failed, or a tool or the right is missing.
    """
    if os.geteuid() != 0:
        raise ClusterError(
            "buildah needs root here: run this as root, or docker build -f operator/Dockerfile ."
        )
    requirements.programs("buildah", "mmdebstrap", "runc")
    references = {}
    with store.lock():
        for name in names:
            inputs = Inputs(IMAGES[name])
            references[name] = inputs.reference
            if not store.exists(inputs.reference):
                store.clean()
                base.ensure()
                with step(f"image {name}") as progress:
                    _build(IMAGES[name], inputs, progress)
                old = set(store.tags(IMAGES[name].repository)) - kept(inputs.reference)
                store.remove(sorted(old))
    return references


def kept(newest: str) -> set[str]:
    """What stays when an image has become the newest: others that share its dependencies' layer."""
    same = newest.rpartition("-")[0] + "-"
    tags = store.tags(newest.rpartition(":")[0])
    return {newest, *[tag for tag in tags if tag.startswith(same)][:_KEEP]}


def _build(image: Image, inputs: Inputs, progress: Step) -> None:
    with tempfile.TemporaryDirectory(dir=store.temporary()) as context, _host_settings() as volumes:
        inputs.write(Path(context))
        store.run(
            "bud",
            "--isolation=chroot",
            "--pull=never",
            "--layers",
            f"--file={Path(context) / image.dockerfile}",
            *(f"--build-arg={name}={value}" for name, value in image.arguments.items()),
            *(f"--volume={volume}" for volume in volumes),
            f"--tag={inputs.reference}",
            context,
            progress=progress,
        )


@contextmanager
def _host_settings() -> Iterator[list[str]]:
    """Volumes that give pip and uv in the build this machine's certificates, settings and downloads."""
    with tempfile.TemporaryDirectory(dir=store.temporary()) as folder:
        (Path(folder) / "uv.toml").write_text("system-certs = true\n")
        downloads = Path(os.environ.get("UV_CACHE_DIR", cache() / "uv"))
        downloads.mkdir(parents=True, exist_ok=True)
        shared = [f"{path}:{path}:ro" for path in ("/etc/ssl/certs", "/etc/pip.conf") if Path(path).exists()]
        yield [*shared, f"{folder}:/etc/uv:ro", f"{downloads}:{UV_CACHE}"]
