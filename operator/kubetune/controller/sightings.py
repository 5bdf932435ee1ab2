"""Whether the watches still tell of everything: what they showed, compared with what lists show."""

import time
from collections.abc import Mapping
from typing import Any

from kubetune.controller.keys import Key


class Sightings:
    """The newest version of each resource that the watches showed, and those that they owe us.

    Versions are numbers that grow: Kubernetes promises that from 1.35 on, and etcd always did it.
    """

    def __init__(self) -> None:
        self._versions: dict[Key, int] = {}
        self._owed: dict[Key, float] = {}
        """Resources of which a list showed another version, and since when (monotonic seconds)."""

    def seen(self, key: Key, resource: Mapping[str, Any], *, deleted: bool) -> None:
        """A watch showed a resource."""
        self._owed.pop(key, None)
        if deleted:
            self._versions.pop(key, None)
        else:
            self._versions[key] = int(resource["metadata"]["resourceVersion"])

    def compare(self, kind: str, listed: Mapping[Key, Mapping[str, Any]]) -> None:
        """A list showed all resources of a kind. A watch may be late, so what it has not shown is noted."""
        shown = {key: version for key, version in self._versions.items() if key.kind == kind}
        now = time.monotonic()
        for key in listed.keys() | shown.keys() | {key for key in self._owed if key.kind == kind}:
            version = int(listed[key]["metadata"]["resourceVersion"]) if key in listed else None
            gone_unseen = version is None and key in shown
            if gone_unseen or (version is not None and shown.get(key, 0) < version):
                self._owed.setdefault(key, now)
            else:
                self._owed.pop(key, None)

    def lag_seconds(self) -> float:
        """How long the watches have owed us something; 0 if they owe nothing."""
        now = time.monotonic()
        return now - min(self._owed.values(), default=now)
