"""Against a real S3-compatible server."""

import hashlib
import re
import uuid
from pathlib import Path

import pytest

from kubetune_trainer.data.read import files_of
from kubetune_trainer.errors import DataError, StorageError
from tests.fixtures.s3 import ACCESS, REGION, SECRET, Store, mounted
from tests.fixtures.web import File

LINES = b"".join(b'{"text": "line %d"}\n' % i for i in range(40_000))  # 0.9 MB


@pytest.fixture
def bucket(store: Store) -> str:
    return store.bucket()


TREE = {
    "corpus/web/a.jsonl": b'{"text": "a"}\n',
    "corpus/web/deep/b b+c&d=e.jsonl": b'{"text": "b"}\n',
    "corpus/books/c.txt": "sch\u00f6n".encode(),
    "corpus/books/d.xml": b"PAR1",
    "corpus/.hidden/e.txt": b"hidden",
    "corpus.txt": b"beside",
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/corpus/web/a.jsonl", ["corpus/web/a.jsonl"]),
        ("/corpus.txt", ["corpus.txt"]),
        ("/corpus", ["corpus/books/c.txt", "corpus/web/a.jsonl", "corpus/web/deep/b b+c&d=e.jsonl"]),
        ("/corpus/", ["corpus/books/c.txt", "corpus/web/a.jsonl", "corpus/web/deep/b b+c&d=e.jsonl"]),
        ("/corpus/web/*.jsonl", ["corpus/web/a.jsonl"]),
        ("/corpus/**/*.jsonl", ["corpus/web/a.jsonl", "corpus/web/deep/b b+c&d=e.jsonl"]),
        ("/corpus/w*", ["corpus/web/a.jsonl", "corpus/web/deep/b b+c&d=e.jsonl"]),
        ("", ["corpus/books/c.txt", "corpus/web/a.jsonl", "corpus/web/deep/b b+c&d=e.jsonl", "corpus.txt"]),
    ],
)
def test_an_object_a_prefix_and_patterns(pod, store, bucket, tmp_path, path: str, expected: list[str]):
    for key, content in TREE.items():
        store.put(f"{bucket}/{key}", content)
    source = pod.source(f"s3://{bucket}{path}", store.secret(tmp_path / "s3"))
    shown = pod.bring(source)
    found = files_of(source)
    assert [f.relative_to(source.root).as_posix() for f in found] == expected
    assert [f.read_bytes() for f in found] == [TREE[key] for key in expected]
    assert shown["downloadedBytes"] == str(sum(len(TREE[key]) for key in expected)), "nothing else"


def test_more_objects_than_a_page_lists(pod, store, bucket, tmp_path: Path):
    for n in range(1005):
        store.put(f"{bucket}/many/{n:04}.txt", str(n).encode())
    source = pod.source(f"s3://{bucket}/many", store.secret(tmp_path / "s3"))
    pod.bring(source)
    assert [f.read_text() for f in files_of(source)] == [str(n) for n in range(1005)]


def test_a_broken_connection_is_taken_up_where_it_broke(pod, store, bucket, tmp_path: Path, capsys):
    store.put(f"{bucket}/a.jsonl", LINES)
    secret = store.secret(tmp_path / "s3")
    store.wire.cuts = [10_000, 300_000]  # HEAD, or HEAD and GET on one connection, then another
    assert len(pod.texts(f"s3://{bucket}/a.jsonl", secret)) == 40_000
    assert "try 2 of 6" in capsys.readouterr().out
    assert store.wire.answered < len(LINES) + 100_000


def test_an_object_that_changes_is_another_entry_of_the_cache(new_pod, store, bucket, tmp_path: Path):
    secret = store.secret(tmp_path / "s3")
    for content in ("old", "old", "new"):
        store.put(f"{bucket}/a.txt", content.encode())
        assert new_pod(uuid.uuid4().hex).texts(f"s3://{bucket}/a.txt", secret) == [content]
    assert len([p for p in (tmp_path / "cache").iterdir() if not p.name.startswith(".")]) == 2


