"""When a look that failed is told, in which words, and when it is forgotten."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from kubetune.controller import synced
from kubetune.controller.errors import ApiError, Conflict, Refused, Unavailable, error_of
from kubetune.controller.keys import Key
from kubetune.controller.synced import Synced
from tests.fixtures.kstatus import kstatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = Key("AdapterSet", "n", "s")
READY = {
    "type": "Ready",
    "status": "True",
    "reason": "Loaded",
    "message": "",
    "lastTransitionTime": "2025-01-01",
}
WEBHOOK = error_of(500, "InternalError", "failed calling webhook")
Object = dict[str, Any]


class Server:
    """Holds one resource, and refuses what it is told to."""

    def __init__(self, **status: Any) -> None:
        meta = {"name": "s", "namespace": "n", "uid": "u", "resourceVersion": "1", "generation": 1}
        self.resource: Object = {
            "apiVersion": "kubetune.io/v1alpha1", "kind": "AdapterSet", "metadata": meta, "status": status
        }  # fmt: skip
        self.events: list[str] = []
        self.writes = 0
        self.refuses: ApiError | None = None

    async def find(self, kind: str, namespace: str, name: str) -> Object:
        return self.resource

    async def create(self, event: Object) -> Object:
        self.events.append(event["message"])
        return event

    async def apply_status(self, resource: Object, status: Object) -> Object:
        self.writes += 1
        if self.refuses:
            raise self.refuses
        self.resource = {**resource, "status": status}
        return self.resource

    def conditions(self) -> dict[str, str]:
        return {c["type"]: c["status"] for c in self.resource["status"].get("conditions", [])}


def telling(server: Server) -> Synced:
    return Synced(server, lambda: NOW)  # type: ignore[arg-type]


async def test_a_refusal_is_told_once_with_its_words_and_taken_back():
    server = Server(observedGeneration=1, phase="Ready", conditions=[READY])
    found = telling(server)
    for _ in range(3):
        await found.failed(KEY, WEBHOOK)
    assert len(server.events) == server.writes == 1
    assert "failed calling webhook" in server.events[0]
    assert server.conditions() == {"Ready": "True", "Synced": "False"}
    assert server.resource["status"]["phase"] == "Ready"
    assert found.failing() == Counter(AdapterSet=1)
    await found.succeeded(KEY, server.resource)
    assert server.conditions() == {"Ready": "True"}
    assert server.resource["status"]["conditions"][0]["lastTransitionTime"] == "2025-01-01"
    assert found.failing() == Counter()


@pytest.mark.parametrize("given", [{}, {"observedGeneration": -1}], ids=repr)
async def test_a_new_resource_is_in_progress(given: dict[str, Any]):
    server = Server(**given)
    await telling(server).failed(KEY, WEBHOOK)
    assert server.conditions() == {
        "Ready": "False", "Reconciling": "True", "Stalled": "False", "Synced": "False"
    }  # fmt: skip
    verdict, message = kstatus(server.resource)
    assert verdict == "InProgress"
    assert "failed calling webhook" in message


async def test_another_cause_replaces_the_first():
    server = Server()
    found = telling(server)
    await found.failed(KEY, WEBHOOK)
    await found.failed(KEY, error_of(403, "Forbidden", "exceeded quota"))
    assert ["webhook" in server.events[0], "quota" in server.events[1]] == [True, True]


@pytest.mark.parametrize("error", [Conflict("c", 409), Unavailable("down", 503)], ids=repr)
async def test_what_mostly_passes_is_told_only_if_it_lasts(error: ApiError, monkeypatch: pytest.MonkeyPatch):
    server = Server()
    found = telling(server)
    await found.failed(KEY, error)
    assert server.writes == 0
    monkeypatch.setattr(synced, "PASSING_SECONDS", 0.0)
    await found.failed(KEY, error)
    assert server.conditions()["Synced"] == "False"


async def test_a_mistake_of_ours_is_told_too():
    server = Server()
    await telling(server).failed(KEY, KeyError("x"))
    assert "KeyError: 'x'" in server.events[0]


async def test_a_status_that_is_refused_is_told_by_the_event_and_costs_nothing_else():
    server = Server()
    server.refuses = Refused("no status today")
    await telling(server).failed(KEY, Refused("no status today"))
    assert len(server.events) == 1
    server.resource["status"] = {"conditions": ["not a condition"]}
    await telling(server).failed(KEY, Refused("r"))
    await telling(server).succeeded(KEY, server.resource)


def test_the_port_that_a_connection_came_from_is_no_news():
    said = [
        error_of(500, "", f"dial tcp 10.0.0.1:{port}->10.0.0.2:443: refused").message for port in (4000, 4001)
    ]
    assert said == ["dial tcp 10.0.0.2:443: refused"] * 2
