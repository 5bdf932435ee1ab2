"""Against a real TLS server with an authority of its own."""

import base64
import gc
import hashlib
import threading
import time
from pathlib import Path

import pytest

from kubetune_trainer.errors import DataError, StorageError, Terminated
from kubetune_trainer.signals import Stop
from kubetune_trainer.sources import client, localize
from tests.fixtures.runs import source, write_jsonl
from tests.fixtures.s3 import mounted
from tests.fixtures.web import AUTHORITY, File, FileServer, certificate, server_tls

LINES = b"".join(b'{"text": "line %d"}\n' % i for i in range(40_000))  # 0.9 MB
COUNT = 40_000


def test_a_file_is_read_where_a_mounted_one_would_be(pod, web, secret: Path):
    web.files["/my corpus/a.jsonl"] = File(LINES)
    source = pod.source(f"{web.url}/my corpus/a.jsonl", secret)
    assert source.path.endswith("/links/data/a.jsonl")
    shown = pod.bring(source)
    assert Path(source.path).read_bytes() == LINES
    assert shown["downloadedBytes"] == shown["totalBytes"] == str(len(LINES))
    assert web.sent("/my corpus/a.jsonl") == len(LINES) + 1, "one byte tells version and size"


@pytest.mark.parametrize(
    "file", [File(b""), File(b"x"), File(b"", etag=None), File(b"text", chunked=True, ranges=False)]
)
def test_odd_sizes(pod, web, secret: Path, file: File):
    web.files["/a.txt"] = file
    assert pod.texts(f"{web.url}/a.txt", secret) == [file.content.decode()]


def test_the_cache_is_used_until_the_file_changes(new_pod, web, secret: Path):
    web.files["/a.txt"] = File(b"old")
    assert [new_pod(name).texts(f"{web.url}/a.txt", secret) for name in "ab"] == [["old"], ["old"]]
    assert web.sent("/a.txt") == len("old") + 2
    web.files["/a.txt"] = File(b"new", etag='"v2"')
    assert new_pod("c").texts(f"{web.url}/a.txt", secret) == ["new"]


def test_without_a_version_it_is_fetched_each_time(new_pod, web, secret: Path):
    for content in (b"old", b"new"):
        web.files["/a.txt"] = File(content, etag=None)
        assert new_pod(content.decode()).texts(f"{web.url}/a.txt", secret) == [content.decode()]


@pytest.mark.parametrize(
    ("version", "validator"),
    [
        ({}, '"v1"'),
        ({"etag": None, "modified": "Sat, 14 Nov 2026 10:00:00 GMT"}, "Sat, 14 Nov 2026 10:00:00 GMT"),
        ({"etag": 'W/"weak"'}, None),
    ],
)
def test_a_broken_connection_is_taken_up_where_it_broke(
    pod, web, secret: Path, version: dict, validator: str | None
):
    web.files["/a.jsonl"] = File(LINES, faults=["fine", "cut 300000", "cut 300000"], **version)
    assert len(pod.texts(f"{web.url}/a.jsonl", secret)) == COUNT
    first, second, third = [a.headers for a in web.asked[1:]]
    assert "Range" not in first
    starts = [int(h["Range"].removeprefix("bytes=").removesuffix("-")) for h in (second, third)]
    assert 0 < starts[0] <= 300_000 < starts[1] <= 600_000
    assert second.get("If-Range") == validator
    assert web.sent("/a.jsonl") <= len(LINES) + 1 + 600_000 - starts[1]


def test_a_server_without_ranges_begins_anew(pod, web, secret: Path):
    web.files["/a.jsonl"] = File(LINES, ranges=False, faults=["fine", "cut 300000"])
    assert len(pod.texts(f"{web.url}/a.jsonl", secret)) == COUNT


def test_answers_that_pass(pod, web, secret: Path, capsys):
    faults = ["status 503", "fine", "status 429", "status 500", "cut 1000", "status 502"]
    web.files["/a.jsonl"] = File(LINES, faults=faults)
    assert len(pod.texts(f"{web.url}/a.jsonl", secret)) == COUNT
    assert "HTTP 503 from localhost; try 2 of 6" in capsys.readouterr().out


def test_a_silent_server(pod, web, secret: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "SILENCE_SECONDS", 0.2)
    web.files["/a.txt"] = File(b"text", faults=["silent", "fine", "silent"])
    assert pod.texts(f"{web.url}/a.txt", secret) == ["text"]


@pytest.mark.parametrize(
    ("faults", "text"),
    [
        (["status 503"] * 6, "HTTP 503 from localhost, 6 times in a row"),
        (["fine", *["status 500"] * 6], "HTTP 500 from localhost, 6 times"),
        # Never a byte further, without a version to go on by.
        (["fine", *["cut 1000"] * 6], "6 times in a row: check the server"),
    ],
)
def test_what_does_not_pass_is_a_storage_error(pod, web, secret: Path, faults: list[str], text: str):
    web.files["/a.jsonl"] = File(LINES, etag=None, faults=faults)
    with pytest.raises(StorageError, match=text):
        pod.texts(f"{web.url}/a.jsonl", secret)


