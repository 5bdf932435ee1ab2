"""Against a server that speaks the hub's API; that it does, huggingface_hub's own client says."""

import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from kubetune.api.runspec import RunCache, RunModel, RunSecret
from kubetune_trainer.data.read import files_of
from kubetune_trainer.errors import DataError, StorageError
from kubetune_trainer.model.digest import checked_digest
from kubetune_trainer.progress import Progress
from kubetune_trainer.signals import Stop
from kubetune_trainer.sources.localize import localize
from tests.fixtures.runs import finetune_spec
from tests.fixtures.s3 import mounted
from tests.fixtures.web import AUTHORITY, File, FileServer, Hub, server_tls

WEIGHTS = bytes(range(256)) * 1000
MODEL = {
    "config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickled" * 1000,
    "tokenizer/tokenizer.json": b"{}",
    "README.md": b"# A model",
    ".gitattributes": b"*.safetensors filter=lfs",
}
DATA = {
    "data/a.jsonl": b'{"text": "a"}\n',
    "data/deep/b c.jsonl": b'{"text": "b"}\n' * 200,
    "data/c.xml": b"PAR1",
    "notes.txt": b"notes",
    **{f"many/{n}.txt": str(n).encode() for n in range(8)},
}
TOKEN = "hf_t0p-s3cret"


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[FileServer]:
    """Where the hub keeps large files."""
    with FileServer(server_tls(AUTHORITY, tmp_path / "tls-storage")) as server:
        yield server


@pytest.fixture
def hub(tmp_path: Path, storage: FileServer) -> Iterator[Hub]:
    with Hub(server_tls(AUTHORITY, tmp_path / "tls-hub")) as server:
        server.storage, server.token = storage, TOKEN
        server.commit("models/org/model", MODEL)
        server.commit("datasets/org/set", DATA)
        yield server


@pytest.fixture
def keys(hub: Hub, tmp_path: Path) -> Path:
    return mounted(tmp_path / "hub", HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, **{"ca.crt": AUTHORITY.authority})


def bring_model(pod, uri: str, keys: Path) -> Path:
    root = pod.folder / "links" / "model"
    mount = RunSecret(name="hub", path=str(keys))
    model = RunModel(uri=uri, path=str(root), root=str(root), secret=mount)
    spec = finetune_spec(pod.folder / "out", root, model=model, cache=RunCache(path=str(pod.cache)))
    localize(spec, Progress(), Stop())
    return root


def test_the_server_speaks_as_the_hub_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Plain HTTP, since the client takes no authority of a test."""
    # Other tests, which came first, are offline.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with FileServer() as storage, Hub() as hub:
        hub.storage, hub.token = storage, TOKEN
        sha = hub.commit("models/org/model", MODEL)
        api = huggingface_hub.HfApi(endpoint=hub.url, token=TOKEN)
        assert api.model_info("org/model").sha == sha
        folder = Path(api.snapshot_download("org/model", local_dir=tmp_path / "copy"))
        assert {p: (folder / p).read_bytes() for p in MODEL} == MODEL
        with pytest.raises(huggingface_hub.errors.RevisionNotFoundError):
            api.model_info("org/model", revision="none")


def test_a_base_model(pod, hub: Hub, keys: Path, storage: FileServer):
    root = bring_model(pod, "hf://org/model", keys)
    wanted = {"config.json", "model.safetensors", "tokenizer/tokenizer.json", "README.md"}
    assert {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()} == wanted
    assert all((root / name).read_bytes() == MODEL[name] for name in wanted)
    digest = checked_digest("base model", str(root), str(root), None)
    assert checked_digest("base model", str(root), str(root), digest) == digest
    assert {a.headers.get("Authorization") for a in hub.asked} == {f"Bearer {TOKEN}"}
    assert [a.headers.get("Authorization") for a in storage.asked] == [None], "the token stays with the hub"


def test_a_branch_that_moves_and_a_commit_that_does_not(new_pod, hub: Hub, keys: Path):
    first = hub.revisions["models/org/model", "main"]
    bring_model(new_pod("a"), "hf://org/model", keys)
    hub.commit("models/org/model", MODEL | {"model.safetensors": WEIGHTS[::-1]})
    assert (bring_model(new_pod("b"), "hf://org/model", keys) / "model.safetensors").read_bytes() == WEIGHTS[
        ::-1
    ]
    asked = len(hub.storage.asked) if hub.storage else 0
    old = bring_model(new_pod("c"), f"hf://org/model@{first}", keys)
    assert (old / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.storage
    assert len(hub.storage.asked) == asked, "it was in the cache"
    hub.commit("models/org/model", MODEL | {"README.md": b"x"}, branch="refs/pr/1")
    assert (bring_model(new_pod("d"), "hf://org/model@refs/pr/1", keys) / "README.md").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ["data/a.jsonl", "data/deep/b c.jsonl", *(f"many/{n}.txt" for n in range(8)), "notes.txt"]),
        ("/data/a.jsonl", ["data/a.jsonl"]),
        ("/notes.txt", ["notes.txt"]),
        ("/data/deep/b c.jsonl", ["data/deep/b c.jsonl"]),
        ("/data", ["data/a.jsonl", "data/deep/b c.jsonl"]),
        ("/data/**/*.jsonl", ["data/a.jsonl", "data/deep/b c.jsonl"]),
        ("/m*/*.txt", [f"many/{n}.txt" for n in range(8)]),
    ],
)
def test_a_data_set(pod, hub: Hub, keys: Path, path: str, expected: list[str]):
    source = pod.source(f"hf://datasets/org/set{path}", keys)
    pod.bring(source)
    found = files_of(source)
    assert [f.relative_to(source.root).as_posix() for f in found] == expected
    assert [f.read_bytes() for f in found] == [DATA[name] for name in expected]


def test_a_broken_connection_is_taken_up_where_it_broke(pod, hub: Hub, keys: Path, storage: FileServer):
    real = storage.send

    async def breaking(request, file, asked):
        if len(storage.asked) == 1:
            file.faults = ["cut 100000"]
        return await real(request, file, asked)

    storage.send = breaking
    root = bring_model(pod, "hf://org/model", keys)
    assert (root / "model.safetensors").read_bytes() == WEIGHTS
    first, second = storage.asked
    start = int(second.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= first.sent == 100_000
    assert second.sent == len(WEIGHTS) - start


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_arrives_damaged(pod, hub: Hub, keys: Path, name: str):
    """Of small files git's checksum is known, of large ones SHA-256."""
    hub.damaged = name
    with pytest.raises(StorageError, match=rf"\({name}\): what arrives has another checksum"):
        bring_model(pod, "hf://org/model", keys)


@pytest.mark.parametrize(
    ("uri", "changes", "text"),
    [
        ("hf://datasets/org/none", {}, "the hub shows no repository datasets/org/none: correct the uri, or"),
        ("hf://datasets/org/set@v9", {}, "datasets/org/set has no revision v9: correct what follows the @"),
        ("hf://datasets/org/set/none/*.txt", {}, "datasets/org/set has nothing at none"),
        ("hf://datasets/org/set/none.txt", {}, "datasets/org/set has nothing at none.txt"),
        ("hf://datasets/org/set/data/c.xml", {}, "must end in .jsonl"),
        ("hf://datasets/org/set", {"HF_TOKEN": "wr0ng-s3cret"}, "name a Secret with a fitting HF_TOKEN"),
        ("hf://datasets/org/set", {"HF_ENDPOINT": "https://169.254.169.254"}, "a cloud's metadata service"),
    ],
)
def test_what_cannot_be_had(pod, hub: Hub, keys: Path, uri: str, changes: dict[str, str], text: str, capfd):
    with pytest.raises(DataError, match=text) as caught:
        pod.texts(uri, mounted(keys, **changes))
    shown = str(caught.value) + "".join(capfd.readouterr())
    assert "wr0ng" not in shown
    assert TOKEN not in shown


def test_a_gated_repository(pod, hub: Hub, keys: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "gated", True)
    with pytest.raises(DataError, match="org/set is gated: accept its conditions on the hub"):
        pod.texts("hf://datasets/org/set", keys)


def test_an_endpoint_that_is_no_hub(pod, web: FileServer, secret: Path):
    web.files["/api/datasets/org/set/revision/main"] = File(b"<html>")
    with pytest.raises(
        DataError, match="does not speak the hub's API: correct HF_ENDPOINT in Secret web-secret"
    ):
        pod.texts("hf://datasets/org/set", mounted(secret, HF_ENDPOINT=web.url))


def test_everything_else_stays_offline(pod, hub: Hub, keys: Path, monkeypatch: pytest.MonkeyPatch):
    """In a training pod HF_HUB_OFFLINE is set: ours is the one way out."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    bring_model(pod, "hf://org/model", keys)
    asked = len(hub.asked)
    with pytest.raises(huggingface_hub.errors.OfflineModeIsEnabled):
        huggingface_hub.HfApi(endpoint=hub.url, token=TOKEN).model_info("org/model")
    assert len(hub.asked) == asked
    assert json.loads((pod.folder / "links/model/config.json").read_bytes()) == {}
