"""`kubetune operator`: watches, queue, reconcilers, progress receiver and health in one process."""

import asyncio
import logging
import signal
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TypeVar
from urllib.parse import urlsplit

from aiohttp import web

from kubetune.controller import health, logs
from kubetune.controller.adapterset import AdapterSetReconciler
from kubetune.controller.client import Client
from kubetune.controller.errors import Conflict, Unavailable
from kubetune.controller.jobs import JobReconciler
from kubetune.controller.loop import Loop
from kubetune.controller.options import Options, parse
from kubetune.controller.reconciler import Reconciler
from kubetune.controller.watches import Watches
from kubetune.desired import adapterset, job
from kubetune.progress import identity, server
from kubetune.progress.review import Reviewer
from kubetune.progress.writer import Writer

log = logging.getLogger(__name__)

T = TypeVar("T")
RETRY_SECONDS = 2.0


def main(argv: Sequence[str]) -> int:
    """Run until stopped; returns the exit status: 0 after a signal, 1 when a part has ended by itself."""
    logs.configure()
    return asyncio.run(run(parse(argv)))


async def run(options: Options) -> int:
    """Run until a signal, or until a part gives up: then the process ends, to be started again."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def take_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)

    take_signals()
    stop = asyncio.create_task(stopping.wait())
    parts = asyncio.create_task(run_parts(options, take_signals))
    await asyncio.wait({stop, parts}, return_when=asyncio.FIRST_COMPLETED)
    if parts.done():
        log.error("a part of the operator has ended", exc_info=parts.exception())
        return 1
    # Nothing needs an orderly end: whatever is under way is looked at again by the next process.
    parts.cancel()
    await asyncio.wait({parts})
    log.info("stopped")
    return 0


async def run_parts(options: Options, take_signals: Callable[[], None]) -> None:
    """Connect everything, and run until cancelled or until a part gives up."""
    async with AsyncExitStack() as stack:
        client = await Client.connect()
        stack.push_async_callback(client.close)
        names = _names(options.progress_url)
        presented = await _patiently(lambda: identity.ensure(client, options.namespace, names))
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        identity.load(tls, presented)
        loop = Loop(client, _reconcilers(options, presented.authority), resync_seconds=options.resync_seconds)
        watches = Watches(loop)
        receiver = server.application(Reviewer(client), Writer(client))
        await _listen(stack, health.application(loop, watches), options.http_port)
        await _listen(stack, receiver, options.progress_port, tls)
        log.info("started with %d workers", options.workers)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(loop.run(options.workers))
            tasks.create_task(_renew(client, options.namespace, names, tls))
            tasks.create_task(watches.run(take_signals))


def _reconcilers(options: Options, authority: str) -> dict[str, Reconciler]:
    jobs = job.Settings(
        image=options.trainer_image,
        image_pull_policy=options.trainer_image_pull_policy,
        progress_url=options.progress_url,
        progress_ca=authority,
        operator_image=options.gateway_image,
    )
    sets = adapterset.Settings(
        gateway_image=options.gateway_image,
        engine_image=options.engine_image,
        image_pull_policy=options.engine_image_pull_policy,
    )
    return {
        "PretrainJob": JobReconciler("PretrainJob", jobs),
        "FineTuneJob": JobReconciler("FineTuneJob", jobs),
        "AdapterSet": AdapterSetReconciler(sets),
    }


async def _listen(
    stack: AsyncExitStack, app: web.Application, port: int, tls: ssl.SSLContext | None = None
) -> None:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, port=port, ssl_context=tls).start()


async def _renew(client: Client, namespace: str, names: Sequence[str], tls: ssl.SSLContext) -> None:
    while True:
        await asyncio.sleep(identity.RENEWAL_CHECK_SECONDS)
        identity.load(tls, await _patiently(lambda: identity.ensure(client, namespace, names)))


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Call until the API server answers."""
    while True:
        try:
            return await call()
        except (Unavailable, Conflict) as error:
            log.warning("%s; again in %.0f s", error.message, RETRY_SECONDS)
            await asyncio.sleep(RETRY_SECONDS)


def _names(url: str) -> list[str]:
    """Names that the receiver is called by inside a cluster, for `https://<service>.<namespace>.svc:<port>`."""
    host = urlsplit(url).hostname or "localhost"
    return [host, f"{host}.cluster.local"] if host.endswith(".svc") else [host]
