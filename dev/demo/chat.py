"""Asking a served model a question, over the OpenAI-compatible API."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VERSION_HEADER = "X-Kubetune-Adapter-Digest"


class NotServed(RuntimeError):
    """The API answered with an error, or not at all; carries the message."""


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    text: str
    """On one line."""
    version: str | None
    """Digest of the adapter that said it; None for the base."""


def call(base_url: str, path: str, body: dict[str, Any] | None = None, *, timeout: float = 60) -> Any:
    """GET, or POST with a body.

    Raises:
        NotServed: the API refused, in its own words; or there was no answer.
    """
    return _exchange(base_url, path, body, timeout)[0]


def _exchange(
    base_url: str, path: str, body: dict[str, Any] | None, timeout: float
) -> tuple[Any, Mapping[str, str]]:
    """The answer's body and headers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base_url + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.load(response), response.headers
    except urllib.error.HTTPError as error:
        raise NotServed(f"{error.code}: {error.read().decode(errors='replace')[:500]}") from error
    except OSError as error:
        raise NotServed(f"no answer from {base_url}{path}: {error}") from error


def models(base_url: str) -> list[str]:
    """Names that can be asked for."""
    return [model["id"] for model in call(base_url, "/v1/models")["data"]]


def ask(base_url: str, model: str, prompt: str, *, max_tokens: int = 24, timeout: float = 60) -> Answer:
    """One greedy answer.

    Raises:
        NotServed: see `call`.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }
    answer, headers = _exchange(base_url, "/v1/chat/completions", body, timeout)
    text = " ".join(str(answer["choices"][0]["message"]["content"]).split())
    return Answer(text, headers.get(VERSION_HEADER))
