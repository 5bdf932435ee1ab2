"""The namespace that the demo works in: made and removed by it, and never one that somebody else made."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from dev import stack
from dev.kubectl import Kubectl

MARK = ("app.kubernetes.io/managed-by", "kubetune-demo")


class NotOurs(RuntimeError):
    """The namespace is somebody else's."""


@contextmanager
def own(kubectl: Kubectl, name: str) -> Iterator[Kubectl]:
    """Make the namespace, anew if an earlier demo left it; gives kubectl in it. It is removed at the end.

    Raises:
        NotOurs: it was there already, and not by a demo.
        KubectlError: it cannot be made or removed.
    """
    key, value = MARK
    bound = replace(kubectl, namespace=name)
    found = kubectl("get", "namespace", name, "--ignore-not-found", "--output=json")
    if found and json.loads(found)["metadata"].get("labels", {}).get(key) != value:
        raise NotOurs(
            f"Namespace {name} is there already, and no demo made it: the demo would delete what is in it. "
            f"Remove it (kubectl delete namespace {name}) if nobody needs it, then try again."
        )
    stack.fresh_namespace(bound, {key: value})
    try:
        yield bound
    finally:
        kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=120s")
