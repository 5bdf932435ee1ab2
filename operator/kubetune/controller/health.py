"""/healthz, /readyz and /metrics."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from kubetune.controller import metrics
from kubetune.controller.loop import Loop
from kubetune.controller.watches import Watches

STUCK_SECONDS = 600.0
"""A resource that has waited for so long means that the workers are stuck."""
SILENT_SECONDS, SILENT_RESYNCS = 900.0, 3
"""After so long, and so many resyncs, without success, or without what they showed: start anew."""


def application(loop: Loop, watches: Watches) -> web.Application:
    """The operator's plain-HTTP endpoints."""
    silent_seconds = max(SILENT_SECONDS, SILENT_RESYNCS * loop.resync_seconds)

    async def healthz(_: web.Request) -> web.Response:
        if (waited := loop.queue.oldest_seconds()) > STUCK_SECONDS:
            return web.Response(status=503, text=f"a resource has been waiting for {waited:.0f} s\n")
        if (silent := loop.resync_age_seconds()) > silent_seconds:
            return web.Response(status=503, text=f"no resync has succeeded for {silent:.0f} s\n")
        if (lag := loop.sightings.lag_seconds()) > silent_seconds:
            return web.Response(status=503, text=f"the watches have missed a change {lag:.0f} s ago\n")
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return (
            web.Response(text="ok\n")
            if watches.ready.is_set()
            else web.Response(status=503, text="starting\n")
        )

    async def expose(_: web.Request) -> web.Response:
        metrics.QUEUE_DEPTH.set(loop.queue.depth)
        metrics.QUEUE_AGE.set(loop.queue.oldest_seconds())
        metrics.WATCH_LAG.set(loop.sightings.lag_seconds())
        metrics.RESYNC_AGE.set(loop.resync_age_seconds())
        metrics.JOBS.clear()
        for labels, count in loop.phases().items():
            metrics.JOBS.labels(*labels).set(count)
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", expose)
    return app
