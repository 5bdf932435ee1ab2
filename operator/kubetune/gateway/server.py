"""Puts the gateway together, runs it until SIGTERM, and lets requests in flight finish."""

import asyncio
import logging
import signal

from aiohttp import web

from kubetune.gateway.admin import Admin
from kubetune.gateway.api import Api
from kubetune.gateway.engine import EngineClient
from kubetune.gateway.fleet import Fleet
from kubetune.gateway.http import Runner
from kubetune.gateway.loader import Loader
from kubetune.gateway.metrics import Metrics
from kubetune.gateway.options import GatewayOptions
from kubetune.gateway.watch import EngineWatch

_log = logging.getLogger(__name__)


async def serve(options: GatewayOptions) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        ExceptionGroup: something unforeseen; the process should end with an error.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    metrics = Metrics()
    async with EngineClient(options.engine_url) as engine:
        watch = EngineWatch(engine, poll_seconds=options.poll_seconds)
        loader = Loader(engine, watch, metrics, options.cache, max_bytes=options.max_adapter_bytes)
        fleet = Fleet(loader, options)
        api, admin = Api(fleet, engine, metrics), Admin(fleet, metrics)
        async with asyncio.TaskGroup() as group:
            follower = group.create_task(fleet.run())
            group.create_task(_listen(options, api, admin, stop, follower))


async def _listen(
    options: GatewayOptions, api: Api, admin: Admin, stop: asyncio.Event, follower: "asyncio.Task[None]"
) -> None:
    # A handler is cancelled when its client goes: the engine sees its connection closed and stops generating.
    api_runner = Runner(api.application(max_body_bytes=options.max_body_bytes))
    admin_runner = web.AppRunner(admin.application(), access_log=None)
    await api_runner.setup()
    await admin_runner.setup()
    try:
        await web.TCPSite(api_runner, options.host, options.port).start()
        await web.TCPSite(admin_runner, options.host, options.admin_port).start()
        _log.info("listening on %d and %d", options.port, options.admin_port)
        await stop.wait()
        admin.draining = api.draining = True
        _log.info("shutting down: %d requests in flight", api.requests.count)
        await asyncio.sleep(options.drain_delay_seconds)
        for site in list(api_runner.sites):
            await site.stop()
        await _until_idle(api, options.drain_seconds)
    finally:
        await api_runner.cleanup()
        await admin_runner.cleanup()
    follower.cancel()


async def _until_idle(api: Api, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await api.requests.idle()
    except TimeoutError:
        _log.warning("%d requests did not finish within %g s and are cut off", api.requests.count, seconds)
