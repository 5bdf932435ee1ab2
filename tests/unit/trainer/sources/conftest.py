from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kubetune.api.runspec import RunCache, RunSecret, RunSource
from kubetune.api.uris import inner_path
from kubetune_trainer.data.read import read_records
from kubetune_trainer.progress import Progress
from kubetune_trainer.signals import Stop
from kubetune_trainer.sources import client
from kubetune_trainer.sources.localize import localize
from tests.fixtures.runs import pretrain_spec
from tests.fixtures.s3 import mounted
from tests.fixtures.web import AUTHORITY, FileServer, server_tls


@dataclass(frozen=True)
class Pod:
    """A trainer's pod as far as its sources are concerned; several may share a cache."""

    folder: Path
    cache: Path

    def source(self, uri: str, secret: Path | None = None, **more: object) -> RunSource:
        root = self.folder / "links" / str(more.get("name", "data"))
        fields = {"name": "data", "format": "text", "uri": uri, "root": str(root)}
        fields["path"] = f"{root}/{inner_path(uri)}".rstrip("/")
        if secret:
            fields["secret"] = RunSecret(name=secret.name, path=str(secret))
        return RunSource.model_validate(fields | more)

    def bring(self, *sources: RunSource, stop: Stop | None = None) -> dict[str, str]:
        """Localize; returns the numbers that were reported."""
        spec = pretrain_spec(self.folder / "out", *sources, cache=RunCache(path=str(self.cache)))
        progress = Progress()
        localize(spec, progress, stop or Stop())
        return {m.name: m.value for m in progress.status().metrics}

    def texts(self, uri: str, secret: Path | None = None) -> list[str]:
        """What a run reads."""
        source = self.source(uri, secret)
        self.bring(source)
        return [str(record.data["text"]) for record in read_records(source)]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    monkeypatch.delenv("KUBEFLOW_TRAINER_SERVER_URL", raising=False)


@pytest.fixture
def new_pod(tmp_path: Path) -> Callable[[str], Pod]:
    return lambda name: Pod(tmp_path / name, tmp_path / "cache")


@pytest.fixture
def pod(new_pod: Callable[[str], Pod]) -> Pod:
    return new_pod("pod")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[FileServer]:
    """A TLS server by an authority that `secret` knows."""
    with FileServer(server_tls(AUTHORITY, tmp_path / "tls")) as server:
        yield server


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return mounted(tmp_path / "web-secret", **{"ca.crt": AUTHORITY.authority})