def test_nobody_listens(pod, secret: Path):
    with pytest.raises(StorageError, match="localhost cannot be reached"):
        pod.texts("https://localhost:9/a.jsonl", secret)
    with pytest.raises(StorageError, match=r"the name nowhere.invalid cannot be resolved"):
        pod.texts("https://nowhere.invalid/a.jsonl", secret)


def test_a_file_that_changes_meanwhile_is_begun_anew(pod, web, secret: Path, capsys):
    file = web.files["/a.jsonl"] = File(LINES, faults=["fine", "cut 300000"])
    later = File(LINES.replace(b"line", b"LINE"), etag='"v2"')

    def change() -> None:
        while not any(a.sent >= 250_000 for a in web.asked):
            time.sleep(0.001)
        web.files["/a.jsonl"] = later

    thread = threading.Thread(target=change)
    thread.start()
    file.pause = 0.02
    texts = pod.texts(f"{web.url}/a.jsonl", secret)
    thread.join()
    assert texts[0] == "LINE 0", "no mixture of two versions"
    assert texts[-1] == f"LINE {COUNT - 1}"
    assert "changed while it was downloaded" in capsys.readouterr().out


def test_a_file_that_changes_each_time(pod, web, secret: Path, monkeypatch: pytest.MonkeyPatch):
    versions = iter(range(100))

    class Restless(File):
        etag = property(lambda self: f'"{next(versions)}"', lambda self, value: None)  # type: ignore[assignment]

    web.files["/a.txt"] = Restless(b"text")
    with pytest.raises(StorageError, match="changed 3 times while it was downloaded"):
        pod.texts(f"{web.url}/a.txt", secret)


def test_what_arrives_damaged_is_fetched_once_more(pod, web, secret: Path):
    digest = base64.b64encode(hashlib.sha256(b"text").digest()).decode()
    web.files["/a.txt"] = File(b"test", headers={"Repr-Digest": f"sha-256=:{digest}:"})
    with pytest.raises(StorageError, match="another checksum than the server tells, twice"):
        pod.texts(f"{web.url}/a.txt", secret)
    web.files["/a.txt"] = File(b"text", headers={"Repr-Digest": f"sha-256=:{digest}:"}, etag='"v2"')
    assert pod.texts(f"{web.url}/a.txt", secret) == ["text"]


def test_the_certificate_must_be_trusted(pod, web, tmp_path: Path):
    web.files["/a.txt"] = File(b"text")
    with pytest.raises(
        DataError, match=r"the certificate of localhost is not trusted .* into key ca.crt of a Secret"
    ):
        pod.texts(f"{web.url}/a.txt")
    other = mounted(tmp_path / "other", **{"ca.crt": certificate().authority})
    with pytest.raises(DataError, match="is not trusted"):
        pod.texts(f"{web.url}/a.txt", other)
    none = mounted(tmp_path / "none", **{"ca.crt": "no PEM"})
    with pytest.raises(DataError, match=r"ca\.crt of Secret none holds no PEM certificates"):
        pod.texts(f"{web.url}/a.txt", none)


TOKEN, BASIC = {"token": "t0p-s3cret"}, {"username": "me", "password": "t0p-s3cret"}


@pytest.mark.parametrize(
    ("keys", "authorization"),
    [(TOKEN, "Bearer t0p-s3cret"), (BASIC, "Basic " + base64.b64encode(b"me:t0p-s3cret").decode())],
)
def test_credentials(pod, web, secret: Path, keys: dict[str, str], authorization: str):
    web.files["/a.txt"] = File(b"text", authorization=authorization)
    assert pod.texts(f"{web.url}/a.txt", mounted(secret, **{k: v + "\n" for k, v in keys.items()})) == [
        "text"
    ]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (
            {},
            "refuses the credentials: correct Secret web-secret",
        ),
        ({"token": "wr0ng-s3cret"}, "forbids it: let the credentials of Secret web-secret read it"),
        ({"username": "me"}, "Secret web-secret has username but no key password: add it"),
        ({"token": "two\nwr0ng-s3cret"}, "key token of Secret web-secret must be one line"),
        ({"token": ""}, "key token of Secret web-secret must be one line"),
    ],
)
def test_bad_credentials_are_named_and_never_shown(pod, web, secret: Path, keys, text: str, capfd):
    web.files["/a.txt"] = File(b"text", authorization="Bearer right")
    with pytest.raises(DataError, match=text) as caught:
        pod.texts(f"{web.url}/a.txt", mounted(secret, **keys))
    assert "wr0ng" not in str(caught.value) + "".join(capfd.readouterr())


