"""A client of the API server for the kinds that we need: fixed paths, plain dictionaries, typed errors."""

import json
import os
from collections.abc import Mapping, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config

from kubetune.api.kinds import KINDS
from kubetune.api.meta import API_VERSION
from kubetune.controller import metrics
from kubetune.controller.errors import NotFound, Unavailable, error_of
from kubetune.controller.fence import Fence

FIELD_MANAGER = "kubetune"
REQUEST_SECONDS = 30.0
Object = dict[str, Any]


@dataclass(frozen=True)
class Path:
    """Where the objects of a kind are found."""

    api_version: str
    plural: str

    def url(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """URL path of a collection, an object or its subresource."""
        root = f"/api/{self.api_version}" if "/" not in self.api_version else f"/apis/{self.api_version}"
        scope = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
        # Names may come from references that people write, such as an ownerReference.
        name = quote(name, safe="") if name else None
        return "/".join(part for part in (f"{root}{scope}", self.plural, name, subresource) if part)


PATHS = {
    "ConfigMap": Path("v1", "configmaps"),
    "Event": Path("v1", "events"),
    "PersistentVolumeClaim": Path("v1", "persistentvolumeclaims"),
    "Pod": Path("v1", "pods"),
    "PodDisruptionBudget": Path("policy/v1", "poddisruptionbudgets"),
    "Secret": Path("v1", "secrets"),
    "Service": Path("v1", "services"),
    "Deployment": Path("apps/v1", "deployments"),
    "Job": Path("batch/v1", "jobs"),
    "Lease": Path("coordination.k8s.io/v1", "leases"),
    "SelfSubjectReview": Path("authentication.k8s.io/v1", "selfsubjectreviews"),
    "SubjectAccessReview": Path("authorization.k8s.io/v1", "subjectaccessreviews"),
    "TokenReview": Path("authentication.k8s.io/v1", "tokenreviews"),
    **{kind.name: Path(API_VERSION, kind.plural) for kind in KINDS},
}


class Client:
    """Reads live objects and writes them. Raises the errors of `kubetune.controller.errors`."""

    def __init__(self, api: kubernetes_client.ApiClient, fence: Fence | None = None) -> None:
        self._api = api
        self._fence = fence
        if fence:
            api.configuration.trace_configs = [_checked(fence)]

    @classmethod
    async def connect(cls, user_agent: str, fence: Fence | None = None) -> "Client":
        """Connect with the pod's service account, or outside a cluster with the environment's kubeconfig.

        Args:
            user_agent: who asks, for the API server's audit log.
            fence: lets writes through, or not.
        """
        configuration = kubernetes_client.Configuration()
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            kubernetes_config.load_incluster_config(client_configuration=configuration)
        else:
            await kubernetes_config.load_kube_config(client_configuration=configuration)
        api = kubernetes_client.ApiClient(configuration)
        api.user_agent = user_agent
        return cls(api, fence)

    async def close(self) -> None:
        """Close its connections."""
        await self._api.close()

    async def get(self, kind: str, namespace: str, name: str) -> Object:
        """The object as it is now."""
        return await self._call("GET", PATHS[kind].url(namespace, name))

    async def find(self, kind: str, namespace: str, name: str) -> Object | None:
        """The object as it is now; None if there is none."""
        try:
            return await self.get(kind, namespace, name)
        except NotFound:
            return None

    async def served(self) -> Set[str]:
        """Plurals of our kinds that the API server serves."""
        try:
            found = await self._call("GET", f"/apis/{API_VERSION}")
        except NotFound:
            return set()
        return {resource["name"] for resource in found["resources"]}

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Object]:
        """All objects of a kind, of one or all namespaces, with these labels and values of fields."""
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        query = {
            name: ",".join(f"{key}={value}" for key, value in wanted.items())
            for name, wanted in selectors.items()
            if wanted
        }
        answer = await self._call("GET", PATHS[kind].url(namespace), query)
        items: list[Object] = answer["items"]
        return items

    async def create(self, body: Object) -> Object:
        """Create it; `AlreadyExists` if there is one."""
        path = PATHS[body["kind"]].url(body["metadata"].get("namespace"))
        return await self._call(
            "POST", path, {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}, body
        )

    async def replace(self, body: Object) -> Object:
        """Write it as a whole; `Conflict` if anybody has written it since it was read."""
        metadata = body["metadata"]
        path = PATHS[body["kind"]].url(metadata["namespace"], metadata["name"])
        return await self._call(
            "PUT", path, {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}, body
        )

    async def apply(self, body: Object) -> Object:
        """Server-side apply: our fields become as given, others' fields stay."""
        metadata = body["metadata"]
        return await self._apply(
            PATHS[body["kind"]].url(metadata["namespace"], metadata["name"]), body, FIELD_MANAGER
        )

    async def apply_status(self, resource: Object, status: Object, manager: str = FIELD_MANAGER) -> Object:
        """Server-side apply of the status; fields of this manager that are left out are removed.

        `Conflict` if anybody has written the resource since it was read. The API server ignores the UID of
        a status. So without the resourceVersion, a late status could go to a successor of the same name.

        Args:
            resource: as it was read.
            status: what this manager says.
            manager: field manager.
        """
        metadata = resource["metadata"]
        same = ("name", "namespace", "uid", "resourceVersion")
        body = {
            "apiVersion": resource["apiVersion"],
            "kind": resource["kind"],
            "metadata": {key: metadata[key] for key in same},
            "status": status,
        }
        url = PATHS[resource["kind"]].url(metadata["namespace"], metadata["name"], "status")
        return await self._apply(url, body, manager)

    async def annotate(self, kind: str, resource: Object, annotations: Mapping[str, str]) -> Object:
        """Set annotations of exactly this object (same UID)."""
        about = {"kind": kind, "metadata": resource["metadata"]}
        return await self.change(about, {"metadata": {"annotations": dict(annotations)}})

    async def change(self, resource: Object, change: Object) -> Object:
        """Merge a change into exactly this object; `Conflict` if its UID is another."""
        metadata = resource["metadata"]
        body = change | {"metadata": {"uid": metadata["uid"], **change.get("metadata", {})}}
        url = PATHS[resource["kind"]].url(metadata["namespace"], metadata["name"])
        return await self._call("PATCH", url, {}, body, "application/merge-patch+json")

    async def set_finalizers(self, resource: Object, finalizers: Sequence[str]) -> Object:
        """Set the finalizers of exactly this object; `Conflict` if it was written since it was read."""
        metadata = resource["metadata"]
        same = {key: metadata[key] for key in ("uid", "resourceVersion")}
        body = {"metadata": {**same, "finalizers": list(finalizers)}}
        url = PATHS[resource["kind"]].url(metadata["namespace"], metadata["name"])
        return await self._call(
            "PATCH", url, {"fieldManager": FIELD_MANAGER}, body, "application/merge-patch+json"
        )

    async def delete(self, resource: Object) -> None:
        """Delete exactly this object (same UID); one that is gone is fine."""
        metadata = resource["metadata"]
        body = {"propagationPolicy": "Background", "preconditions": {"uid": metadata["uid"]}}
        try:
            await self._call(
                "DELETE", PATHS[resource["kind"]].url(metadata["namespace"], metadata["name"]), {}, body
            )
        except NotFound:
            return

    async def _apply(self, url: str, body: Object, manager: str) -> Object:
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        return await self._call("PATCH", url, query, body, "application/apply-patch+yaml")

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        url = self._api.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        agent = self._api.user_agent
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": agent}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        writes = method != "GET"
        try:
            with self._fence.passing() if self._fence and writes else nullcontext():
                if writes:
                    metrics.WRITES.labels(method.lower(), _resource(path)).inc()
                response = await self._api.call_api(
                    method, url, headers, body, _request_timeout=REQUEST_SECONDS
                )
                text = (await response.read()).decode()
            if not 200 <= response.status < 300:
                refusal = error_of(response.status, *_explained(text))
                refusal.request = f"{method.lower()} {_resource(path)}"
                if writes:
                    metrics.WRITE_ERRORS.labels(method.lower(), _resource(path), response.status).inc()
                raise refusal
            answer: Object = json.loads(text)
        except (TimeoutError, aiohttp.ClientError, json.JSONDecodeError) as error:
            if writes:
                metrics.WRITE_ERRORS.labels(method.lower(), _resource(path), 0).inc()
            raise Unavailable(f"{method} {path}: {error or type(error).__name__}") from error
        return answer


def _checked(fence: Fence) -> aiohttp.TraceConfig:
    """Checks each write again at the last moment: making the connection, or being stopped, may take long."""

    async def check(
        _: object,
        __: object,
        request: aiohttp.TraceRequestHeadersSentParams | aiohttp.TraceRequestChunkSentParams,
    ) -> None:
        if request.method != "GET":
            fence.check()

    trace = aiohttp.TraceConfig()
    # Despite their names both hooks run before anything is sent: the first before the request is built, the
    # second in another turn of the event loop, just before headers and body go out.
    trace.on_request_headers_sent.append(check)
    trace.on_request_chunk_sent.append(check)
    return trace


def _explained(text: str) -> tuple[str, str]:
    """Reason and message of a Status object."""
    try:
        status = json.loads(text)
        return str(status.get("reason", "")), str(status.get("message", text))
    except (json.JSONDecodeError, AttributeError):
        return "", text


def _resource(path: str) -> str:
    """`plural` or `plural/status` of a URL path, for metrics."""
    parts = path.split("/")
    after = parts[parts.index("namespaces") + 2 :] if "namespaces" in parts else parts[-1:]
    return "/".join(after[:1] + after[2:])
