"""Against a real HTTP server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dev.demo import chat
from kubetune.gateway.api import DIGEST_HEADER

pytestmark = pytest.mark.unit


class Handler(BaseHTTPRequestHandler):
    """Knows the base and one adapter, as the gateway does."""

    def do_POST(self) -> None:
        model = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"]
        known = model in ("base", "kind")
        self.send_response(200 if known else 404)
        if model == "kind":
            self.send_header(DIGEST_HEADER, "sha256:1")
        self.end_headers()
        message = {"content": " A class.\n Use it. "}
        answer = {"choices": [{"message": message}]} if known else {"error": {"message": f"no {model}"}}
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_answer_carries_the_version_that_made_it(url: str) -> None:
    assert chat.ask(url, "kind", "What?") == chat.Answer("A class. Use it.", "sha256:1")
    assert chat.ask(url, "base", "What?") == chat.Answer("A class. Use it.", None)


def test_a_refusal_and_silence_are_told(url: str) -> None:
    with pytest.raises(chat.NotServed, match=r"^404: .*no nobody"):
        chat.ask(url, "nobody", "What?")
    with pytest.raises(chat.NotServed, match=r"^no answer from http://127\.0\.0\.1:9/v1/chat/completions: "):
        chat.ask("http://127.0.0.1:9", "kind", "What?")