def test_a_secret_with_nothing_of_use(pod, web, tmp_path: Path):
    wrong = mounted(tmp_path / "wrong", TOKEN="x")
    with pytest.raises(DataError, match=r"Secret wrong has none of the keys token, username, ca.crt"):
        pod.texts(f"{web.url}/a.txt", wrong)


@pytest.mark.parametrize(
    ("path", "file", "text"),
    [
        ("/none.jsonl", None, r"source data: https://localhost:\d+/none.jsonl: nothing is there \(HTTP 404"),
        ("/a.xml", File(b""), "a.xml must end in .jsonl, .json, .csv, .tsv, .txt or .parquet"),
        ("/a.jsonl", File(b"x", headers={"Content-Type": "text/html"}), "a web page, such as a login form"),
        ("/a.jsonl", File(b"x", headers={"Content-Encoding": "gzip"}), "sends it compressed"),
        ("/a.jsonl", File(b"", faults=["status 418"]), "HTTP 418"),
    ],
)
def test_what_is_of_no_use(pod, web, secret: Path, path: str, file: File | None, text: str):
    if file:
        web.files[path] = file
    with pytest.raises(DataError, match=text):
        pod.texts(web.url + path, secret)


def test_redirects_are_followed_without_the_credentials(pod, web, secret: Path, tmp_path: Path):
    """Even when they lead back."""
    with FileServer(server_tls(AUTHORITY, tmp_path / "other")) as other:
        web.redirects |= {"/a.txt": "/b.txt", "/b.txt": f"{other.url}/c.txt"}
        other.redirects["/c.txt"] = f"{web.url}/d.txt"
        web.files["/d.txt"] = File(b"text")
        assert pod.texts(f"{web.url}/a.txt", mounted(secret, **TOKEN)) == ["text"]
        sent = {a.path: a.headers.get("Authorization") for a in [*web.asked, *other.asked]}
    bearer = "Bearer t0p-s3cret"
    assert sent == {"/a.txt": bearer, "/b.txt": bearer, "/c.txt": None, "/d.txt": None}


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("http://localhost:9/a.txt", "redirects from https to http"),
        ("ftp://localhost/a.txt", "redirects from https to ftp"),
        ("https://me:pass@localhost/a.txt", "what is no plain address"),
        ("/a.txt", "more than 5 redirects"),
    ],
)
def test_redirects_that_are_not_followed(pod, web, secret: Path, target: str, text: str):
    web.redirects["/a.txt"] = target
    with pytest.raises(DataError, match=text):
        pod.texts(f"{web.url}/a.txt", secret)


@pytest.mark.parametrize("seconds", [0.15, 0.3, 0.5])
def test_asked_to_stop_while_the_server_is_silent(pod, web, secret: Path, seconds: float):
    web.files["/a.jsonl"] = File(LINES, faults=["fine", "silent"])
    stop = Stop()
    threading.Timer(seconds, lambda: setattr(stop, "requested", True)).start()
    began = time.monotonic()
    with pytest.raises(Terminated):
        pod.bring(pod.source(f"{web.url}/a.jsonl", secret), stop=stop)
    assert time.monotonic() - began < 5
    gc.collect()  # a connection that is left open is found by this


def test_progress_while_it_comes(pod, web, secret: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr("kubetune_trainer.sources.meter.LOG_SECONDS", 0.0)
    monkeypatch.setattr("kubetune_trainer.sources.download.CHUNK", 1 << 16)
    seen: list[dict] = []
    monkeypatch.setattr(
        "kubetune_trainer.progress.Progress.update", lambda self, **numbers: seen.append(numbers)
    )
    web.files["/a.jsonl"] = File(LINES)
    pod.bring(pod.source(f"{web.url}/a.jsonl", secret))
    done = [n["downloadedBytes"] for n in seen]
    assert done == sorted(done)
    assert len(set(done)) > 3
    assert {n["percentage"] for n in seen} == {0}
    assert {n["totalBytes"] for n in seen} == {len(LINES)}
    out = capsys.readouterr().out
    assert "download bytes=" in out
    assert f"downloaded bytes={len(LINES):,} fetched={len(LINES):,}" in out


def test_no_room(pod, web, secret: Path, monkeypatch: pytest.MonkeyPatch):
    web.files["/a.jsonl"] = File(LINES)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("kubetune_trainer.sources.cache.shutil.disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match=r"has 1,000 bytes free, and .* more are needed: name a claim"):
        pod.bring(pod.source(f"{web.url}/a.jsonl", secret))


def test_nothing_remote_does_nothing(pod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(localize.asyncio, "run", None)
    assert pod.bring(source(write_jsonl(tmp_path / "x.jsonl", ["text"]))) == {}
    assert pod.bring(pod.source("https://nowhere.invalid/a.jsonl", weight=0)) == {}, "it is not read"
