"""The admin port: health for the kubelet, state for the operator, metrics for Prometheus."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from kubetune.gateway.fleet import Fleet
from kubetune.gateway.metrics import Metrics


class Admin:
    """Handlers of the admin port."""

    def __init__(self, fleet: Fleet, metrics: Metrics) -> None:
        self._fleet = fleet
        self._metrics = metrics
        self.draining = False
        """Set on SIGTERM: this pod takes no new requests."""

    def application(self) -> web.Application:
        """The routes; all read-only."""
        app = web.Application()
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/state", self.state)
        app.router.add_get("/metrics", self.metrics)
        return app

    async def healthz(self, _: web.Request) -> web.Response:
        """Whether the process works; an unforeseen error ends it."""
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request) -> web.Response:
        """Whether requests should be sent here."""
        if self.draining:
            return web.Response(status=503, text="shutting down\n")
        if not self._fleet.ready:
            return web.Response(
                status=503, text=f"{self._fleet.state.message or 'adapters are being loaded'}\n"
            )
        return web.Response(text="ok\n")

    async def state(self, _: web.Request) -> web.Response:
        """The GatewayState, as JSON."""
        return web.json_response(self._fleet.state.wire())

    async def metrics(self, _: web.Request) -> web.Response:
        """Prometheus text format."""
        self._fleet.update_gauges()
        return web.Response(
            body=generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )
