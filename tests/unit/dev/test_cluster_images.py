"""Archives that we write are read back, and wrong ones are refused in words."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from dev.cluster import images, oci
from dev.cluster.report import ClusterError


def test_an_archive_is_reproducible_and_every_blob_has_its_digest(tmp_path: Path) -> None:
    program = tmp_path / "busybox"
    program.write_bytes(b"not really")
    archive = oci.busybox_archive(program, "localhost/some:1", ["sh"])
    assert archive == oci.busybox_archive(program, "localhost/some:1", ["sh"])
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        blobs = [member for member in tar if member.name.startswith("blobs/")]
        assert len(blobs) == 3
        for member in blobs:
            content = tar.extractfile(member)
            assert content is not None
            assert hashlib.sha256(content.read()).hexdigest() == Path(member.name).name


def test_name_and_digest_are_read_from_archive_and_layout_alike(tmp_path: Path) -> None:
    program = tmp_path / "busybox"
    program.write_bytes(b"not really")
    archive = tmp_path / "image.tar"
    archive.write_bytes(oci.busybox_archive(program, "localhost/some:1", ["sh"]))
    layout = tmp_path / "layout"
    with tarfile.open(archive) as tar:
        tar.extractall(layout, filter="data")
    assert images._identify(archive) == images._identify(layout)
    assert images._identify(archive)[0] == "localhost/some:1"


@pytest.mark.parametrize(
    ("index", "complaint"),
    [
        ({"manifests": []}, "must hold one image"),
        ({"manifests": [{"digest": "sha256:0"}]}, "named in full"),
        (
            {
                "manifests": [
                    {"digest": "sha256:0", "annotations": {"org.opencontainers.image.ref.name": "1"}}
                ]
            },
            "named in full",
        ),
        ({"manifests": [{"digest": "sha256:0"}] * 2}, "must hold one image"),
        ({}, "neither an OCI archive nor an OCI layout"),
    ],
)
def test_a_layout_without_one_named_image_is_refused(tmp_path: Path, index: object, complaint: str) -> None:
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ClusterError, match=complaint):
        images._identify(tmp_path)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"text"):
        file = tmp_path / "file"
        file.write_bytes(content)
        with pytest.raises(ClusterError, match="neither an OCI archive nor an OCI layout"):
            images._identify(file)
    with pytest.raises(ClusterError, match="neither an OCI archive nor an OCI layout"):
        images._identify(tmp_path / "missing")
