"""Who posts: a token of our audience, of a pod that belongs, through its Job, to the addressed resource.

A post costs the API server nothing as long as its token is remembered, and tokens that are not valid cost it
little however many come: only what claims to be one of ours is asked about, once, a few at a time, and not
for a peer that has been wrong too often.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from kubetune.controller.client import Client, Object
from kubetune.controller.keys import Key
from kubetune.desired.job import TOKEN_AUDIENCE, job_name
from kubetune.progress.token_content import refuted

POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"
REMEMBER_SECONDS = 60.0
"""Seconds until a token is reviewed again; it is forgotten at once when its pod is gone."""
REMEMBER_DENIED_SECONDS = 10.0
"""Short: the pod of a new attempt may post before the API server's caches know it."""
REMEMBERED = 4096
AT_A_TIME = 4
"""Tokens that the API server is asked about."""
WAITING = 64
"""Tokens that wait for that; more are sent away, and come back with their next report."""
FAULTS, FORGIVEN_SECONDS = 10, 60.0
"""A peer whose tokens were denied so often in so long a time is not asked about any more."""


class Denied(Exception):
    """The post is not from a pod of the addressed job."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class TooMany(Exception):
    """The post may be right, but cannot be looked at now."""


Question = tuple[bytes, Key]
"""Digest of a token, and what it wants to write to."""


@dataclass(frozen=True)
class _Pod:
    """A verdict."""

    uid: str
    """Of the pod."""
    owner: str
    """UID of the resource that it belongs to."""


@dataclass
class Reviewer:
    """Reviews tokens, remembering verdicts for a while so that a run costs few requests."""

    client: Client
    namespaces: Sequence[str] = ()
    """Whose jobs may be reported on; empty: those of every namespace."""
    _known: dict[Question, tuple[float, _Pod | Denied]] = field(default_factory=dict)
    _asking: dict[Question, "asyncio.Future[_Pod | Denied]"] = field(default_factory=dict)
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_A_TIME))
    _faults: dict[str, deque[float]] = field(default_factory=dict)
    """When tokens of a peer were denied."""

    async def owner_uid(self, token: str, key: Key, peer: str) -> str:
        """UID of the resource that the poster's pod belongs to, which must be the one that `key` names.

        Raises:
            Denied: 401 for a token that is not valid, 403 for one of another pod.
            TooMany: it is not reviewed now.
        """
        if self.namespaces and key.namespace not in self.namespaces:
            raise Denied(403, f"this operator does not watch namespace {key.namespace}")
        question = (hashlib.sha256(token.encode(errors="surrogateescape")).digest(), key)
        verdict = self._remembered(question)
        if verdict is None:
            if why := refuted(token, TOKEN_AUDIENCE, key.namespace, time.time()):
                raise Denied(*why)
            verdict = await self._asked(question, token, peer)
        if isinstance(verdict, Denied):
            raise Denied(verdict.status, verdict.message)
        return verdict.owner

    def forget(self, pod_uid: str) -> None:
        """A pod is gone: its token, which lives on for a while, is worth nothing any more."""
        gone = [q for q, (_, v) in self._known.items() if isinstance(v, _Pod) and v.uid == pod_uid]
        for question in gone:
            del self._known[question]

    def _remembered(self, question: Question) -> "_Pod | Denied | None":
        until, verdict = self._known.get(question, (0.0, None))
        return verdict if until > time.monotonic() else None

    async def _asked(self, question: Question, token: str, peer: str) -> "_Pod | Denied":
        """Ask the API server, once for all who want to know the same."""
        asking = self._asking.get(question)
        if asking is None:
            self._admit(peer)
            asking = asyncio.ensure_future(self._ask(question, token, peer))
            self._asking[question] = asking
            asking.add_done_callback(lambda _: self._asking.pop(question))
        # The one who asked first may hang up: the others still want to know.
        return await asyncio.shield(asking)

    def _admit(self, peer: str) -> None:
        faults = self._faults.get(peer, deque())
        while faults and faults[0] < time.monotonic() - FORGIVEN_SECONDS:
            faults.popleft()
        if len(faults) >= FAULTS:
            raise TooMany("too many tokens from here were not valid; try again in a minute")
        if len(self._asking) >= WAITING + AT_A_TIME:
            raise TooMany("too many tokens wait for a review; try again")

    async def _ask(self, question: Question, token: str, peer: str) -> "_Pod | Denied":
        async with self._turns:
            try:
                verdict: _Pod | Denied = await self._review(token, question[1])
            except Denied as denied:
                verdict = denied
        now = time.monotonic()
        if isinstance(verdict, Denied):
            if len(self._faults) >= REMEMBERED:
                self._faults.clear()
            self._faults.setdefault(peer, deque(maxlen=FAULTS)).append(now)
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        remembered = REMEMBER_DENIED_SECONDS if isinstance(verdict, Denied) else REMEMBER_SECONDS
        self._known[question] = (now + remembered, verdict)
        return verdict

    async def _review(self, token: str, key: Key) -> _Pod:
        review = await self.client.create(
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "metadata": {},
                "spec": {"token": token, "audiences": [TOKEN_AUDIENCE]},
            }
        )
        status = review.get("status", {})
        if not status.get("authenticated") or TOKEN_AUDIENCE not in status.get("audiences", []):
            raise Denied(401, f"the token is not valid for audience {TOKEN_AUDIENCE}")
        user = status.get("user", {})
        extra = user.get("extra", {})
        account = str(user.get("username", "")).split(":")[:3]
        pod_name, pod_uid = extra.get(POD_NAME, [""])[0], extra.get(POD_UID, [""])[0]
        if account != ["system", "serviceaccount", key.namespace] or not pod_name or not pod_uid:
            raise Denied(403, "the token is not bound to a pod of the job's namespace")
        pod = await self.client.find("Pod", key.namespace, pod_name)
        if pod is None or pod["metadata"]["uid"] != pod_uid:
            raise Denied(403, f"pod {pod_name} is gone")
        job = await self._controller(pod, "Job", key.namespace)
        if job:
            resource = await self._controller(job, key.kind, key.namespace)
        else:
            resource = await self._outlived(pod, key)
        if resource is None or resource["metadata"]["name"] != key.name:
            raise Denied(403, f"pod {pod_name} does not belong to {key}")
        return _Pod(pod_uid, str(resource["metadata"]["uid"]))

    async def _outlived(self, pod: Object, key: Key) -> Object | None:
        """The resource to whose newest attempt a pod belongs, although the attempt's Job is gone.

        Suspending a run deletes the Job, and the pod lives on until it has reported its last checkpoint.
        """
        resource = await self.client.find(key.kind, key.namespace, key.name)
        if resource is None:
            return None
        newest = job_name(resource, resource.get("status", {}).get("attempts", 0))
        reference = _to_controller(pod, "Job")
        return resource if reference and reference["name"] == newest else None

    async def _controller(self, child: Object, kind: str, namespace: str) -> Object | None:
        """The live controller of an object, if it is of a kind and still the same object."""
        reference = _to_controller(child, kind)
        owner = await self.client.find(kind, namespace, reference["name"]) if reference else None
        return owner if reference and owner and owner["metadata"]["uid"] == reference["uid"] else None


def _to_controller(child: Object, kind: str) -> Object | None:
    """An object's reference to its controller, of which it has one at most, if that is of a kind."""
    references = child["metadata"].get("ownerReferences", [])
    return next((r for r in references if r.get("controller") and r["kind"] == kind), None)
