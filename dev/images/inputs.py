"""What each image is built from; its tag is a hash of that."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from dev.cluster.paths import REPOSITORY
from dev.images import base

UV_CACHE = "/var/cache/uv"


@dataclass(frozen=True)
class Image:
    """An image: the files that decide its dependencies' layer, and the folders of its code."""

    name: str
    dockerfile: str
    pins: tuple[str, ...]
    code: tuple[str, ...]
    arguments: dict[str, str] = field(default_factory=dict)

    @property
    def repository(self) -> str:
        """The reference without its tag."""
        return f"localhost/kubetune/{self.name}"

    @property
    def reference(self) -> str:
        """Repository and tag, of the checkout as it is now."""
        return Inputs(self).reference


IMAGES = {
    image.name: image
    for image in (
        Image(
            "operator",
            "operator/Dockerfile",
            ("dev/constraints/build.txt", "dev/constraints/operator.txt"),
            ("operator/kubetune",),
        ),
        # Trainer and engine agree on every pin: one image of 6 GB serves both.
        Image(
            "trainer",
            "trainer_image/Dockerfile",
            ("dev/constraints/build.txt", "dev/constraints/engine.txt"),
            ("operator/kubetune", "trainer_image/kubetune_trainer"),
            {"DEPENDENCIES": "engine", "UV_CACHE_DIR": UV_CACHE},
        ),
    )
}


class Inputs:
    """What an image is built from, read once: what is hashed is what is built, whoever edits meanwhile."""

    def __init__(self, image: Image) -> None:
        dependencies = _read(image.dockerfile, *image.pins)
        code = _read("pyproject.toml", "LICENSE", *image.code)
        self.files = dependencies | code
        self.reference = f"{image.repository}:{_hash(dependencies, base.KEY)}-{_hash(code)}"

    def write(self, folder: Path) -> None:
        """Write a build context, with the same file modes whatever this machine's umask."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o644)


def _read(*names: str) -> dict[str, bytes]:
    paths = [path for name in names for path in _files(REPOSITORY / name)]
    return {str(path.relative_to(REPOSITORY)): path.read_bytes() for path in paths}


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _hash(files: dict[str, bytes], salt: str = "") -> str:
    digest = hashlib.sha256(salt.encode())
    for name, content in files.items():
        digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()[:8]
