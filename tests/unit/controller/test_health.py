"""When the operator says that it should be started anew, and what it tells Prometheus."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from kubetune.controller.health import (
    ELECTOR_SECONDS,
    SILENT_RESYNCS,
    SILENT_SECONDS,
    STUCK_SECONDS,
    application,
)
from kubetune.controller.installed import Installed


def operator(
    *,
    waited: float = 0.0,
    resync: float = 0.0,
    lag: float = 0.0,
    silent: float = 0.0,
    every: float = 300.0,
    ready: bool = True,
    leads: bool = True,
    has_looked: bool = True,
    missing: tuple[str, ...] = (),
    rival: str | None = None,
    refusal: str | None = None,
) -> Any:
    """Elector, loop and watches, as old as they say."""
    elector = SimpleNamespace(
        leads=leads, has_looked=has_looked, silent_seconds=lambda: silent, rival=rival, refusal=refusal
    )
    loop = SimpleNamespace(
        resync_seconds=every,
        queue=SimpleNamespace(depth=3, oldest_seconds=lambda: waited),
        sightings=SimpleNamespace(lag_seconds=lambda: lag),
        resync_age_seconds=lambda: resync,
        synced=SimpleNamespace(failing=lambda: Counter(AdapterSet=4)),
        phases=lambda: Counter({("PretrainJob", "Running"): 2}),
    )
    watches = SimpleNamespace(ready=asyncio.Event())
    if ready:
        watches.ready.set()
    installed = Installed(None)  # type: ignore[arg-type]
    installed.missing = missing
    return application(elector, loop, watches, installed)  # type: ignore[arg-type]


async def ask(app: Any, path: str) -> tuple[int, str]:
    async with TestClient(TestServer(app)) as client, client.get(path) as answer:
        return answer.status, await answer.text()


@pytest.mark.parametrize(
    ("ages", "said"),
    [
        ({"waited": STUCK_SECONDS + 1}, "a resource has been waiting"),
        ({"resync": SILENT_SECONDS + 1}, "no resync has succeeded"),
        ({"lag": SILENT_SECONDS + 1}, "the watches have missed a change"),
        ({"silent": ELECTOR_SECONDS + 1}, "the Lease has not been looked at"),
        ({"silent": ELECTOR_SECONDS + 1, "leads": False}, "the Lease has not been looked at"),
    ],
    ids=["workers", "api server", "watches", "elector", "elector that stands by"],
)
async def test_something_is_stuck(ages: dict[str, float], said: str):
    status, text = await ask(operator(**ages), "/healthz")
    assert status == 503
    assert said in text


async def test_something_is_slow_but_not_stuck():
    app = operator(waited=STUCK_SECONDS - 1, resync=SILENT_SECONDS - 1, lag=SILENT_SECONDS - 1)
    assert await ask(app, "/healthz") == (200, "ok\n")


async def test_seldom_resyncs_are_waited_for():
    every = SILENT_SECONDS
    assert (await ask(operator(resync=SILENT_SECONDS + 1, every=every), "/healthz"))[0] == 200
    assert (await ask(operator(resync=SILENT_RESYNCS * every + 1, every=every), "/healthz"))[0] == 503


async def test_one_that_stands_by_reconciles_nothing_and_is_well():
    app = operator(waited=STUCK_SECONDS + 1, resync=SILENT_SECONDS + 1, lag=SILENT_SECONDS + 1, leads=False)
    assert await ask(app, "/healthz") == (200, "ok\n")


@pytest.mark.parametrize(
    ("state", "status", "said"),
    [
        ({"ready": True}, 200, "ok\n"),
        ({"ready": False}, 503, "starting\n"),
        ({"leads": False, "ready": False}, 200, "standing by\n"),
        ({"leads": False, "ready": False, "has_looked": False}, 503, "starting\n"),
        ({"leads": False, "rival": "another release"}, 503, "another release\n"),
        (
            {"leads": False, "refusal": "get leases: forbidden"},
            503,
            "it cannot lead, for the API server refuses: get leases: forbidden\n",
        ),
    ],
    ids=["leads", "leads, without watches", "stands by", "knows of no Lease yet", "has a rival", "may not"],
)
async def test_it_is_ready_once_it_watches_or_stands_by(state: dict[str, bool], status: int, said: str):
    assert await ask(operator(**state), "/readyz") == (status, said)


async def test_without_its_kinds_it_is_not_ready_but_well():
    app = operator(ready=False, resync=SILENT_SECONDS + 1, missing=("adaptersets.kubetune.io",))
    assert await ask(app, "/healthz") == (200, "ok\n")
    status, text = await ask(app, "/readyz")
    assert status == 503
    assert "CustomResourceDefinition adaptersets.kubetune.io is not installed" in text


async def test_what_prometheus_is_told():
    status, text = await ask(operator(waited=5.0, lag=7.0, resync=9.0), "/metrics")
    assert status == 200
    for line in (
        "kubetune_leader 1.0",
        "kubetune_queue_depth 3.0",
        "kubetune_queue_oldest_seconds 5.0",
        "kubetune_watch_lag_seconds 7.0",
        "kubetune_resync_age_seconds 9.0",
        'kubetune_unsynced{kind="AdapterSet"} 4.0',
        'kubetune_jobs{kind="PretrainJob",phase="Running"} 2.0',
    ):
        assert line in text.splitlines()


async def test_the_age_of_the_resync_is_that_of_the_leader():
    _, text = await ask(operator(resync=9.0, leads=False), "/metrics")
    assert {"kubetune_leader 0.0", "kubetune_resync_age_seconds 0.0"} <= set(text.splitlines())
