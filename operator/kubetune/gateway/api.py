"""The OpenAI-compatible API. Clients know aliases; the engine's own names never leave the pod."""

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp import web

from kubetune.gateway.chat import refuse_template
from kubetune.gateway.ending import stop_at
from kubetune.gateway.engine import EngineClient, EngineDown, EngineSlow
from kubetune.gateway.errors import BadRequest, NotHere, RequestFailed, ServiceUnavailable, in_openai_form
from kubetune.gateway.fleet import Fleet
from kubetune.gateway.http import expect, read_body
from kubetune.gateway.inflight import InFlight
from kubetune.gateway.metrics import Metrics
from kubetune.gateway.rename import Renamer, event_bytes
from kubetune.gateway.versions import Version

CHAT = "/v1/chat/completions"
ENDPOINTS = ("/v1/completions", CHAT)
DIGEST_HEADER = "X-Kubetune-Adapter-Digest"
"""Header of an adapter's answers: digest of the version that gave them."""
_PASSED_ON = ("Accept", "X-Request-Id", "traceparent", "tracestate")
_CLIENT_GONE = "499"
"""Code counted for a client that did not wait for its answer."""
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """Handlers of the API port."""

    def __init__(self, fleet: Fleet, engine: EngineClient, metrics: Metrics) -> None:
        self._fleet = fleet
        self._engine = engine
        self._metrics = metrics
        self._started = int(time.time())
        self.requests = InFlight()
        """Requests of any kind."""
        self.draining = False
        """Set on SIGTERM: connections are closed after their answer."""

    def application(self, *, max_body_bytes: int) -> web.Application:
        """The routes; everything else of the engine stays out of reach."""
        app = web.Application(client_max_size=max_body_bytes, middlewares=[self._in_openai_form])
        app.on_response_prepare.append(self._close_while_draining)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/v1/models/{model:.+}", self.model)
        for path in ENDPOINTS:
            app.router.add_post(path, self.generate, expect_handler=expect)
        return app

    async def models(self, _: web.Request) -> web.Response:
        """GET /v1/models: the base and the adapters that answer now."""
        serving = self._fleet.serving
        if not serving:
            raise ServiceUnavailable("The engine is starting.")
        return web.json_response({"object": "list", "data": [self._entry(v) for v in serving]})

    async def model(self, request: web.Request) -> web.Response:
        """GET /v1/models/{model}."""
        return web.json_response(self._entry(self._fleet.lookup(request.match_info["model"])))

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """POST: pass a request on to the version that the alias points at, and its answer back."""
        body = _json_object(await read_body(request, max_bytes=request.client_max_size))
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise BadRequest("You must provide a model parameter.")
        started = time.monotonic()
        label, code = "unknown", _CLIENT_GONE
        try:
            version = self._fleet.lookup(model)  # no await between look-up and count: see Slot._point_at
            label = model
            with version.requests.one(), self._metrics.in_flight.labels(model).track_inprogress():
                response, code = await self._pass_on(request, version, body, started)
                return response
        except RequestFailed as error:
            code = str(error.status)
            raise
        finally:
            self._metrics.requests.labels(label, request.path, code).inc()
            self._metrics.seconds.labels(label, request.path).observe(time.monotonic() - started)

    async def _pass_on(
        self, request: web.Request, version: Version, body: dict[str, Any], started: float
    ) -> tuple[web.StreamResponse, str]:
        """The answer, and the code that it counts as."""
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        headers["Content-Type"] = "application/json"
        body["model"] = version.engine_name
        if version.end is not None:
            stop_at(body, version.end)
        if request.path == CHAT:
            refuse_template(body)
            if version.chat_template:
                version.chat_template.put_into(body)
        try:
            async with await self._engine.ask(request.path, json.dumps(body).encode(), headers) as upstream:
                if upstream.content_type == "text/event-stream":
                    return await self._stream(request, version, upstream, started)
                try:
                    answer = await upstream.read()
                except aiohttp.ClientError as error:
                    raise EngineSlow(str(error)) from error
                self._engine.heard()
                return self._whole(version, upstream.status, answer, upstream.content_type)
        except (EngineDown, EngineSlow) as error:
            self._fleet.suspect_engine()
            raise ServiceUnavailable(_broke(error)) from error

    def _whole(
        self, version: Version, status: int, content: bytes, content_type: str
    ) -> tuple[web.Response, str]:
        if status == 404 and version.engine_name.encode() in content:
            self._fleet.suspect_engine()  # the engine has lost what it was given: it has restarted
            raise ServiceUnavailable(f"The engine is loading `{version.alias}` again. Try again.")
        if status >= 500:
            self._fleet.suspect_engine()
        content = Renamer(version.engine_name, version.alias).whole(content)
        if status >= 400:
            content = in_openai_form(content, status)
        elif content_type != "application/json":
            content = in_openai_form(content, status := 502)
        response = web.Response(
            status=status, body=content, content_type="application/json", headers=_headers(version)
        )
        return response, str(status)

    async def _stream(
        self, request: web.Request, version: Version, upstream: aiohttp.ClientResponse, started: float
    ) -> tuple[web.StreamResponse, str]:
        response = web.StreamResponse(status=upstream.status, headers=_headers(version))
        response.content_type = "text/event-stream"
        response.headers["Cache-Control"] = "no-cache"
        first = True
        events = Renamer(version.engine_name, version.alias)
        try:
            await response.prepare(request)
            while True:
                try:
                    piece = await upstream.content.readany()
                except aiohttp.ClientError as error:
                    # Too late for a status: tell it as OpenAI's servers do, by an event.
                    self._fleet.suspect_engine()
                    await response.write(events.flush() + event_bytes(ServiceUnavailable(_broke(error)).body))
                    return response, "503"
                self._engine.heard()
                ready = events.feed(piece) if piece else events.flush()
                if ready:
                    await response.write(ready)
                    if first:
                        waited = time.monotonic() - started
                        self._metrics.first_chunk_seconds.labels(version.alias, request.path).observe(waited)
                    first = False
                if not piece:
                    await response.write_eof()
                    return response, str(upstream.status)
        except ConnectionResetError:
            return response, _CLIENT_GONE

    def _entry(self, version: Version) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "id": version.alias,
            "object": "model",
            "created": self._started,
            "owned_by": "kubetune",
        }
        if version.adapter:
            entry |= {"parent": self._fleet.base_name, "digest": version.digest}
        return entry

    async def _close_while_draining(self, _: web.Request, response: web.StreamResponse) -> None:
        if self.draining:
            response.headers["Connection"] = "close"
            response.force_close()

    @web.middleware
    async def _in_openai_form(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            with self.requests.one():
                return await handler(request)
        except RequestFailed as error:
            return error.response()
        except web.HTTPException:
            return NotHere(f"Unknown request URL: {request.method} {request.path}").response()


def _headers(version: Version) -> dict[str, str]:
    return {DIGEST_HEADER: version.digest} if version.digest else {}


def _broke(error: Exception) -> str:
    return f"The engine went away: {error or type(error).__name__}. Try again."


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadRequest("The body must be a JSON object.")
    return found
