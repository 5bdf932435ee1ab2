"""/healthz, /readyz and /metrics."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from kubetune.controller import metrics
from kubetune.controller.elector import Elector
from kubetune.controller.installed import Installed
from kubetune.controller.loop import ReconcileLoop
from kubetune.controller.watches import Watches

STUCK_SECONDS = 600.0
"""A resource that has waited for so long means that the workers are stuck."""
SILENT_SECONDS, SILENT_RESYNCS = 900.0, 3
"""After so many seconds, and so many resync periods, without a successful resync, or without a change that
one showed, the operator is unhealthy and is started anew."""
ELECTOR_SECONDS = 60.0
"""An elector that has tried nothing for so long is stuck."""


def application(
    elector: Elector, loop: ReconcileLoop, watches: Watches, installed: Installed
) -> web.Application:
    """The operator's plain-HTTP endpoints."""
    silent_seconds = max(SILENT_SECONDS, SILENT_RESYNCS * loop.resync_seconds)

    async def healthz(_: web.Request) -> web.Response:
        if (silent := elector.silent_seconds()) > ELECTOR_SECONDS:
            return _unwell(f"the Lease has not been looked at for {silent:.0f} s")
        if not elector.leads or installed.missing:
            return web.Response(text="ok\n")
        if (waited := loop.queue.oldest_seconds()) > STUCK_SECONDS:
            return _unwell(f"a resource has been waiting for {waited:.0f} s")
        if (silent := loop.resync_age_seconds()) > silent_seconds:
            return _unwell(f"no resync has succeeded for {silent:.0f} s")
        if (lag := loop.sightings.lag_seconds()) > silent_seconds:
            return _unwell(f"the watches have missed a change {lag:.0f} s ago")
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if elector.leads and installed.missing:
            return _unwell(installed.why())
        if elector.leads:
            return web.Response(text="ok\n") if watches.ready.is_set() else _unwell("starting")
        if elector.rival:
            return _unwell(elector.rival)
        if elector.refusal:
            return _unwell(f"it cannot lead, for the API server refuses: {elector.refusal}")
        # Progress is received by those that stand by, too.
        return web.Response(text="standing by\n") if elector.has_looked else _unwell("starting")

    async def expose(_: web.Request) -> web.Response:
        metrics.LEADER.set(elector.leads)
        metrics.QUEUE_DEPTH.set(loop.queue.depth)
        metrics.QUEUE_AGE.set(loop.queue.oldest_seconds())
        metrics.WATCH_LAG.set(loop.sightings.lag_seconds())
        metrics.RESYNC_AGE.set(loop.resync_age_seconds() if elector.leads else 0)
        metrics.UNSYNCED.clear()
        for kind, count in loop.synced.failing().items():
            metrics.UNSYNCED.labels(kind).set(count)
        metrics.JOBS.clear()
        for labels, count in loop.phases().items():
            metrics.JOBS.labels(*labels).set(count)
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", expose)
    return app


def _unwell(why: str) -> web.Response:
    return web.Response(status=503, text=f"{why}\n")
