"""Stands in for `python:3.11-slim-bookworm` where no image registry can be reached: Debian's own Python."""

import hashlib
import subprocess
import tempfile
from pathlib import Path

from dev.cluster.report import ClusterError, step
from dev.images import store

_RECIPE = [
    "mmdebstrap",
    "--quiet",
    "--variant=minbase",
    "--include=ca-certificates,python3,python3-pip,python3-venv",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    # The official image calls them python and pip, and pip may install there.
    '--customize-hook=ln -s /usr/bin/python3 "$1/usr/local/bin/python"',
    '--customize-hook=ln -s /usr/bin/pip3 "$1/usr/local/bin/pip"',
    '--customize-hook=rm "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
    "bookworm",
]
# What the base image depends on: a part of the keys of the images above it, too.
KEY = hashlib.sha256("\n".join(_RECIPE).encode()).hexdigest()[:8]
IN_CLUSTER = "docker.io/library/python:3.11-slim-bookworm"
"""What manifests call it, so that an example runs here as it does where the real one can be pulled."""
_NAMES = ("localhost/python:3.11-slim-bookworm", f"localhost/kubetune/base:{KEY}")
REFERENCE = _NAMES[0]


def ensure() -> None:
    """Make the base image unless it is there.

    Raises:
        ClusterError: it cannot be made.
    """
    if all(store.exists(name) for name in _NAMES):
        return
    with (
        step("base image from Debian packages") as progress,
        tempfile.TemporaryDirectory(dir=store.temporary()) as folder,
    ):
        root = Path(folder) / "root.tar"
        if subprocess.run([*_RECIPE, str(root)], stdout=2, check=False).returncode:
            raise ClusterError("mmdebstrap failed: its last lines above say why.")
        (Path(folder) / "Dockerfile").write_text('FROM scratch\nADD root.tar /\nCMD ["python"]\n')
        tags = [f"--tag={name}" for name in _NAMES]
        store.run("bud", "--isolation=chroot", *tags, folder, progress=progress)
