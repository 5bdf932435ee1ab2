"""Whole runs on remote sources: killed in the middle of a download, and two that share a cache."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubetune.api.exitcodes import Reason
from kubetune.api.runspec import RunCache, RunModel, RunSecret, RunSource, RunSpec
from kubetune.api.uris import inner_path
from tests.fixtures.runs import finetune_spec, pairs, pretrain_spec, sentences, write_jsonl
from tests.fixtures.s3 import Store, mounted
from tests.fixtures.web import AUTHORITY, File, FileServer, Hub, server_tls
from tests.trainer.conftest import Process, Run

SLACK = 8 << 20
"""What lies in the buffers of sockets when a process is killed."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[FileServer]:
    with FileServer(server_tls(AUTHORITY, tmp_path / "tls")) as server:
        yield server


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    return mounted(tmp_path / "authority", **{"ca.crt": AUTHORITY.authority})


def remote(pod: Path, uri: str, secret: Path, form: str = "text", name: str = "data") -> RunSource:
    root = pod / "links" / name
    return RunSource(
        name=name, uri=uri, root=str(root), path=f"{root}/{inner_path(uri)}", format=form,
        secret=RunSecret(name=secret.name, path=str(secret)),
    )  # fmt: skip


def run_of(tmp: Path, source: RunSource) -> RunSpec:
    return pretrain_spec(tmp / "out", source, cache=RunCache(path=str(tmp / "cache")))


def large(tmp: Path, size: int) -> bytes:
    """A corpus of which most is one long text that is cut to few tokens."""
    lines = write_jsonl(tmp / "x.jsonl", list(sentences(150))).read_bytes()
    return lines + b" " * (size - len(lines) - 1) + b"\n"


def parts(tmp: Path) -> list[Path]:
    return [p for p in (tmp / "cache").glob(".*.partial/parts/*") if p.stat().st_size]


def wait_for_part(tmp: Path, process: Process, size: int) -> None:
    deadline = time.monotonic() + 120
    while not any(p.stat().st_size >= size for p in parts(tmp)):
        assert process.process.is_alive(), process.out
        assert time.monotonic() < deadline, process.out
        time.sleep(0.01)


def test_killed_then_terminated_in_a_download(web: FileServer, authority: Path, tmp_path: Path):
    """SIGKILL, then SIGTERM, then to the end: no byte that arrived is asked for again."""
    size = 30 << 20
    content = large(tmp_path, size)
    web.files["/a.jsonl"] = File(content, pause=0.01)
    spec = run_of(tmp_path, remote(tmp_path, f"{web.url}/a.jsonl", authority))

    process = Process(spec, tmp_path)
    wait_for_part(tmp_path, process, 4 << 20)
    process.signal(signal.SIGKILL)
    assert process.end() == -signal.SIGKILL
    [part] = parts(tmp_path)
    kept = part.stat().st_size

    process = Process(spec, tmp_path)
    wait_for_part(tmp_path, process, kept + (4 << 20))
    process.signal(signal.SIGTERM)
    asked = time.monotonic()
    assert process.end() == 143, process.out
    assert time.monotonic() - asked < 10
    assert process.message.reason is Reason.TERMINATED
    status = process.message.trainer_status
    assert status
    assert status.progress_percentage == 0
    shown = {m.name: int(m.value) for m in status.metrics}
    [part] = parts(tmp_path)
    assert shown == {"downloadedBytes": part.stat().st_size, "totalBytes": size}
    kept_then = part.stat().st_size

    web.files["/a.jsonl"].pause = 0.0
    process = Process(spec, tmp_path)
    assert process.end() == 0, process.out
    bodies = [a for a in web.asked if a.headers.get("Range") != "bytes=0-0"]
    starts = [a.headers.get("Range") for a in bodies]
    assert starts == [None, f"bytes={kept}-", f"bytes={kept_then}-"]
    assert bodies[2].sent == size - kept_then
    assert web.sent("/a.jsonl") <= size + 2 * SLACK
    assert parts(tmp_path) == []


def test_killed_in_a_download_from_a_bucket(store: Store, tmp_path: Path):
    size = 30 << 20
    bucket = store.bucket()
    store.put(f"{bucket}/a.jsonl", large(tmp_path, size))
    spec = run_of(tmp_path, remote(tmp_path, f"s3://{bucket}/a.jsonl", store.secret(tmp_path / "s3")))
    store.wire.pause = 0.01
    process = Process(spec, tmp_path)
    wait_for_part(tmp_path, process, 8 << 20)
    process.signal(signal.SIGKILL)
    process.end()
    [part] = parts(tmp_path)
    kept = part.stat().st_size
    store.wire.pause, store.wire.answered = 0.0, 0
    process = Process(spec, tmp_path)
    assert process.end() == 0, process.out
    assert size - kept <= store.wire.answered <= size - kept + 10_000


