"""buildah with a store of its own in the cache folder: the user's own images are never touched."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dev.cluster import paths
from dev.cluster.report import ClusterError, Step, say

_MOST_CACHED = 200
_WIDTH = 80  # of a progress line


def folder() -> Path:
    """Everything that belongs to image building."""
    return paths.cache() / "images"


def argv(*words: str) -> list[str]:
    """A buildah command line."""
    root = str(folder() / "store")
    # What is mounted is forgotten at a reboot, so it is recorded where a reboot forgets too.
    run = f"/run/kubetune/images-{hashlib.sha256(root.encode()).hexdigest()[:8]}"
    # Without a mount of its own over the store, its files can be hard-linked to from outside.
    return [
        "buildah",
        "--root",
        root,
        "--runroot",
        run,
        "--storage-opt",
        "overlay.skip_mount_home=true",
        *words,
    ]


def temporary() -> Path:
    """For files that a build needs while it lasts."""
    path = folder() / "tmp"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _environment() -> dict[str, str]:
    return os.environ | {"TMPDIR": str(temporary())}


def run(*words: str, progress: Step) -> None:
    """Run buildah; its latest line shows how far it is.

    Raises:
        ClusterError: it failed; carries its last lines.
    """
    last = deque[str](maxlen=20)
    with subprocess.Popen(
        argv(*words), env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            last.append(line.rstrip())
            progress.note(line.strip()[:_WIDTH])
    if process.returncode:
        raise ClusterError("\n".join([*last, f"buildah {words[0]} failed: the lines above say why."]))


def output(*words: str) -> str:
    """Run buildah and return what it prints.

    Raises:
        ClusterError: it failed; carries its message.
    """
    done = subprocess.run(argv(*words), env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"buildah {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def exists(reference: str) -> bool:
    """Whether the store has an image of this name."""
    words = argv("inspect", "--type", "image", reference)
    return subprocess.run(words, env=_environment(), capture_output=True, check=False).returncode == 0


def inspect(reference: str, field: str) -> Any:
    """A JSON document of an image: its `Manifest` or its `Config`."""
    return json.loads(output("inspect", "--type", "image", "--format", f"{{{{.{field}}}}}", reference))


def tags(repository: str) -> list[str]:
    """References of a repository's images, newest first."""
    listing = json.loads(output("images", "--json", "--no-trunc") or "null") or []
    dated = [(image["created"], name) for image in listing for name in image["names"] or []]
    return [name for _, name in sorted(dated, reverse=True) if name.rpartition(":")[0] == repository]


def remove(references: list[str]) -> None:
    """Remove images. Layers without a name are build caches: they go once there are many."""
    if references:
        output("rmi", *references)
    if len(output("images", "--all", "--quiet", "--filter", "dangling=true").split()) > _MOST_CACHED:
        output("rmi", "--prune")


def clean() -> None:
    """Remove what an interrupted build left behind. Only under the lock."""
    output("rm", "--all")
    shutil.rmtree(temporary())


@contextmanager
def layers(reference: str) -> Iterator[list[Path]]:
    """Folders of an image's layers, lowest first, as overlayfs takes them (whiteouts included)."""
    container = output("from", "--pull-never", reference).strip()
    try:
        mounted = output("mount", container).strip()
        options = next(
            line.split()[3]
            for line in Path("/proc/self/mounts").read_text().splitlines()
            if line.split()[1] == mounted
        )
        lower = next(o.removeprefix("lowerdir=") for o in options.split(",") if o.startswith("lowerdir="))
        yield [Path(path).resolve() for path in reversed(lower.split(":"))]
    finally:
        output("rm", container)


@contextmanager
def lock() -> Iterator[None]:
    """One build at a time on this machine."""
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build of images to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
