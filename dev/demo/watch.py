"""Waiting for resources with their progress on screen, and reading facts of the serving pods."""

import sys
import time
from datetime import datetime
from typing import Any

from dev.demo.facts import ClaimFailed
from dev.demo.screen import Screen
from dev.kubectl import Kubectl, KubectlError


def seconds(timestamp: str) -> float:
    """Unix time of an RFC 3339 timestamp."""
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()


def condition(resource: dict[str, Any], kind: str) -> dict[str, Any]:
    """A condition of a resource; empty when it is not there yet."""
    return next((c for c in resource.get("status", {}).get("conditions", []) if c["type"] == kind), {})


def until_complete(
    screen: Screen, kubectl: Kubectl, *names: str, patience: float, every: float = 2.0
) -> list[dict[str, Any]]:
    """Wait for jobs, printing a line whenever the numbers of one move. How long that takes is the machine's
    matter.

    Raises:
        ClaimFailed: a job failed; carries its reason and message.
        TimeoutError: no number has moved for `patience` seconds.
    """
    shown: dict[str, str] = {}
    moved = time.monotonic()
    while True:
        jobs = [kubectl.get(name) for name in names]
        for name, job in zip(names, jobs, strict=True):
            line = summary(job)
            if shown.get(name) != line:
                screen.say(f"{name:26} {line}")
                shown[name], moved = line, time.monotonic()
            if condition(job, "Failed").get("status") == "True":
                failure = job["status"].get("failure", {})
                raise ClaimFailed(f"{name} failed: {failure.get('reason')}: {failure.get('message')}")
        if all(condition(job, "Complete").get("status") == "True" for job in jobs):
            return jobs
        if time.monotonic() - moved > patience:
            raise TimeoutError(f"nothing has moved for {patience:.0f} s: {', '.join(names)}")
        time.sleep(every)


def summary(job: dict[str, Any]) -> str:
    """Phase and live numbers of a job on one line."""
    status = job.get("status", {})
    trainer = status.get("trainerStatus", {})
    numbers = {m["name"]: m["value"] for m in trainer.get("metrics", [])}
    parts = [status.get("phase", "Pending")]
    if "progressPercentage" in trainer:
        parts.append(f"{trainer['progressPercentage']:3d}%")
    parts += [f"{key} {numbers[key]}" for key in ("step", "loss", "tokensPerSecond") if key in numbers]
    if "estimatedRemainingSeconds" in trainer and status.get("phase") == "Running":
        parts.append(f"ETA {trainer['estimatedRemainingSeconds']} s")
    return "  ".join(parts)


def until_ready(screen: Screen, kubectl: Kubectl, name: str, *, timeout: float) -> None:
    """Wait until every adapter of a set is loaded in every pod."""
    shown = ""
    deadline = time.monotonic() + timeout
    while True:
        status = kubectl.get(name).get("status", {})
        conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
        line = f"{status.get('phase')}  ready {status.get('ready')}  adapters loaded {status.get('loaded')}"
        if line != shown:
            screen.say(f"{name:26} {line}")
            shown = line
        if conditions.get("Loaded") == conditions.get("Available") == "True":
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} was not ready within {timeout:.0f} s: {status.get('conditions')}")
        time.sleep(1)


def adapter(kubectl: Kubectl, adapter_set: str, name: str) -> dict[str, Any]:
    """An adapter's entry in the set's status."""
    entries = kubectl.get("adapterset", adapter_set)["status"].get("adapters", [])
    return next((entry for entry in entries if entry["name"] == name), {})


def loaded_name(kubectl: Kubectl, adapter_set: str, name: str) -> str:
    """The engine's own name of the version that is served."""
    return str(adapter(kubectl, adapter_set, name).get("loadedName"))


def serves(kubectl: Kubectl, adapter_set: str, name: str, digest: str) -> bool | None:
    """True once every desired pod serves that version."""
    entry = adapter(kubectl, adapter_set, name)
    caught_up = entry.get("digest") == digest and entry.get("desired") and entry["ready"] == entry["desired"]
    return True if caught_up else None


def engine_identity(kubectl: Kubectl, adapter_set: str) -> str:
    """Pod, start time and restart count of the engine container."""
    pod = kubectl.get("pods", "-l", f"kubetune.io/kind=AdapterSet,kubetune.io/name={adapter_set}")["items"][0]
    engine = next(c for c in pod["status"]["initContainerStatuses"] if c["name"] == "engine")
    started = engine["state"]["running"]["startedAt"]
    return f"{pod['metadata']['name']}, started {started}, {engine['restartCount']} restarts"


def diagnose(kubectl: Kubectl) -> None:
    """Print what a person would look at when something went wrong."""
    for words in (
        ("get", "kubetune", "-o", "wide"),
        ("get", "pods", "-o", "wide"),
        ("get", "events", "--sort-by=.lastTimestamp"),
        ("logs", "-l", "app.kubernetes.io/managed-by=kubetune", "--all-containers", "--prefix", "--tail=30"),
    ):
        print(f"\n$ kubectl {' '.join(words)}", file=sys.stderr)
        try:
            print(kubectl(*words), file=sys.stderr, flush=True)
        except KubectlError as error:
            print(error, file=sys.stderr, flush=True)
