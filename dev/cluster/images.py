"""Images in the full cluster's containerd."""

import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from dev.cluster import build, node, oci, paths, shell
from dev.cluster.report import ClusterError, say, step

_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


def ctr() -> list[str]:
    """The command line that `ctr`'s own words follow, for the images that Kubernetes sees."""
    socket = node.containerd_socket(paths.full())
    return [str(build.path("ctr")), "--address", str(socket), "--namespace", "k8s.io"]


def present() -> dict[str, str]:
    """The manifest digest of each image by its name.

    Raises:
        ClusterError: the cluster is not up.
    """
    if not node.containerd_socket(paths.full()).exists():
        raise ClusterError("The full cluster is not running; start it with `python -m dev.cluster up`.")
    rows = [line.split() for line in shell.run(*ctr(), "images", "list").splitlines()[1:]]
    return {name: digest for name, _, digest, *_ in rows}


def load(source: Path) -> str:
    """Import an OCI archive or OCI layout folder, unless its image is already there.

    Returns:
        The image's name.

    Raises:
        ClusterError: it is neither, its image has no full name, or the cluster is not up.
    """
    name, digest = _identify(source)
    if present().get(name) == digest:
        say(f"image {name}: already there")
    else:
        with step(f"import image {name}"):
            _import(source)
    return name


def load_own() -> None:
    """Import the pause image, and a busybox for tests and for looking around."""
    busybox = shell.which("busybox")
    assert busybox is not None
    have = present()
    for name, command in ((oci.PAUSE_IMAGE, ["sleep", "infinity"]), (oci.BUSYBOX_IMAGE, ["sh"])):
        archive = paths.full() / "busybox.tar"
        archive.write_bytes(oci.busybox_archive(busybox, name, command))
        if have.get(name) != _identify(archive)[1]:
            _import(archive)
        archive.unlink()


def _identify(source: Path) -> tuple[str, str]:
    """Name and manifest digest of the one image in an archive or layout."""
    try:
        images: list[dict[str, Any]] = json.loads(_index(source))["manifests"]
    except (OSError, KeyError, ValueError, tarfile.TarError) as error:
        raise ClusterError(f"{source} is neither an OCI archive nor an OCI layout folder: {error}") from error
    annotations = images[0].get("annotations", {}) if len(images) == 1 else {}
    for name in (annotations.get(key, "") for key in _NAME_ANNOTATIONS):
        if "/" in name and ":" in name:
            return name, images[0]["digest"]
    raise ClusterError(f"{source} must hold one image that is named in full, such as localhost/mine:1.")


def _index(source: Path) -> bytes:
    if source.is_dir():
        return (source / "index.json").read_bytes()
    with tarfile.open(source) as archive:
        for member in archive:
            if member.name.removeprefix("./") == "index.json" and (file := archive.extractfile(member)):
                return file.read()
    raise KeyError("it has no index.json")


def _import(source: Path) -> None:
    # --local: ctr itself reads the archive. The transfer service would be sent it in small messages.
    command = [*ctr(), "images", "import", "--local"]
    if not source.is_dir():
        shell.run(*command, source)
        return
    with subprocess.Popen(
        ["tar", "--create", "--directory", str(source), "."], stdout=subprocess.PIPE
    ) as tar:
        done = subprocess.run([*command, "-"], stdin=tar.stdout, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"importing {source} failed: {done.stderr.strip()}")