@pytest.mark.parametrize("kill", [False, True])
def test_two_runs_that_share_a_cache_download_once(
    web: FileServer, authority: Path, tmp_path: Path, kill: bool
):
    """Should the one that downloads be killed, the one that waits goes on where it was."""
    size = 10 << 20
    web.files["/a.jsonl"] = File(large(tmp_path, size), pause=0.1)
    one, two = (
        pretrain_spec(
            tmp_path / name / "out",
            remote(tmp_path / name, f"{web.url}/a.jsonl", authority),
            cache=RunCache(path=str(tmp_path / "cache")),
        )
        for name in ("one", "two")
    )
    first = Process(one, tmp_path / "one")
    wait_for_part(tmp_path, first, 1 << 20)
    second = Process(two, tmp_path / "two")
    second.wait_for("another run is downloading it")
    if kill:
        first.signal(signal.SIGKILL)
    web.files["/a.jsonl"].pause = 0.0
    assert first.end() == (-signal.SIGKILL if kill else 0), first.out
    assert second.end() == 0, second.out
    bodies = [a for a in web.asked if a.headers.get("Range") != "bytes=0-0"]
    assert len(bodies) == 1 + kill
    assert kill or bodies[0].sent == size
    assert not kill or bodies[1].sent == size - int(bodies[1].headers["Range"].strip("bytes=-")) < size


def test_a_base_from_the_hub_and_examples_from_a_bucket(
    base: Path, corpus: Path, store: Store, run: Run, tmp_path: Path
):
    """The adapter is the very one that a mounted base and mounted examples give."""
    files = {p.name: p.read_bytes() for p in base.iterdir() if p.is_file() and p.name != "manifest.json"}
    pairs_file = corpus / "pairs.jsonl"
    bucket = store.bucket()
    store.put(f"{bucket}/pairs.jsonl", pairs_file.read_bytes())
    local = finetune_spec(
        tmp_path / "local", base, RunSource(
            name="data", uri="pvc://data/pairs.jsonl", path=str(pairs_file), root=str(corpus), format="alpaca"
        ),
    )  # fmt: skip
    assert run(local).code == 0
    tls = server_tls(AUTHORITY, tmp_path / "tls")
    with FileServer(tls) as cdn, Hub(tls) as hub:
        hub.storage = cdn
        hub.commit("models/org/tiny", files)
        keys = mounted(tmp_path / "hub", HF_ENDPOINT=hub.url, **{"ca.crt": AUTHORITY.authority})
        root = tmp_path / "links" / "model"
        model = RunModel(
            uri="hf://org/tiny@main", path=str(root), root=str(root),
            secret=RunSecret(name="hub", path=str(keys)),
        )  # fmt: skip
        examples = remote(tmp_path, f"s3://{bucket}/pairs.jsonl", store.secret(tmp_path / "s3"), "alpaca")
        cache = RunCache(path=str(tmp_path / "cache"))
        ended = run(finetune_spec(tmp_path / "remote", root, examples, model=model, cache=cache))
    assert ended.code == 0, ended.out
    made = [tmp_path / name / "artifact/adapter_model.safetensors" for name in ("local", "remote")]
    assert made[0].read_bytes() == made[1].read_bytes()
    assert "downloaded bytes=" in ended.out


def test_a_pinned_digest_is_verified_of_what_was_downloaded(base: Path, run: Run, tmp_path: Path):
    files = {p.name: p.read_bytes() for p in base.iterdir() if p.is_file() and p.name != "manifest.json"}
    data = write_jsonl(tmp_path / "pairs.jsonl", pairs(20))
    with Hub() as hub:
        hub.commit("models/org/tiny", files)
        keys = mounted(tmp_path / "hub", HF_ENDPOINT=hub.url)
        root = tmp_path / "links" / "model"
        model = RunModel(
            uri="hf://org/tiny", path=str(root), root=str(root), digest="sha256:" + "0" * 64,
            secret=RunSecret(name="hub", path=str(keys)),
        )  # fmt: skip
        source = RunSource(
            name="data", uri="pvc://data/pairs.jsonl", path=str(data), root=str(tmp_path), format="alpaca"
        )
        cache = RunCache(path=str(tmp_path / "cache"))
        ended = run(finetune_spec(tmp_path / "out", root, source, model=model, cache=cache))
    assert (ended.code, ended.message.reason) == (15, Reason.BASE_MODEL_MISMATCH)


@pytest.mark.parametrize(
    ("file", "code", "text"),
    [
        (None, 11, "nothing is there (HTTP 404 from localhost): correct the uri"),
        (File(b"x", authorization="Bearer y"), 11, "refuses the credentials: correct Secret authority"),
        (File(b"{", etag=None), 11, "a.jsonl, line 1: not JSON"),
    ],
)
def test_errors_end_the_run_as_those_of_mounted_data(
    web: FileServer, authority: Path, run: Run, tmp_path: Path, file: File | None, code: int, text: str
):
    if file:
        web.files["/a.jsonl"] = file
    ended = run(run_of(tmp_path, remote(tmp_path, f"{web.url}/a.jsonl", authority)))
    assert ended.code == code, ended.out
    assert text in ended.message.message


def test_a_remote_that_changed_between_attempts_is_said(web: FileServer, authority: Path, tmp_path: Path):
    content = large(tmp_path, 1 << 20)
    web.files["/a.jsonl"] = File(content)
    source = remote(tmp_path, f"{web.url}/a.jsonl", authority)
    spec = pretrain_spec(
        tmp_path / "out", source, training={"max_steps": 60}, cache=RunCache(path=str(tmp_path / "cache"))
    )
    process = Process(spec, tmp_path)
    process.wait_for("checkpoint step=4")
    process.signal(signal.SIGKILL)
    process.end()
    web.files["/a.jsonl"] = File(content + b'{"text": "one more"}\n', etag='"v2"')
    process = Process(spec, tmp_path)
    assert process.end() == 0, process.out
    assert "the data changed since the checkpoint" in process.out
    assert "resumed step=" in process.out
