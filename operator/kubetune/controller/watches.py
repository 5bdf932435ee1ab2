"""Kopf watches and wakes us; it decides nothing.

Handlers only put a key into the queue: they cannot fail, and add neither finalizers nor annotations.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import kopf

from kubetune.api.kinds import KINDS
from kubetune.api.labels import MANAGED_BY_LABEL, MANAGER
from kubetune.api.meta import GROUP, VERSION
from kubetune.controller.keys import Key, owner_key
from kubetune.controller.loop import ReconcileLoop

CHILDREN = (
    ("batch", "v1", "jobs"),
    ("", "v1", "pods"),
    ("apps", "v1", "deployments"),
    ("", "v1", "services"),
)
SERVER_SECONDS = 290
CLIENT_SECONDS = 330


class WatchesEnded(Exception):
    """There are no watches any more."""


class Watches:
    """The watches of our kinds and of their children."""

    def __init__(
        self, loop: ReconcileLoop, pod_gone: Callable[[str], None], namespaces: Sequence[str] = ()
    ) -> None:
        """Prepare the watches.

        Args:
            loop: whose queue is fed.
            pod_gone: is told the UID of each pod that is gone.
            namespaces: what is watched; empty: every namespace.
        """
        self._loop = loop
        self._namespaces = namespaces
        self._pod_gone = pod_gone
        self.ready = asyncio.Event()
        self._registry = kopf.OperatorRegistry()
        self._settings = _settings()
        for kind in KINDS:
            kopf.on.event(GROUP, VERSION, kind.plural, registry=self._registry, param=kind.name)(
                self._on_ours
            )
        for group, version, plural in CHILDREN:
            kopf.on.event(group, version, plural, registry=self._registry)(self._on_child)
        kopf.on.login(registry=self._registry)(_login)

    async def run(self, take_signals: Callable[[], None]) -> None:
        """Watch until cancelled.

        Args:
            take_signals: sets the process's signal handlers. Kopf sets its own when it starts. With those it
                would end only after all our tasks, which it takes for its own, have had five seconds to end.

        Raises:
            WatchesEnded: Kopf has given up; without watches the process should be started anew.
        """
        others = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=self._registry,
            settings=self._settings,
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            ready_flag=self.ready,
        )
        take_signals()
        await kopf.run_tasks(tasks, ignored=others)
        raise WatchesEnded("the watches have ended")

    async def _on_ours(self, *, param: Any = None, body: kopf.Body, type: str | None, **_: Any) -> None:
        meta = body["metadata"]
        key = Key(param, meta["namespace"], meta["name"])
        self._loop.seen(key, dict(body), deleted=type == "DELETED")

    async def _on_child(
        self, *, body: kopf.Body, resource: kopf.Resource, type: str | None, **_: Any
    ) -> None:
        if type == "DELETED" and resource.plural == "pods":
            self._pod_gone(body["metadata"]["uid"])
        key = owner_key(body)
        if key is not None:
            self._loop.queue.add(key)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.client_timeout = CLIENT_SECONDS
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    # So that an API server that comes back after a minute is noticed soon after.
    settings.networking.error_backoffs = (1, 1, 2, 3, *[5] * 20)
    settings.queueing.worker_limit = None
    for group, version, plural in CHILDREN:
        # Kopf's own `labels=` would filter here, after every pod of the cluster has come over the wire.
        settings.watching.label_selectors[group, version, plural] = f"{MANAGED_BY_LABEL}={MANAGER}"
    return settings


def _login(**kwargs: Any) -> Any:
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
