"""Client of the engine's HTTP API, as far as a gateway needs it: vLLM's OpenAI-compatible server."""

import json
from dataclasses import dataclass
from typing import Any, Self

import aiohttp

_CONNECT_SECONDS = 2.0
_LOAD_SECONDS = 300.0  # a large adapter from a cold disk, behind a full batch
_GENERATE_SECONDS = 120.0  # the first token of a process compiles kernels


class EngineDown(Exception):
    """The engine is not there: refused, reset, or it says itself that it is dead."""


class EngineSlow(Exception):
    """The engine did not answer in time; it may be busy."""


class EngineFailed(Exception):
    """The engine answered with an error."""


@dataclass(frozen=True)
class Model:
    """One entry of /v1/models."""

    name: str
    """Its id."""
    root: str
    """Folder that it was loaded from."""
    is_adapter: bool
    """Whether it has a parent."""


class Engine:
    """The engine on this pod's loopback. Use as a context manager."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self._url,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            headers={"Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """For the proxy, which passes requests through."""
        assert self._session is not None, "enter the engine first"
        return self._session

    async def models(self, *, within: float) -> dict[str, Model]:
        """What the engine answers for, by name; it is healthy if this returns.

        Raises:
            EngineDown, EngineSlow, EngineFailed
        """
        await self._call("GET", "/health", within=within)
        listed = await self._call("GET", "/v1/models", within=within)
        return {
            m["id"]: Model(name=m["id"], root=m.get("root") or "", is_adapter=m.get("parent") is not None)
            for m in listed["data"]
        }

    async def generate_one_token(self, model: str) -> None:
        """Prove that the engine computes; some configurations answer to /health and die at the first request.

        Raises:
            EngineDown, EngineSlow, EngineFailed
        """
        body = {"model": model, "prompt": ".", "max_tokens": 1, "temperature": 0}
        await self._call("POST", "/v1/completions", body=body, within=_GENERATE_SECONDS)

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
        limits = aiohttp.ClientTimeout(total=within, sock_connect=_CONNECT_SECONDS)
        try:
            async with self.session.request(method, path, json=body, timeout=limits) as response:
                if path == "/health" and response.status == 503:
                    raise EngineDown("the engine says that it is dead")
                if response.status >= 400:
                    raise EngineFailed(_error_message(await response.text()) or f"HTTP {response.status}")
                return await response.json() if response.content_type == "application/json" else None
        except TimeoutError as error:
            raise EngineSlow(f"no answer to {path} within {within:g} s") from error
        except aiohttp.ClientConnectorError as error:
            raise EngineDown("nothing listens on its port") from error
        except aiohttp.ClientError as error:
            raise EngineDown(str(error) or type(error).__name__) from error


def _error_message(text: str) -> str:
    """The message inside an error body; vLLM's and OpenAI's forms."""
    try:
        error = json.loads(text)["error"]
        return str(error["message"])
    except (ValueError, KeyError, TypeError):
        return text[:500]
