"""Through a real proxy, where the environment names one."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubetune_trainer.errors import DataError, StorageError
from kubetune_trainer.sources import client
from tests.fixtures.web import File


class Proxy(socketserver.ThreadingTCPServer):
    """Connects to what CONNECT names, and notes that."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Connect)
        self.asked: list[str] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Connect(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        target = self.rfile.readline().decode().split()[1]
        while self.rfile.readline() not in (b"\r\n", b""):
            pass
        self.server.asked.append(target)
        self.wfile.write(f"HTTP/1.1 {self.server.status} x\r\n\r\n".encode())
        if self.server.status == 200:
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port))) as there:
                back = threading.Thread(target=copy, args=(there, self.connection))
                back.start()
                copy(self.connection, there)
                back.join()


def copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    proxy = Proxy()
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    yield proxy
    proxy.shutdown()
    thread.join()
    proxy.server_close()


def test_the_proxy_of_the_environment_is_asked(pod, web, secret: Path, proxy: Proxy):
    web.files["/a.txt"] = File(b"text")
    assert pod.texts(f"{web.url}/a.txt", secret) == ["text"]
    assert set(proxy.asked) == {web.url.removeprefix("https://")}


def test_what_no_proxy_names_is_asked_directly(
    pod, web, secret: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
):
    web.files["/a.txt"] = File(b"text")
    monkeypatch.setenv("NO_PROXY", "example.org,localhost")
    assert pod.texts(f"{web.url}/a.txt", secret) == ["text"]
    assert proxy.asked == []


def test_a_proxy_that_refuses_is_named(pod, web, secret: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "TRIES", 2)
    proxy.status = 403
    with pytest.raises(
        StorageError, match=r"the proxy .* answers with HTTP 403: let it through, or name the host"
    ):
        pod.texts(f"{web.url}/a.txt", secret)


def test_a_metadata_service_is_not_asked_for_through_it(pod, secret: Path, proxy: Proxy):
    with pytest.raises(DataError, match="metadata service"):
        pod.texts("https://metadata.google.internal/a.txt", secret)
    assert proxy.asked == []
