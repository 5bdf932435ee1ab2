"""Put built images into the local cluster's containerd.

An archive of the trainer image would be written, read and unpacked for minutes and lie on the disk twice
more. So each layer becomes a snapshot of hard links to the files of buildah (both only ever read them), made
through the interface of containerd; then the manifest and the configuration are imported without any layers.
"""

import hashlib
import io
import json
import shlex
import subprocess
import tarfile
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

from dev.cluster import images as cluster_images
from dev.cluster.report import ClusterError, step
from dev.images import base, store
from dev.images.build import build, kept
from dev.images.inputs import IMAGES

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_COLLECTED = "containerd.io/gc.root"  # keeps a snapshot until something else refers to it
_USES_SNAPSHOT = "containerd.io/gc.ref.snapshot.overlayfs"


def load(names: Iterable[str] = IMAGES) -> dict[str, str]:
    """Build the images if need be and put them into the running cluster.

    Returns:
        The reference of each image by its name.

    Raises:
        ClusterError: a build failed or the cluster does not run.
    """
    present = cluster_images.present()  # first: a build is minutes lost if there is no cluster
    references = build(names)
    for name, reference in references.items():
        if reference not in present:
            with store.lock(), step(f"image {name} into the cluster"):
                _load(reference)
            _prune(reference)
    load_base()
    return references


def load_base() -> None:
    """Put the image that stands in for Docker's `python` into the running cluster."""
    if base.IN_CLUSTER not in cluster_images.present():
        with store.lock(), step("image python into the cluster"):
            base.ensure()
            _load(base.REFERENCE)
            _ctr("images", "tag", base.REFERENCE, base.IN_CLUSTER)


def _load(reference: str) -> None:
    config: dict[str, Any] = store.inspect(reference, "Config")
    manifest: dict[str, Any] = store.inspect(reference, "Manifest")
    diffs: list[str] = config["rootfs"]["diff_ids"]
    chain = list(accumulate(diffs, lambda parent, diff: _digest(f"{parent} {diff}".encode())))
    with store.layers(reference) as folders:
        for parent, snapshot, folder in zip(["", *chain], chain, folders, strict=False):
            if not _has_snapshot(snapshot):
                _snapshot(snapshot, parent, folder)
    sizes = [layer["size"] for layer in manifest["layers"]]
    configuration = json.dumps(config).encode()
    archive = _archive(reference, configuration, list(zip(diffs, sizes, strict=True)))
    _ctr("images", "import", "--local", "--no-unpack", "-", stdin=archive)
    _ctr("content", "label", _digest(configuration), f"{_USES_SNAPSHOT}={chain[-1]}")
    for snapshot in chain:
        _ctr("snapshots", "label", snapshot, f"{_COLLECTED}=")


def _snapshot(name: str, parent: str, layer: Path) -> None:
    """Commit a snapshot with a layer's files on top of its parent."""
    draft = f"draft-{name}"
    if _has_snapshot(draft):  # of a run that was interrupted
        _ctr("snapshots", "remove", draft)
    _ctr("snapshots", "prepare", draft, *([parent] if parent else []))
    mount = shlex.split(_ctr("snapshots", "mounts", "/mnt", draft))
    options = dict(option.partition("=")[::2] for option in mount[-1].split(","))
    # With a parent it is an overlay, whose upper folder takes the files; without, a bind mount of a folder.
    target = Path(options.get("upperdir") or mount[mount.index("bind") + 1])
    same_disk = target.stat().st_dev == layer.stat().st_dev
    how = "--link" if same_disk else "--reflink=auto"
    subprocess.run(["cp", "--archive", how, f"{layer}/.", str(target)], check=True)
    _ctr("snapshots", "commit", name, draft)


def _has_snapshot(name: str) -> bool:
    words = [*cluster_images.ctr(), "snapshots", "info", name]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def _archive(reference: str, config: bytes, layers: list[tuple[str, int]]) -> bytes:
    """An OCI archive of everything but the layers."""
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, config),
            "layers": [{"mediaType": _LAYER, "digest": digest, "size": size} for digest, size in layers],
        }
    ).encode()
    name = {"annotations": {"io.containerd.image.name": reference}}
    index = {"schemaVersion": 2, "manifests": [_descriptor(_MANIFEST, manifest) | name]}
    files = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps(index).encode(),
        **{f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}": blob for blob in (manifest, config)},
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _prune(newest: str) -> None:
    """Forget images that buildah no longer keeps; running pods hold on to what they use."""
    images = cluster_images.present()
    keep = kept(newest)
    old = {name for name in images if name.rpartition(":")[0] == newest.rpartition(":")[0]} - keep
    # The kubelet's interface names every image by its identity too.
    unused = {images[name] for name in old} - {images[name] for name in keep & images.keys()}
    identities = {name for name, digest in images.items() if name.startswith("sha256:") and digest in unused}
    if old:
        _ctr("images", "remove", *old, *identities)


def _ctr(*words: str, stdin: bytes | None = None) -> str:
    done = subprocess.run([*cluster_images.ctr(), *words], input=stdin, capture_output=True, check=False)
    if done.returncode:
        raise ClusterError(f"ctr {' '.join(words)}: {done.stderr.decode().strip()}")
    return done.stdout.decode()
