"""The product on the local cluster: cluster, images and chart. `python -m dev.stack up|down`."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dev import images
from dev.cluster import build, full
from dev.cluster.paths import REPOSITORY
from dev.cluster.report import ClusterError, step
from dev.kubectl import Kubectl

OPERATOR_NAMESPACE = "kubetune-system"
RELEASE = "kubetune"


@dataclass(frozen=True)
class Stack:
    """A cluster with kubetune installed."""

    kubectl: Kubectl
    """Bound to no namespace."""

    def operator_pods(self) -> list[dict[str, object]]:
        """The operator's pods."""
        selector = "app.kubernetes.io/name=kubetune,app.kubernetes.io/component=operator"
        found: list[dict[str, object]] = self.kubectl.get(
            "pods", "--namespace", OPERATOR_NAMESPACE, "--selector", selector
        )["items"]
        return found


def up() -> Stack:
    """Start what is not there yet, and install the chart of this checkout.

    Raises:
        ClusterError: a part cannot be built, started or installed.
    """
    kubeconfig = full.up()
    references = images.load()
    install(kubeconfig, references)
    return Stack(Kubectl(build.path("kubectl"), kubeconfig))


def install(kubeconfig: Path, references: dict[str, str]) -> None:
    """Install or upgrade the chart by helm, and wait until the operator is ready.

    Raises:
        ClusterError: helm failed; carries its message.
    """
    helm = build.ensure(["helm"])["helm"]
    values = {
        "image": split(references["operator"]),
        "trainer": {"image": split(references["trainer"])},
        "engine": {"image": split(references["trainer"])},
    }
    words = [
        *(str(helm), "upgrade", RELEASE, str(REPOSITORY / "charts" / "kubetune"), "--install", "--wait"),
        *("--namespace", OPERATOR_NAMESPACE, "--create-namespace", "--timeout", "120s", "--values", "-"),
    ]
    with step("chart kubetune"):
        done = subprocess.run(
            [*words, "--kubeconfig", str(kubeconfig)],
            input=json.dumps(values),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ClusterError(f"helm upgrade failed: {done.stderr.strip()}")


def split(reference: str) -> dict[str, str]:
    """An image reference as the chart's values have it. What was built here cannot be pulled."""
    repository, _, tag = reference.rpartition(":")
    return {"repository": repository, "tag": tag, "pullPolicy": "Never"}


@contextmanager
def running() -> Iterator[Stack]:
    """The stack; stopped at the end unless it ran before."""
    was_running = full.kubeconfig_if_running() is not None
    try:
        yield up()
    finally:
        if not was_running:
            full.down()


def fresh_namespace(kubectl: Kubectl, labels: dict[str, str] | None = None) -> None:
    """Make kubectl's namespace anew, under restricted Pod Security and with these labels."""
    name = str(kubectl.namespace)
    kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=120s")
    metadata = {
        "name": name,
        "labels": {"pod-security.kubernetes.io/enforce": "restricted"} | (labels or {}),
    }
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    replace(kubectl, namespace=None)("create", "--filename=-", stdin=json.dumps(manifest))


def main() -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dev.stack", description=__doc__)
    parser.add_argument("command", choices=["up", "down"])
    try:
        if parser.parse_args().command == "up":
            up()
        else:
            full.down()
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
