"""Two replicas: one reconciles; when it dies, stops, hangs or is cut off, the other does, and never both."""

import itertools
import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.fixtures.closable_proxy import Proxy, server_of, through
from tests.fixtures.operator import NAMESPACE, Object, Operator, eventually
from tests.fixtures.trainer import Trainer
from tests.fixtures.world import ACCOUNT, World

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TAKEOVERS, TAKEOVERS_LONG = 1, 3
SHORT = 6
"""Seconds of a lease, where it does not matter how long it is."""
Start = Callable[..., Operator]


@pytest.fixture
def alone(world: World) -> Iterator[World]:
    """The world, without the operator that other tests use; jobs come and end all the time."""
    world.operator.end()
    stop = threading.Event()

    def users() -> None:
        for number in itertools.count():
            world.pretrain(f"job-{number}", *(["exit 1"] * (number % 2)), "succeed")
            if stop.wait(0.3):
                return

    busy = threading.Thread(target=users)
    busy.start()
    yield world
    stop.set()
    busy.join()
    world.operator.start()
    world.operator.until_ready()


@pytest.fixture
def audit(alone: World) -> "Audit":
    return Audit(alone)


@pytest.fixture
def start(alone: World, tmp_path: Path) -> Iterator[Start]:
    """Starts replicas, the way Kubernetes would; they end with the test."""
    started: list[Operator] = []

    def one(kubeconfig: Path = alone.operator.kubeconfig, lease_seconds: int = 15) -> Operator:
        log = tmp_path / f"replica-{len(started)}.log"
        replica = Operator(kubeconfig, log, options=[f"--lease-seconds={lease_seconds}"])
        replica.start()
        started.append(replica)
        return replica

    yield one
    for replica in started:
        assert replica.process
        replica.process.terminate()
        replica.process.wait(timeout=10)


@pytest.fixture
def takeovers(thorough: bool) -> int:
    return TAKEOVERS_LONG if thorough else TAKEOVERS


class Write(NamedTuple):
    """A writing request to a resource of the test's namespace, by the API server's audit log."""

    received: datetime
    answered: datetime
    agent: str


class Audit:
    """The API server's audit log, read as it grows."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._read = world.audit_log.stat().st_size
        self._writes: list[Write] = []

    def writes(self, part: str = "reconciler") -> list[Write]:
        """What this part of the replicas has written, in the order in which it was received."""
        with self._world.audit_log.open("rb") as log:
            log.seek(self._read)
            lines = log.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):
                self._read += len(line)
                self._note(json.loads(line))
        return sorted(write for write in self._writes if write.agent.endswith(part))

    def _note(self, entry: Object) -> None:
        if (
            entry["user"]["username"] == ACCOUNT
            and entry.get("objectRef", {}).get("namespace") == self._world.namespace
            and entry["verb"] not in ("get", "list", "watch")
        ):
            times = [datetime.fromisoformat(entry[f"{at}Timestamp"]) for at in ("requestReceived", "stage")]
            self._writes.append(Write(times[0], times[1], entry["userAgent"]))

    def until_writing(self, replica: Operator, seconds: float = 90.0) -> float:
        """Wait until a replica has written something; returns when that was received (time.time())."""

        def poll() -> Write | None:
            return next((write for write in self.writes() if write.agent == agent_of(replica)), None)

        return eventually("it writes", poll, seconds=seconds).received.timestamp()


def assert_one_after_another(audit: Audit, replicas: list[Operator]) -> None:
    """Each replica's last write was answered before the first of the next was received."""
    by_agent = itertools.groupby(audit.writes(), lambda write: write.agent)
    turns = [(agent, list(found)) for agent, found in by_agent]
    assert [agent for agent, _ in turns] == [agent_of(replica) for replica in replicas], turns
    for (_, before), (_, after) in itertools.pairwise(turns):
        assert max(write.answered for write in before) < after[0].received
    print("figure: writes in turns:", ", ".join(str(len(found)) for _, found in turns))


def identity_of(replica: Operator) -> str:
    [said] = re.findall(r"started as (\S+?)\"", replica.log.read_text())
    return str(said)


def agent_of(replica: Operator) -> str:
    return f"kubetune/{version('kubetune')} ({identity_of(replica)}) reconciler"


def leading(start: Start, audit: Audit, **how: Any) -> Operator:
    """A first replica, amid its work."""
    leader = start(**how)
    leader.until_ready()
    audit.until_writing(leader)
    return leader


