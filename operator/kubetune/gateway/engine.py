"""Client of the engine's HTTP API, as far as a gateway needs it: vLLM's OpenAI-compatible server."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import aiohttp

_LOAD_SECONDS = 300.0  # a large adapter from a cold disk, behind a full batch
_GENERATE_SECONDS = 600.0  # the first token of a process compiles kernels
_KEPT_SECONDS = 2.0
"""Idle connections are dropped after this time. vLLM closes them after 5 s (VLLM_HTTP_TIMEOUT_KEEP_ALIVE)."""


class EngineDown(Exception):
    """The engine is not there: nothing listens on its port, or it says itself that it is dead."""


class EngineSlow(Exception):
    """No answer: too late, or the connection broke. The engine may be busy."""


class EngineFailed(Exception):
    """The engine answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class ServedModel:
    """One entry of /v1/models."""

    name: str
    """Its id."""
    root: str
    """Folder that it was loaded from."""
    is_adapter: bool
    """Whether it has a parent."""


class EngineClient:
    """The engine on this pod's loopback. Use as a context manager."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._kept: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None
        self.last_heard = time.monotonic()
        """When it last gave a sign of life: any bytes of any answer."""

    async def __aenter__(self) -> Self:
        self._kept = self._session(aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_SECONDS))
        self._fresh = self._session(aiohttp.TCPConnector(limit=0, force_close=True))
        return self

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        # No limit on connecting: where nothing listens the kernel says so at once, and a full queue of
        # connections empties as the engine gets to it.
        return aiohttp.ClientSession(
            self._url,
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"Accept-Encoding": "identity"},
        )

    async def __aexit__(self, *_: object) -> None:
        for session in (self._kept, self._fresh):
            assert session is not None, "entered before"
            await session.close()

    def heard(self) -> None:
        """Bytes of an answer have arrived."""
        self.last_heard = time.monotonic()

    async def ask(self, path: str, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """POST a client's request; returns as soon as the status is known, however long that takes.

        The engine may have closed a kept connection just when it was used again. Then the request is sent
        once more, on a fresh one. This is safe: a request changes nothing in the engine but its load.

        Raises:
            EngineDown: nothing listens.
            EngineSlow: the connection broke before an answer, twice.
        """
        assert self._kept is not None, "enter the engine first"
        assert self._fresh is not None, "enter the engine first"
        try:
            try:
                answer = await self._kept.post(path, data=body, headers=headers, allow_redirects=False)
            except aiohttp.ClientConnectorError:
                raise
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionResetError):
                answer = await self._fresh.post(path, data=body, headers=headers, allow_redirects=False)
        except aiohttp.ClientError as error:
            raise _no_answer(error) from error
        self.heard()
        return answer

    async def models(self, *, within: float) -> dict[str, ServedModel]:
        """What the engine answers for, by name; it is healthy if this returns.

        Raises:
            EngineDown, EngineSlow, EngineFailed
        """
        await self._call("GET", "/health", within=within)
        listed = await self._call("GET", "/v1/models", within=within)
        return {
            m["id"]: ServedModel(
                name=m["id"], root=m.get("root") or "", is_adapter=m.get("parent") is not None
            )
            for m in listed["data"]
        }

    async def generate_one_token(self, model: str) -> None:
        """Prove that the engine computes; some configurations answer to /health and die at the first request.

        Raises:
            EngineDown, EngineSlow, EngineFailed
        """
        body = {"model": model, "prompt": ".", "max_tokens": 1, "temperature": 0}
        await self._call("POST", "/v1/completions", body=body, within=_GENERATE_SECONDS)

    async def tokenize(self, text: str) -> list[int]:
        """What the base's tokenizer makes of a text.

        Raises:
            EngineDown, EngineSlow, EngineFailed
        """
        body = {"prompt": text, "add_special_tokens": False}
        answer = await self._call("POST", "/tokenize", body=body, within=_LOAD_SECONDS)
        return list(answer["tokens"])

    async def load(self, name: str, path: str) -> None:
        """Load an adapter. The engine has copied it to its memory when this returns.

        Raises:
            EngineDown, EngineSlow, EngineFailed
        """
        body = {"lora_name": name, "lora_path": path}
        await self._call("POST", "/v1/load_lora_adapter", body=body, within=_LOAD_SECONDS)

    async def unload(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            EngineDown, EngineSlow, EngineFailed
        """
        await self._call("POST", "/v1/unload_lora_adapter", body={"lora_name": name}, within=_LOAD_SECONDS)

    async def _call(self, method: str, path: str, *, body: Any = None, within: float) -> Any:
        assert self._fresh is not None, "enter the engine first"
        limit = aiohttp.ClientTimeout(total=within)
        try:
            async with self._fresh.request(method, path, json=body, timeout=limit) as response:
                self.heard()
                if path == "/health" and response.status == 503:
                    raise EngineDown("the engine says that it is dead")
                if response.status >= 400:
                    message = _error_message(await response.text()) or f"HTTP {response.status}"
                    raise EngineFailed(response.status, message)
                return await response.json() if response.content_type == "application/json" else None
        except TimeoutError as error:
            raise EngineSlow(f"no answer to {path} within {within:g} s") from error
        except aiohttp.ClientError as error:
            raise _no_answer(error) from error


def _no_answer(error: aiohttp.ClientError) -> EngineDown | EngineSlow:
    if isinstance(error, aiohttp.ClientConnectorError):
        return EngineDown("nothing listens on its port")
    return EngineSlow(f"the connection broke: {error or type(error).__name__}")


def _error_message(text: str) -> str:
    """The message inside an error body; vLLM's and OpenAI's forms."""
    try:
        error = json.loads(text)["error"]
        return str(error["message"])
    except (ValueError, KeyError, TypeError):
        return text[:500]
