"""The operator dies, again and again: nothing is lost and nothing is done twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.fixtures.gateway import free_port
from tests.fixtures.operator import Operator, eventually
from tests.fixtures.trainer import Trainer
from tests.fixtures.world import ACCOUNT, World

pytestmark = pytest.mark.integration

BASE = {"jobRef": {"kind": "PretrainJob", "name": "base"}}
PLAYS = {
    # steps of the attempts: expected phase, attempts, restarts
    ("succeed",): ("Succeeded", 1, 0),
    ("exit 1", "succeed"): ("Succeeded", 2, 1),
    ("exit 143", "succeed"): ("Succeeded", 2, 0),
    ("exit 11",): ("Failed", 1, 0),
}
JOBS = 30
DEATHS = 3


def test_killed_at_any_moment_it_loses_nothing_and_does_nothing_twice(world: World) -> None:
    chosen = random.Random(20)
    expected = {}
    for number in range(JOBS - 1):
        steps, outcome = list(PLAYS.items())[number % len(PLAYS)]
        name, kind = f"job-{number}", ("PretrainJob", "FineTuneJob")[number % 3 == 0]
        expected[kind, name] = outcome
        if kind == "FineTuneJob":
            world.finetune(name, *steps, base=BASE)
        else:
            world.pretrain(name, *steps)
    expected["PretrainJob", "base"] = PLAYS[("succeed",)]
    world.pretrain("base", "succeed")

    for _ in range(DEATHS):
        # It works for a moment only, so that it dies in the middle of something.
        time.sleep(chosen.uniform(0.0, 1.0))
        world.kill_operator()
        world.operator.start()
        eventually("it works", lambda: world.operator.metric("kubetune_leader") == 1)
        assert not all(is_over(world, kind, name) for kind, name in expected), "it died too late"
    eventually(
        "all are over", lambda: all(is_over(world, kind, name) for kind, name in expected), seconds=200
    )

    created, deleted = written(world, "create", 201), written(world, "delete", 200)
    for (kind, name), (phase, attempts, restarts) in expected.items():
        status = world.status(name, kind)
        assert (status["phase"], status["attempts"], status["restarts"]) == (phase, attempts, restarts), name
        names = [child["metadata"]["name"] for child in world.children(name, kind)]
        assert len(names) == attempts, name
        # Never deleted and made again, either. Where the operator died in its request, a Job that
        # was made may stand in the log as cancelled.
        assert all(created[child] <= 1 and not deleted[child] for child in names)
        assert Counter(world.events(name))["Normal", "Completed"] <= 1
    assert sum(created.values()) <= sum(attempts for _, attempts, _ in expected.values())


def is_over(world: World, kind: str, name: str) -> bool:
    return world.status(name, kind).get("phase") in ("Succeeded", "Failed")


def written(world: World, verb: str, code: int) -> Counter[str]:
    """How often the operator did this to each Job of the namespace, by the API server's audit log."""
    names: Counter[str] = Counter()
    for line in world.audit_log.read_text().splitlines():
        entry = json.loads(line)
        target = entry.get("objectRef", {})
        wanted = (verb, "jobs", world.namespace, code)
        answer = entry["responseStatus"]["code"]
        if (entry["verb"], target.get("resource"), target.get("namespace"), answer) == wanted:
            assert entry["user"]["username"] == ACCOUNT
            names[target["name"]] += 1
    return names


def test_sigterm_ends_it_at_once_and_the_next_one_goes_on(world: World) -> None:
    world.pretrain("tiny")
    trainer = Trainer(world, "tiny")
    begun = time.monotonic()
    assert world.operator.end(signal.SIGTERM) == 0
    assert time.monotonic() - begun < 5
    world.operator.start()
    world.operator.until_ready()
    # Still under the authority that the pod has mounted.
    assert trainer.post({"trainerStatus": {"progressPercentage": 7}}) == 200
    world.node.plays[world.namespace, "tiny"] = ["succeed"]
    assert world.until_phase("tiny", "Succeeded")["attempts"] == 1


def test_a_part_that_fails_ends_the_process(world: World, tmp_path: Path) -> None:
    second = Operator(world.operator.kubeconfig, tmp_path / "log", http_port=world.operator.http_port)
    second.start()
    assert second.process
    try:
        assert second.process.wait(timeout=30) == 1
    finally:
        second.process.kill()
    assert "address already in use" in second.log.read_text()


def test_without_an_api_server_it_waits_and_can_be_stopped(tmp_path: Path) -> None:
    cluster = {"name": "x", "cluster": {"server": f"https://127.0.0.1:{free_port()}"}}
    config = {
        "apiVersion": "v1", "kind": "Config", "clusters": [cluster], "users": [{"name": "x", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}], "current-context": "x",
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    operator = Operator(tmp_path / "kubeconfig", tmp_path / "log")
    operator.start()
    eventually("it says what is wrong", lambda: "again in" in operator.log.read_text())
    assert operator.end(signal.SIGTERM) == 0


def test_sigterm_is_obeyed_while_it_starts(tmp_path: Path) -> None:
    # A container's first process has no default handlers: the signal would be lost.
    script = (
        "import os, signal, sys; sys.argv = ['kubetune', 'operator'];"
        "from kubetune.cli import __main__ as command;"
        "import builtins; real = builtins.__import__\n"
        "def slow(name, *rest):\n"
        "    if name == 'kubetune.cli.operator': os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = slow; sys.exit(command.main())"
    )
    done = subprocess.run([sys.executable, "-c", script], env=os.environ, timeout=30, check=False)
    assert done.returncode == 0
