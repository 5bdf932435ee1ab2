"""Who posts: a token of our audience, of a pod that belongs, through its Job, to the addressed resource."""

import time
from dataclasses import dataclass, field

from kubetune.controller.client import Client, Object
from kubetune.controller.keys import Key
from kubetune.desired.job import TOKEN_AUDIENCE

POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"
REMEMBER_SECONDS = 60.0
"""A token is reviewed again after this long; a deleted pod's token lives on no longer here."""
REMEMBERED = 4096


class Denied(Exception):
    """The post is not from a pod of the addressed job."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass
class Reviewer:
    """Reviews tokens, remembering verdicts for a while so that a run costs few requests."""

    client: Client
    _verdicts: dict[tuple[str, Key], tuple[float, str]] = field(default_factory=dict)

    async def owner_uid(self, token: str, key: Key) -> str:
        """UID of the resource that the poster's pod belongs to, which must be the one that `key` names.

        Raises:
            Denied: 401 for a token that is not valid, 403 for one of another pod.
        """
        remembered = self._verdicts.get((token, key))
        if remembered and remembered[0] > time.monotonic():
            return remembered[1]
        uid = await self._review(token, key)
        if len(self._verdicts) >= REMEMBERED:
            self._verdicts.clear()
        self._verdicts[token, key] = (time.monotonic() + REMEMBER_SECONDS, uid)
        return uid

    async def _review(self, token: str, key: Key) -> str:
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
        resource = await self._controller(job, key.kind, key.namespace) if job else None
        if resource is None or resource["metadata"]["name"] != key.name:
            raise Denied(403, f"pod {pod_name} does not belong to {key}")
        return str(resource["metadata"]["uid"])

    async def _controller(self, child: Object, kind: str, namespace: str) -> Object | None:
        """The live controller of an object, if it is of a kind and still the same object."""
        for reference in child["metadata"].get("ownerReferences", []):
            if reference.get("controller") and reference["kind"] == kind:
                owner = await self.client.find(kind, namespace, reference["name"])
                if owner and owner["metadata"]["uid"] == reference["uid"]:
                    return owner
        return None
