"""kubectl of the local cluster, for the scripts of this folder."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class KubectlError(RuntimeError):
    """kubectl said no."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl with its kubeconfig and, if given, a namespace."""

    binary: Path
    kubeconfig: Path
    namespace: str | None = None

    def argv(self, *words: str) -> list[str]:
        """The whole command line."""
        where = ["--namespace", self.namespace] if self.namespace else []
        return [str(self.binary), "--kubeconfig", str(self.kubeconfig), *where, *words]

    def __call__(self, *words: str, stdin: str | None = None) -> str:
        """Run it and return what it prints.

        Raises:
            KubectlError: it failed; carries its own message.
        """
        done = subprocess.run(self.argv(*words), input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *words: str) -> Any:
        """`kubectl get ... -o json`."""
        return json.loads(self("get", *words, "--output=json"))

    @contextmanager
    def port_forward(self, target: str, port: int) -> Iterator[str]:
        """Forward a free local port to a Service or pod; gives the base URL."""
        argv = self.argv("port-forward", target, f":{port}")
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                line = process.stdout.readline() if process.stdout else ""
                if "->" not in line:
                    raise KubectlError(f"kubectl port-forward {target} {port} did not start")
                yield "http://" + line.split()[2]
            finally:
                process.terminate()


def wait_for(what: str, poll: Callable[[], T | None], *, timeout: float, every: float = 0.5) -> T:
    """Poll until there is an answer.

    Raises:
        TimeoutError: there was none in time; names what was waited for.
    """
    deadline = time.monotonic() + timeout
    while (answer := poll()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout:.0f} s")
        time.sleep(every)
    return answer
