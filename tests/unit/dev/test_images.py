"""Tags of images say what they are built from."""

import io
import json
import stat
import tarfile
from hashlib import sha256

import pytest

from dev.images import inputs as inputs_module
from dev.images.inputs import IMAGES, Inputs
from dev.images.load import _archive

pytestmark = pytest.mark.unit


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small checkout with all the files that images are built from."""
    files = {name for image in IMAGES.values() for name in (image.dockerfile, *image.pins)}
    files |= {f"{folder}/module.py" for image in IMAGES.values() for folder in image.code}
    for name in files | {"pyproject.toml", "LICENSE"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(inputs_module, "REPOSITORY", tmp_path)
    return tmp_path


def tags():
    return {name: image.reference.rpartition(":")[2].split("-") for name, image in IMAGES.items()}


@pytest.mark.parametrize(
    ("changed", "moved"),
    [
        ("trainer_image/kubetune_trainer/module.py", {("trainer", "code")}),
        ("operator/kubetune/module.py", {("trainer", "code"), ("operator", "code")}),
        ("operator/kubetune/sub/new.py", {("trainer", "code"), ("operator", "code")}),
        ("dev/constraints/engine.txt", {("trainer", "dependencies")}),
        ("dev/constraints/operator.txt", {("operator", "dependencies")}),
        ("operator/Dockerfile", {("operator", "dependencies")}),
        ("operator/kubetune/__pycache__/module.pyc", set()),
        ("README.md", set()),
    ],
)
def test_a_change_moves_only_the_tags_that_it_concerns(checkout, changed, moved):
    before = tags()
    (checkout / changed).parent.mkdir(exist_ok=True)
    (checkout / changed).write_text("changed")
    after = tags()
    parts = [(name, i, part) for name in IMAGES for i, part in enumerate(("dependencies", "code"))]
    assert {(name, part) for name, i, part in parts if before[name][i] != after[name][i]} == moved


def test_the_context_is_what_was_hashed_whatever_happens_meanwhile(checkout, tmp_path_factory):
    inputs = Inputs(IMAGES["operator"])
    (checkout / "operator/kubetune/module.py").write_text("edited during the build")
    context = tmp_path_factory.mktemp("context")
    inputs.write(context)
    module = context / "operator/kubetune/module.py"
    assert module.read_text() == "operator/kubetune/module.py"
    assert stat.S_IMODE(module.stat().st_mode) == 0o644
    assert not (context / "trainer_image").exists()


def test_an_archive_without_layers_names_each_blob_by_its_digest():
    data = _archive("localhost/x:1", b'{"os": "linux"}', [("sha256:" + "0" * 64, 7)])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    entry = json.loads(files["index.json"])["manifests"][0]
    assert entry["annotations"]["io.containerd.image.name"] == "localhost/x:1"
    manifest = files["blobs/sha256/" + entry["digest"].removeprefix("sha256:")]
    config = json.loads(manifest)["config"]
    blob = files["blobs/sha256/" + config["digest"].removeprefix("sha256:")]
    assert blob == b'{"os": "linux"}'
    assert config["size"] == len(blob)
    assert "sha256:" + sha256(manifest).hexdigest() == entry["digest"]
