"""What the tests look at: conditions, pods, processes on the node, files on a claim."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from dev.kubectl import Kubectl, wait_for

KINDS = "pretrainjobs,finetunejobs,adaptersets"


def apply(kubectl: Kubectl, *manifests: dict[str, Any]) -> None:
    """Apply manifests as one list."""
    document = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
    kubectl("apply", "-f", "-", stdin=json.dumps(document))


def patch(kubectl: Kubectl, name: str, change: dict[str, Any]) -> None:
    """Merge a change into `kind/name`."""
    kubectl("patch", name, "--type=merge", "--patch", json.dumps(change))


def status(kubectl: Kubectl, name: str) -> dict[str, Any]:
    """Status of `kind/name`; empty before the operator has seen it."""
    return kubectl.get(name).get("status", {})


def condition(kubectl: Kubectl, name: str, kind: str) -> dict[str, Any]:
    """A condition of `kind/name`; empty when it is not set."""
    return next((c for c in status(kubectl, name).get("conditions", []) if c["type"] == kind), {})


def until_condition(
    kubectl: Kubectl,
    name: str,
    kind: str,
    value: str = "True",
    reason: str | None = None,
    timeout: float = 180,
) -> dict[str, Any]:
    """Wait for a condition. A job that fails meanwhile ends the wait at once, with its own words."""

    def poll() -> dict[str, Any] | None:
        found = condition(kubectl, name, kind)
        if found.get("status") == value and reason in (None, found["reason"]):
            return found
        failed = condition(kubectl, name, "Failed")
        assert kind == "Failed" or failed.get("status") != "True", f"{name} failed: {failed}"
        return None

    try:
        return wait_for(f"{kind}={value} ({reason}) of {name}", poll, timeout=timeout)
    except TimeoutError as error:
        raise AssertionError(f"{error}; status is {json.dumps(status(kubectl, name), indent=1)}") from error


def pods(kubectl: Kubectl, kind: str, name: str) -> list[dict[str, Any]]:
    """Pods of one of our resources."""
    selector = f"kubetune.io/kind={kind},kubetune.io/name={name}"
    return kubectl.get("pods", "-l", selector)["items"]


def child_jobs(kubectl: Kubectl, kind: str, name: str) -> list[dict[str, Any]]:
    """Attempts of one of our resources, oldest first."""
    selector = f"kubetune.io/kind={kind},kubetune.io/name={name}"
    items = kubectl.get("jobs", "-l", selector)["items"]
    return sorted(items, key=lambda job: int(job["metadata"]["labels"]["kubetune.io/attempt"]))


def until_step(kubectl: Kubectl, name: str, step: int, timeout: float = 120) -> int:
    """Wait until a job reports at least this step."""

    def poll() -> int | None:
        metrics = status(kubectl, name).get("trainerStatus", {}).get("metrics", [])
        reached = next((int(float(m["value"])) for m in metrics if m["name"] == "step"), 0)
        return reached if reached >= step else None

    return wait_for(f"step {step} of {name}", poll, timeout=timeout, every=0.2)


def until_checkpoint(kubectl: Kubectl, name: str, step: int, timeout: float = 120) -> None:
    """Wait until a job has a checkpoint of this step or a later one."""
    wait_for(
        f"checkpoint of step {step} of {name}",
        lambda: status(kubectl, name).get("lastCheckpoint", {}).get("step", -1) >= step or None,
        timeout=timeout,
        every=0.2,
    )


def kill(pod: dict[str, Any], program: str, number: signal.Signals = signal.SIGKILL) -> list[int]:
    """Signal the processes of a pod whose command line names a program; returns their ids."""
    uid = pod["metadata"]["uid"]
    found = [pid for pid in node_processes() if in_pod(pid, uid) and program in command_line(pid)]
    assert found, f"no process {program} of pod {pod['metadata']['name']} on this node"
    for pid in found:
        os.kill(pid, number)
    return found


def node_processes() -> list[int]:
    """Every process id."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def in_pod(pid: int, uid: str) -> bool:
    """Whether a process belongs to a pod."""
    try:
        return uid in Path(f"/proc/{pid}/cgroup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def command_line(pid: int) -> str:
    """Command line of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def claim_path(kubectl: Kubectl, uri: str) -> Path:
    """Where `pvc://claim/path` lies on this node (the local cluster has local volumes)."""
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    volume = kubectl.get("pvc", claim)["spec"]["volumeName"]
    return Path(kubectl.get("pv", volume)["spec"]["local"]["path"]) / path


def manifest_of(kubectl: Kubectl, name: str) -> dict[str, Any]:
    """manifest.json of a job's artifact."""
    return json.loads(
        (claim_path(kubectl, status(kubectl, name)["artifact"]["uri"]) / "manifest.json").read_text()
    )


def weights_sha256(kubectl: Kubectl, name: str) -> str:
    """SHA-256 of the weights that a job produced, as its manifest has it."""
    weights = [f for f in manifest_of(kubectl, name)["files"] if f["path"].endswith(".safetensors")]
    assert len(weights) == 1, weights
    return str(weights[0]["sha256"])
