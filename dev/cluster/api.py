"""A small client for the API server, for what must be fast or precede kubectl."""

import http.client
import json
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dev.cluster.certs import KeyPair
from dev.cluster.report import ClusterError


def write_kubeconfig(path: Path, server: str, authority: Path, user: KeyPair) -> Path:
    """Write a kubeconfig that refers to certificate files."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "kubetune", "cluster": {"server": server, "certificate-authority": str(authority)}}
        ],
        "users": [
            {
                "name": "kubetune",
                "user": {"client-certificate": str(user.certificate), "client-key": str(user.key)},
            }
        ],
        "contexts": [{"name": "kubetune", "context": {"cluster": "kubetune", "user": "kubetune"}}],
        "current-context": "kubetune",
    }
    path.write_text(json.dumps(config, indent=1))
    path.chmod(0o600)
    return path


class Api:
    """Calls to the API server that a kubeconfig of ours names."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        user = config["users"][0]["user"]
        url = urlsplit(cluster["server"])
        assert url.hostname is not None
        self._address = (url.hostname, url.port)
        self._context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._context.load_cert_chain(user["client-certificate"], user["client-key"])

    def call(self, method: str, path: str, body: Any = None, *, timeout: float = 10.0) -> tuple[int, Any]:
        """One request.

        Returns:
            HTTP status and body: JSON where it is JSON, else text.

        Raises:
            OSError: no answer.
        """
        host, port = self._address
        connection = http.client.HTTPSConnection(host, port, context=self._context, timeout=timeout)
        try:
            payload = None if body is None else json.dumps(body)
            kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
            connection.request(method, path, payload, {"Content-Type": kind})
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        is_json = "json" in response.headers.get("Content-Type", "")
        return response.status, json.loads(text) if is_json else text

    def get(self, path: str) -> Any | None:
        """The object at a path, or None if it is not there or the server does not answer."""
        try:
            status, body = self.call("GET", path)
        except (OSError, http.client.HTTPException):
            return None
        return body if status == 200 else None

    def create(self, path: str, body: Any) -> None:
        """Create an object; one that exists already is left as it is.

        Raises:
            ClusterError: the server refused it.
        """
        status, answer = self.call("POST", path, body)
        if status not in (200, 201, 409):
            raise ClusterError(f"creating {path}/{body['metadata']['name']} failed: {answer}")

    def patch(self, path: str, change: Any) -> None:
        """Merge a change into an object.

        Raises:
            ClusterError: the server refused it.
        """
        status, answer = self.call("PATCH", path, change)
        if status != 200:
            raise ClusterError(f"changing {path} failed: {answer}")

    def ready(self) -> bool:
        """Whether the API server says that it is ready."""
        return self.get("/readyz") == "ok"


def wait_for(what: str, done: Callable[[], Any], *, seconds: float = 180.0, every: float = 0.05) -> None:
    """Poll until `done()` is true.

    Raises:
        ClusterError: it did not happen in time.
    """
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{what} did not happen within {seconds:.0f} s; see the logs named by `status`"
            )
        time.sleep(every)
