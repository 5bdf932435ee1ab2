"""Other releases of kubetune, and whether one of them acts where this one would.

Each release has a Lease of one name in a namespace of its own, and notes in it who it is and for which
namespaces. Whoever is about to lead looks at all of them, takes its own, and looks again. Of two that do so
at the same time at least one sees the other, and whoever sees another gives way.

Many may create a Lease of that name. It is believed only if the service account that it names lies beside it
and has the rights of an operator where the two overlap.
"""

import logging
from collections.abc import Mapping, Sequence

from kubetune.api.kinds import PRETRAIN_JOB
from kubetune.api.meta import GROUP
from kubetune.controller.client import Client, Object
from kubetune.controller.errors import NotFound, Refused
from kubetune.controller.fence import Uptime
from kubetune.controller.lease import LEASE, Sighting, seen, taken_for

log = logging.getLogger(__name__)

SCOPE_ANNOTATION = "kubetune.io/watch-namespaces"
"""Names separated by commas, or `*`; absent from Leases of operators that knew only the whole cluster."""
OPERATOR_ANNOTATION = "kubetune.io/operator"
"""User name of the operator's service account."""
EVERYWHERE = "*"
Scope = Sequence[str]
"""Namespaces; none: all of them."""


class Rivals:
    """What is known of other releases."""

    def __init__(self, client: Client, namespace: str, scope: Scope, clock: Uptime) -> None:
        """Know nothing yet.

        Args:
            client: of the API server.
            namespace: of this release's own Lease.
            scope: namespaces that this release is for.
            clock: seconds of a clock that nobody sets.
        """
        self._client = client
        self._namespace = namespace
        self._scope = scope
        self._clock = clock
        self._known: dict[str, tuple[Sighting, Object]] = {}
        """By the namespace of their Lease. A deleted Lease counts until it would have expired."""
        self._annotations: Mapping[str, str] | None = None

    async def annotations(self) -> Mapping[str, str]:
        """What this release's own Lease notes."""
        if self._annotations is None:
            scope = {SCOPE_ANNOTATION: ",".join(self._scope) or EVERYWHERE}
            review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}}
            try:
                user = (await self._client.create(review))["status"]["userInfo"]["username"]
                self._annotations = {**scope, OPERATOR_ANNOTATION: user}
            except (NotFound, Refused) as error:
                log.warning("its own user name is not known: %s", error.message)
                self._annotations = scope
        return self._annotations

    async def leading(self) -> str | None:
        """Who acts where this release would, and what to do about it; None if nobody does."""
        for lease in await self._client.list("Lease", fields={"metadata.name": LEASE}):
            namespace = lease["metadata"]["namespace"]
            before, _ = self._known.get(namespace, (None, None))
            now = seen(before, lease["spec"], self._clock())
            if namespace != self._namespace and now:
                self._known[namespace] = now, lease
        for namespace, (sighting, lease) in self._known.items():
            where = overlap(self._scope, scope_of(lease))
            if where and taken_for(sighting, "", self._clock()) and await self._acts(lease, where):
                names = "the whole cluster" if where == [EVERYWHERE] else f"namespace {', '.join(where)}"
                return (
                    f"another release of kubetune acts in {names}: its Lease {LEASE} is in namespace "
                    f"{namespace}. Uninstall one of the two, or give both watchNamespaces that do not overlap"
                )
        return None

    async def _acts(self, lease: Object, where: Sequence[str]) -> bool:
        """Whether the account that a Lease names has an operator's rights in one of the namespaces."""
        namespace = lease["metadata"]["namespace"]
        accounts = f"system:serviceaccount:{namespace}:"
        annotations = lease["metadata"].get("annotations") or {}
        user = annotations.get(OPERATOR_ANNOTATION, f"{accounts}kubetune")
        if not user.startswith(accounts):
            return False
        for name in where:
            review = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "metadata": {},
                "spec": {
                    "user": user,
                    "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"],
                    "resourceAttributes": {
                        "group": GROUP,
                        "resource": PRETRAIN_JOB.plural,
                        "subresource": "status",
                        "verb": "patch",
                        "namespace": "" if name == EVERYWHERE else name,
                    },
                },
            }
            if (await self._client.create(review))["status"]["allowed"]:
                return True
        return False


def scope_of(lease: Object) -> Scope:
    """The namespaces that the holder of a Lease is for."""
    said = (lease["metadata"].get("annotations") or {}).get(SCOPE_ANNOTATION, EVERYWHERE)
    return () if said == EVERYWHERE else tuple(filter(None, said.split(",")))


def overlap(one: Scope, other: Scope) -> Sequence[str]:
    """The namespaces that are in both scopes; `*` alone where both are the whole cluster."""
    if not one and not other:
        return [EVERYWHERE]
    if not one or not other:
        return sorted(one or other)
    return sorted({*one} & {*other})