def test_a_leader_that_is_killed_is_followed_once_its_lease_is_over(
    alone: World, audit: Audit, start: Start, takeovers: int
) -> None:
    replicas = [leading(start, audit)]
    for number in range(takeovers):
        standby = start()
        standby.until_standing_by()
        assert (replicas[-1].metric("kubetune_leader"), standby.metric("kubetune_leader")) == (1, 0)
        time.sleep(number * 0.7)
        replicas[-1].end(signal.SIGKILL)
        killed = time.time()
        replicas.append(standby)
        took = audit.until_writing(standby) - killed
        print(f"\nfigure: SIGKILL of the leader to the first write of the next: {took:.1f} s")
        # Not too early: the one that was killed might have lived.
        assert took > 15 - 2.5
    settled(alone)
    assert_one_after_another(audit, replicas)


def settled(world: World) -> None:
    """The jobs of the first seconds have all been brought to their end."""
    for name in ("job-0", "job-1", "job-2"):
        assert world.until_phase(name, "Succeeded")["attempts"] == 1 + int(name == "job-1")


def test_a_leader_that_is_stopped_is_followed_at_once(
    alone: World, audit: Audit, start: Start, takeovers: int
) -> None:
    replicas = [leading(start, audit)]
    for _ in range(takeovers):
        standby = start()
        standby.until_standing_by()
        memory = [f"{replica.memory_mib():.0f}" for replica in (replicas[-1], standby)]
        print(f"\nfigure: MiB of memory, leader and standby: {', '.join(memory)}")
        stopped = time.time()
        assert replicas[-1].end(signal.SIGTERM) == 0
        ended = time.time() - stopped
        replicas.append(standby)
        took = audit.until_writing(standby) - stopped
        print(f"\nfigure: SIGTERM: ended after {ended:.2f} s, first write of the next after {took:.2f} s")
        # It need not wait until the Lease is over.
        assert took < 15 - 2.5
    settled(alone)
    assert_one_after_another(audit, replicas)
    said = alone.get(f"/api/v1/namespaces/{NAMESPACE}/events?fieldSelector=involvedObject.name=kubetune")
    messages = {event["message"] for event in said["items"] if event["reason"] == "LeaderElection"}
    assert {f"{identity_of(replica)} leads" for replica in replicas} <= messages


def test_a_leader_that_was_frozen_and_wakes_writes_nothing_and_ends(
    alone: World, audit: Audit, start: Start
) -> None:
    replicas = [leading(start, audit, lease_seconds=SHORT), start(lease_seconds=SHORT)]
    sleeper, standby = replicas
    standby.until_standing_by()
    # All its workers are in the midst of something.
    for number in range(40):
        alone.pretrain(f"burst-{number}", "succeed")
    assert sleeper.process
    sleeper.process.send_signal(signal.SIGSTOP)
    audit.until_writing(standby)
    time.sleep(1)
    woken = time.time()
    sleeper.process.send_signal(signal.SIGCONT)
    assert sleeper.process.wait(timeout=10) == 1
    print(f"\nfigure: SIGCONT to its end: {time.time() - woken:.2f} s")
    assert "LeadershipLost" in sleeper.log.read_text()
    time.sleep(1)
    settled(alone)
    assert_one_after_another(audit, replicas)


def test_a_leader_that_is_cut_off_steps_down_before_the_other_begins(
    alone: World, audit: Audit, start: Start, tmp_path: Path
) -> None:
    kubeconfig = alone.operator.kubeconfig
    proxy = Proxy(server_of(kubeconfig))
    way = through(proxy, kubeconfig, tmp_path / "kubeconfig")
    leader = leading(start, audit, kubeconfig=way, lease_seconds=SHORT)
    standby = start(lease_seconds=SHORT)
    standby.until_standing_by()
    proxy.freeze()
    frozen = time.time()
    assert leader.process
    assert leader.process.wait(timeout=SHORT) == 1
    ended = time.time() - frozen
    took = audit.until_writing(standby) - frozen
    print(f"\nfigure: cut off: ended after {ended:.1f} s, first write of the next after {took:.1f} s")
    assert ended < took < 2 * SHORT
    settled(alone)
    assert_one_after_another(audit, [leader, standby])
    proxy.close()


def test_each_replica_receives_progress_and_is_trusted(alone: World, audit: Audit, start: Start) -> None:
    leader, standby = replicas = [leading(start, audit), start()]
    standby.until_standing_by()
    alone.pretrain("long")
    trainer = Trainer(replace(alone, operator=leader), "long")
    for percent, replica in enumerate([*replicas, leader], start=1):
        body = {"trainerStatus": {"progressPercentage": percent}}
        assert replica.post(trainer.path, trainer.token, body, trainer.authority) == 200
        eventually("it is shown", partial(is_shown, alone, percent))
    eventually("the log tells", lambda: len({write.agent for write in audit.writes("receiver")}) == 2)


def is_shown(world: World, percent: int) -> bool:
    return world.status("long").get("trainerStatus", {}).get("progressPercentage") == percent
