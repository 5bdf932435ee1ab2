"""Who waits for a job of a namespace to appear, complete, fail or go."""

from collections import Counter

from kubetune.controller.keys import Key


class Waiters:
    """Resources that wait for jobs. A change while one of them is being reconciled is not missed."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[Key]] = {}
        self._changes: Counter[str] = Counter()

    def changed(self, namespace: str) -> set[Key]:
        """A job of this namespace changed; returns those that wait for that."""
        self._changes[namespace] += 1
        return set(self._waiting.get(namespace, ()))

    def before(self, key: Key) -> int:
        """To be called before anything is read; the answer goes to `after`."""
        return self._changes[key.namespace]

    def after(self, key: Key, before: int, *, wants_jobs: bool) -> bool:
        """Whether a resource must be looked at again at once, since a job changed meanwhile.

        Args:
            key: the resource that has been reconciled.
            before: what `before` said.
            wants_jobs: whether it waits for jobs from now on.
        """
        waiting = self._waiting.setdefault(key.namespace, set())
        if wants_jobs:
            waiting.add(key)
            return self._changes[key.namespace] != before
        waiting.discard(key)
        if not waiting:
            del self._waiting[key.namespace]
        return False
