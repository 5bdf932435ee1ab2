"""The HTTPS receiver. Speaks Kubeflow Trainer's status protocol (see `kubetune.api.progress`)."""

import json
import logging
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import ValidationError

from kubetune.api.kinds import FINE_TUNE_JOB, PRETRAIN_JOB
from kubetune.api.progress import MAX_METRICS, NamedValue, ProgressUpdate
from kubetune.controller import metrics
from kubetune.controller.errors import ApiError
from kubetune.controller.keys import Key
from kubetune.progress.review import Denied, Reviewer, TooMany
from kubetune.progress.writer import Writer

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024
_KINDS = {kind.plural: kind.name for kind in (PRETRAIN_JOB, FINE_TUNE_JOB)}


def application(reviewer: Reviewer, writer: Writer) -> web.Application:
    """The receiver as an aiohttp application."""

    async def post(request: web.Request) -> web.Response:
        try:
            answer = await _receive(request, reviewer, writer)
        except Denied as denied:
            answer = web.json_response({"error": denied.message}, status=denied.status)
        except TooMany as many:
            answer = web.json_response({"error": str(many)}, status=429, headers={"Retry-After": "60"})
        except web.HTTPRequestEntityTooLarge:
            answer = web.json_response({"error": f"more than {MAX_BODY_BYTES} bytes"}, status=413)
        except (ValueError, RecursionError) as error:
            answer = web.json_response({"error": str(error)}, status=400)
        except ApiError as error:
            log.warning("progress not reviewed: %s", error.message)
            answer = web.json_response({"error": "the API server does not answer; try again"}, status=503)
        metrics.PROGRESS.labels(str(answer.status)).inc()
        return answer

    async def hang_up(_: web.Request, answer: web.StreamResponse) -> None:
        # A connection carries one post: a client that sends many over one would be served before all others.
        answer.force_close()

    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_post("/v1alpha1/namespaces/{namespace}/{plural}/{name}/progress", post)
    app.on_response_prepare.append(hang_up)
    return app


def runner(app: web.Application) -> web.AppRunner:
    """What serves the application. Compressed bodies are not unpacked: they could grow to any size."""
    noise = logging.getLogger(f"{__name__}.http")
    noise.addFilter(_is_ours)
    return web.AppRunner(
        app, access_log=None, shutdown_timeout=0.1, auto_decompress=False, lingering_time=1.0, logger=noise
    )


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a record is logged. What any client can cause by not speaking HTTP is not."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


async def _receive(request: web.Request, reviewer: Reviewer, writer: Writer) -> web.Response:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Denied(401, "a bearer token is required")
    kind = _KINDS.get(request.match_info["plural"])
    if kind is None:
        return web.json_response({"error": "no such kind"}, status=404)
    key = Key(kind, request.match_info["namespace"], request.match_info["name"])
    # Who it is comes first: nobody else's body is looked at.
    uid = await reviewer.owner_uid(token.strip(), key, request.remote or "")
    writer.put(key, uid, parsed(await request.read()))
    return web.json_response({})


def parsed(body: bytes) -> ProgressUpdate:
    """A post without the metrics that cannot be stored: no finite numbers, odd names, or too many.

    Raises:
        ValueError: it is not of the protocol's form at all.
    """
    post = json.loads(body)
    if not isinstance(post, dict) or not isinstance(post.get("trainerStatus"), dict):
        raise ValueError("the body must be an object with trainerStatus")
    status = dict(post["trainerStatus"])
    if isinstance(status.get("metrics"), list):
        # A map list by name: the last of two wins.
        kept = {metric.name: metric for given in status["metrics"] if (metric := _metric(given))}
        status["metrics"] = [metric.wire() for metric in kept.values()][:MAX_METRICS]
    # A newer trainer may say more than this operator understands.
    return ProgressUpdate.model_validate({**post, "trainerStatus": status}, extra="ignore")


def _metric(given: Any) -> NamedValue | None:
    try:
        return NamedValue.model_validate(given, extra="ignore")
    except ValidationError:
        return None
