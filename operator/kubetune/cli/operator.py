"""`kubetune operator`: one replica. Each receives progress; the one that leads watches and reconciles."""

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from importlib.metadata import version

from kubetune.api.defaults import PodDefaults
from kubetune.cli.receiver import Receiver, listen
from kubetune.controller import health, logs
from kubetune.controller.adapterset import AdapterSetReconciler
from kubetune.controller.client import Client
from kubetune.controller.elector import Elector, new_identity
from kubetune.controller.events import record
from kubetune.controller.fence import Fence
from kubetune.controller.installed import Installed
from kubetune.controller.jobs import JobReconciler
from kubetune.controller.lease import Timing
from kubetune.controller.loop import ReconcileLoop
from kubetune.controller.options import OperatorOptions, parse
from kubetune.controller.reconciler import Reconciler
from kubetune.controller.watches import Watches
from kubetune.desired import adapterset, job

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run until stopped; returns the exit status: 0 after a signal, 1 when a part has ended by itself."""
    logs.configure()
    return asyncio.run(run(parse(argv)))


async def run(options: OperatorOptions) -> int:
    """Run until a signal, or until a part gives up: then the process ends, to be started again."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def take_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)

    take_signals()
    replica = _Replica(options)
    stop = asyncio.create_task(stopping.wait())
    parts = asyncio.create_task(replica.run(take_signals))
    await asyncio.wait({stop, parts}, return_when=asyncio.FIRST_COMPLETED)
    if parts.done():
        log.error("a part of the operator has ended", exc_info=parts.exception())
        return 1
    if replica.elector:
        await replica.elector.resign()
    # Nothing else needs an orderly end: whatever is under way is looked at again by the next leader.
    parts.cancel()
    await asyncio.wait({parts})
    log.info("stopped")
    return 0


class _Replica:
    """The parts of the process."""

    def __init__(self, options: OperatorOptions) -> None:
        self.elector: Elector | None = None
        self._options = options
        self._identity = new_identity()

    async def run(self, take_signals: Callable[[], None]) -> None:
        """Connect everything, and run until cancelled or until a part gives up."""
        options, fence = self._options, Fence()
        async with AsyncExitStack() as stack:
            receiver = Receiver(await self._client(stack, "receiver"), options)
            client = await self._client(stack, "reconciler", fence)
            self.elector = elector = Elector(
                await self._client(stack, "elector"),
                options.namespace,
                self._identity,
                fence,
                Timing(options.lease_seconds),
                scope=options.watch_namespaces,
            )
            reconcilers = _reconcilers(options, await receiver.prepare())
            scope = options.watch_namespaces
            loop = ReconcileLoop(client, reconcilers, resync_seconds=options.resync_seconds, namespaces=scope)
            watches = Watches(loop, receiver.reviewer.forget, scope)
            installed = Installed(client)
            await listen(stack, health.application(elector, loop, watches, installed), options.http_port)
            await receiver.listen(stack)
            log.info("started as %s", self._identity)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(receiver.serve())
                tasks.create_task(receiver.renew())
                lease = await elector.acquire()
                tasks.create_task(elector.hold())
                await record(client, lease, "Normal", "LeaderElection", f"{self._identity} leads")
                await installed.all()
                tasks.create_task(loop.run(options.workers))
                tasks.create_task(watches.run(take_signals))

    async def _client(self, stack: AsyncExitStack, part: str, fence: Fence | None = None) -> Client:
        # With connections of its own: no part waits for another's, least of all the elector.
        client = await Client.connect(f"kubetune/{version('kubetune')} ({self._identity}) {part}", fence)
        stack.push_async_callback(client.close)
        return client


def _reconcilers(options: OperatorOptions, authority: str) -> dict[str, Reconciler]:
    defaults = PodDefaults.model_validate_json(options.pod_defaults)
    jobs = job.TrainingSettings(
        image=options.trainer_image,
        image_pull_policy=options.trainer_image_pull_policy,
        progress_url=options.progress_url,
        progress_ca=authority,
        operator_image=options.gateway_image,
        defaults=defaults,
    )
    sets = adapterset.ServingSettings(
        gateway_image=options.gateway_image,
        engine_image=options.engine_image,
        image_pull_policy=options.engine_image_pull_policy,
        defaults=defaults,
    )
    return {
        "PretrainJob": JobReconciler("PretrainJob", jobs),
        "FineTuneJob": JobReconciler("FineTuneJob", jobs),
        "AdapterSet": AdapterSetReconciler(sets),
    }
