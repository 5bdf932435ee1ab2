"""An HTTP server that speaks as much of vLLM's API as a gateway uses.

For what the real engine cannot be made to do on command: to be slow, to hang, to fail, to restart in no time.
What the real one does is tested with the real one, in tests/engine.
"""

import asyncio
import json
from pathlib import Path

from aiohttp import web


class EngineDouble:
    """Answers name the model that made them, so that tests can tell which version answered."""

    def __init__(self, port: int, base: str = "base") -> None:
        self.port = port
        self.base = base
        self.adapters: dict[str, str] = {}
        self.calls: list[str] = []
        self.aborted = 0
        self.load_seconds = 0.0
        self.chunk_seconds = 0.0
        self.chunks = 3
        self.fail_loads = 0
        self.fail_with = (500, "Call to add_lora method failed: out of memory")
        self.fail_generation = False
        self.vocabulary: dict[str, int] = {}
        """Ids of whole tokens; other texts fall into their characters."""
        self.hang = False
        self.drop: list[str] = []
        """Paths whose next requests find their connection closed, unanswered."""
        self.after_chunk = lambda: None
        """Called when a chunk is on its way."""
        self.bodies: list[dict] = []
        """What was asked to be answered."""
        self.connections: set[object] = set()
        """By which requests for answers came, all of them."""
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """A new process: it has no adapters."""
        self.adapters = {}
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_post("/v1/unload_lora_adapter", self._unload)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.middlewares.append(self._may_drop)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def kill(self) -> None:
        """As SIGKILL: connections break."""
        if self._runner:
            for connection in list(self._runner.server.connections):
                if connection.transport:
                    connection.transport.abort()
            await self._runner.cleanup()
            self._runner = None

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    @web.middleware
    async def _may_drop(self, request: web.Request, handler) -> web.StreamResponse:
        if request.path in self.drop:
            self.drop.remove(request.path)
            assert request.transport
            request.transport.abort()
        return await handler(request)

    async def _health(self, _: web.Request) -> web.Response:
        if self.hang:
            await asyncio.sleep(3600)
        return web.Response()

    async def _models(self, _: web.Request) -> web.Response:
        data = [{"id": self.base, "root": "/base", "parent": None}]
        data += [{"id": n, "root": p, "parent": self.base} for n, p in self.adapters.items()]
        return web.json_response({"object": "list", "data": data})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = body["lora_name"]
        self.calls.append(f"load {name}")
        await asyncio.sleep(self.load_seconds)
        if self.fail_loads:
            self.fail_loads -= 1
            return _error(*self.fail_with)
        if name in self.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        assert (Path(body["lora_path"]) / "adapter_config.json").is_file()
        self.adapters[name] = body["lora_path"]
        return web.Response(text="Success")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        self.calls.append(f"unload {name}")
        if name not in self.adapters:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        del self.adapters[name]
        return web.Response(text="Success")

    async def _tokenize(self, request: web.Request) -> web.Response:
        text = (await request.json())["prompt"]
        ids = [self.vocabulary[text]] if text in self.vocabulary else [ord(letter) for letter in text]
        return web.json_response({"tokens": ids, "count": len(ids)})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.connections.add(request.protocol)
        self.bodies.append(body)
        model = body["model"]
        if self.fail_generation:
            return _error(500, f"EngineCore encountered an issue with {model}")
        if model != self.base and model not in self.adapters:
            return _error(404, f"The model `{model}` does not exist.")
        if body.get("max_tokens") == 99999:
            return _error(400, f"max_tokens is too large for {model}")
        if not body.get("stream"):
            await asyncio.sleep(self.chunk_seconds)
            return web.json_response({"model": model, "choices": [{"text": f"made by {model}"}]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        try:
            for _ in range(self.chunks):
                chunk = {"model": model, "choices": [{"text": f"made by {model};"}]}
                await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
                self.after_chunk()
                await asyncio.sleep(self.chunk_seconds)
                # A real engine would serve the request to its end; nobody should count on that.
                assert model == self.base or model in self.adapters, f"{model} was unloaded under a request"
            await response.write(b"data: [DONE]\n\n")
        except (asyncio.CancelledError, ConnectionResetError):
            self.aborted += 1
            raise
        return response


def _error(status: int, message: str) -> web.Response:
    return web.json_response(
        {"error": {"message": message, "type": "Error", "param": None, "code": status}}, status=status
    )