def test_an_upload_in_parts(pod, store, bucket, tmp_path: Path):
    """Its ETag is no MD5 of the content."""
    path = f"{bucket}/big.txt"
    _, answer = store.put(path, method="POST", query="?uploads=")
    found = re.search(rb"<UploadId>(.+)</UploadId>", answer)
    assert found
    upload = found[1].decode()
    parts = [b"x" * (5 << 20), b"y"]
    etags = [
        store.put(path, part, query=f"?partNumber={n}&uploadId={upload}")[0]
        for n, part in enumerate(parts, 1)
    ]
    listed = "".join(
        f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n, etag in enumerate(etags, 1)
    )
    body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
    store.put(path, body, method="POST", query=f"?uploadId={upload}")
    source = pod.source(f"s3://{path}", store.secret(tmp_path / "s3"))
    pod.bring(source)
    assert Path(source.path).read_bytes() == b"".join(parts)


def test_what_arrives_damaged(pod, store, bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    etag, _ = store.put(f"{bucket}/a.txt", b"text")
    assert etag.strip('"') == hashlib.md5(b"text").hexdigest()
    monkeypatch.setattr("kubetune_trainer.sources.download._hash", lambda *_: "0" * 32)
    with pytest.raises(StorageError, match="another checksum than the server tells"):
        pod.texts(f"s3://{bucket}/a.txt", store.secret(tmp_path / "s3"))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"AWS_ACCESS_KEY_ID": "nobody"},
            r"refuses the credentials \(InvalidAccessKeyId\): correct Secret s3",
        ),
        (
            {"AWS_SECRET_ACCESS_KEY": "wr0ng-s3cret"},
            r"refuses the credentials \(SignatureDoesNotMatch\): correct Secret s3",
        ),
        ({"AWS_SECRET_ACCESS_KEY": None}, "Secret s3 has AWS_ACCESS_KEY_ID but no key AWS_SECRET_ACCESS_KEY"),
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            r"forbids it \(AccessDenied\): name a Secret with credentials",
        ),
        ({"AWS_ENDPOINT_URL": "http://169.254.169.254"}, "a cloud's metadata service"),
    ],
)
@pytest.mark.parametrize("path", ["/a.txt", "/*.txt"])
def test_bad_credentials(pod, store, bucket, tmp_path: Path, path, changes, text: str, capfd):
    store.put(f"{bucket}/a.txt", b"text")
    with pytest.raises(DataError, match=text) as caught:
        pod.texts(f"s3://{bucket}{path}", store.secret(tmp_path / "s3", **changes))
    shown = str(caught.value) + "".join(capfd.readouterr())
    assert "wr0ng" not in shown
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("s3://{bucket}/none.jsonl", "source data: s3://.*/none.jsonl: nothing is there"),
        ("s3://{bucket}/none/*.jsonl", "nothing is there"),
        ("s3://{bucket}/a.xml", "must end in"),
        ("s3://no-such-bucket-here/a.txt", "there is no bucket no-such-bucket-here: correct the uri"),
    ],
)
def test_what_is_not_there(pod, store, bucket, tmp_path: Path, uri: str, text: str):
    store.put(f"{bucket}/a.xml", b"x")
    with pytest.raises(DataError, match=text):
        pod.texts(uri.format(bucket=bucket), store.secret(tmp_path / "s3"))


def test_the_region_that_the_store_names(pod, store, bucket, tmp_path: Path):
    """Signed for another region at first: AWS tells the bucket's own, and so does this server."""
    store.put(f"{bucket}/a.txt", b"text")
    secret = store.secret(tmp_path / "s3", AWS_REGION=None)
    assert REGION != "us-east-1"
    assert pod.texts(f"s3://{bucket}/a.txt", secret) == ["text"]


def test_credentials_of_the_environment(pod, store, bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As workload identity, or the user in podTemplate.env, provides them."""
    store.put(f"{bucket}/a.txt", b"text")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
    assert pod.texts(f"s3://{bucket}/a.txt") == ["text"]


def test_a_server_that_does_not_speak_s3(pod, web, secret: Path):
    web.files["/bucket/"] = File(b"hello")
    mounted(secret, AWS_ENDPOINT_URL=web.url)
    with pytest.raises(DataError, match="does not speak S3: correct AWS_ENDPOINT_URL in Secret web-secret"):
        pod.texts("s3://bucket", secret)


def test_no_redirect_is_followed(pod, web, secret: Path):
    """A signature is for one host."""
    web.redirects["/bucket/"] = "https://localhost:9/bucket/"
    mounted(secret, AWS_ENDPOINT_URL=web.url)
    with pytest.raises(DataError, match="HTTP 302"):
        pod.texts("s3://bucket", secret)
