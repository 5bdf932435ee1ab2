"""Around an AdapterSet on a real API server: the test plays trainers, Deployment controller and kubelet.

A played pod is a real gateway process. It sees its claims under /mnt/pvc as in a pod, by a mount namespace of
its own, listens on the loopback address that its Pod object has as IP, and has a double of the engine.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from kubetune.api.runspec import PVC_ROOT
from kubetune.api.table import ADMIN_PORT, API_PORT, TABLE_ANNOTATION
from kubetune.artifacts.digest import folder_digest
from tests.fixtures.adapters import write_adapter, write_base
from tests.fixtures.cluster import Cluster
from tests.fixtures.gateway import GatewayClient, free_port
from tests.unit.gateway.engine_double import EngineDouble

Object = dict[str, Any]
_addresses = iter(range(1, 250))


@dataclass
class PlayedPod:
    """A Pod object, and a gateway process that stands for its container."""

    name: str
    address: str
    folder: Path
    engine: EngineDouble
    process: "subprocess.Popen[bytes] | None" = None
    seen: str = ""
    """resourceVersion at which its mounts were refreshed last."""
    ready: bool | None = None


class World:
    """One namespace."""

    def __init__(
        self, cluster: Cluster, namespace: str, folder: Path, session: aiohttp.ClientSession
    ) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.folder = folder
        self.volume = folder / "models"
        self.volume.mkdir()
        self.session = session
        self.pods: dict[str, PlayedPod] = {}
        self.completed = 0.0
        """When a job was last said to be Complete; time.monotonic()."""
        self.base_digest = folder_digest(write_base(self.volume / "base-1"))

    # kubectl, beside the event loop.

    async def kubectl(self, *arguments: str, input: str | None = None) -> str:
        done = await asyncio.to_thread(
            self.cluster.kubectl, "--namespace", self.namespace, *arguments, input=input
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def apply(self, *objects: Object) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        await self.kubectl("apply", "--filename=-", input=json.dumps(items))

    async def get(self, *arguments: str) -> Any:
        return json.loads(await self.kubectl("get", *arguments, "--output=json"))

    async def names(self, kind: str) -> list[str]:
        return [item["metadata"]["name"] for item in (await self.get(kind))["items"]]

    async def status(self, name: str) -> Object:
        return (await self.get("adapterset", name)).get("status", {})

    async def set_status(self, what: str, status: Object) -> None:
        patch = json.dumps({"status": status})
        await self.kubectl("patch", what, "--subresource=status", "--type=merge", f"--patch={patch}")

    # What users and trainers do.

    async def claim(self, name: str = "models", mode: str = "ReadWriteMany") -> None:
        spec = {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}}
        await self.apply(
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
        )

    async def base_job(self, name: str = "base") -> None:
        spec = {
            "model": {"config": {"model_type": "llama"}},
            "data": {"mixture": [{"name": "web", "uri": "pvc://models/corpus"}]},
            "training": {"maxSteps": 1},
            "output": {"storageUri": "pvc://models"},
        }
        await self.apply(custom("PretrainJob", name, spec))

    async def adapter_job(self, name: str, *, rank: int = 8, labels: dict[str, str] | None = None) -> None:
        spec = {
            "baseModel": {"jobRef": {"kind": "PretrainJob", "name": "base"}},
            "lora": {"rank": rank},
            "data": {"sources": [{"name": "pairs", "uri": "pvc://models/pairs", "format": "text"}]},
            "training": {"maxSteps": 1},
            "output": {"storageUri": "pvc://models"},
        }
        await self.apply(custom("FineTuneJob", name, spec, labels=labels or {}))

    async def finish_base(self) -> None:
        await self._finish("pretrainjob/base", "base-1", {"format": "full", "digest": self.base_digest})

    async def finish(self, name: str, fill: float, *, rank: int = 8, base_digest: str | None = None) -> str:
        """Write an artifact and say that its job is Complete; returns its digest."""
        folder = write_adapter(
            self.volume / name, fill=fill, rank=rank, base_digest=base_digest or self.base_digest
        )
        digest = folder_digest(folder)
        about = {"format": "lora", "digest": digest, "rank": rank}
        about["baseModelDigest"] = base_digest or self.base_digest
        await self._finish(f"finetunejob/{name}", name, about)
        return digest

    async def finish_folder(self, name: str, fill: float) -> str:
        """An adapter that no job of ours made; returns its digest."""
        return folder_digest(write_adapter(self.volume / name, fill=fill))

    async def _finish(self, job: str, folder: str, artifact: Object) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        complete = {
            "type": "Complete",
            "status": "True",
            "reason": "Played",
            "message": "",
            "lastTransitionTime": now,
        }
        status = {
            "phase": "Succeeded",
            "completionTime": now,
            "conditions": [complete],
            "artifact": {"uri": f"pvc://models/{folder}", "sizeBytes": 1, **artifact},
        }
        # The operator may be in the midst of a look at the job and have the last word; then say it again.
        said = 0
        while said < 3:
            if (await self.get(job)).get("status", {}).get("phase") == "Succeeded":
                said += 1
                await asyncio.sleep(0.1)
            else:
                said = 0
                await self.set_status(job, status)
                self.completed = time.monotonic()

    # What the Deployment controller and the kubelet do.

    async def play(self, name: str) -> PlayedPod:
        """Create a pod from a Deployment's template, which Pod Security must admit, and start its gateway."""
        deployment = await self.get("deployment", name)
        template = deployment["spec"]["template"]
        number = next(_addresses)
        pod = PlayedPod(
            f"{name}-{number}", f"127.0.8.{number}", self.folder / f"pod-{number}", EngineDouble(free_port())
        )
        body = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": pod.name},
            "spec": template["spec"],
        }  # fmt: skip
        await self.kubectl("create", "--filename=-", input=json.dumps(body))
        pod.folder.mkdir()
        await pod.engine.start()
        await self._mount(pod, name)
        pod.process = await asyncio.to_thread(self._spawn, pod)
        self.pods[pod.name] = pod
        running = {"name": "gateway", "ready": False, "restartCount": 0, "image": "x", "imageID": "x"}
        running["state"] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        address = {"podIP": pod.address, "podIPs": [{"ip": pod.address}]}
        await self.set_status(
            f"pod/{pod.name}", {"phase": "Running", "containerStatuses": [running], **address}
        )
        return pod

    def _spawn(self, pod: PlayedPod) -> "subprocess.Popen[bytes]":
        # Claims are mounted read-only at /mnt/pvc, for this process only.
        script = f"""
            mount --make-rprivate / && mount -t tmpfs none /mnt && mkdir -p {PVC_ROOT}/models
            mount --bind {self.volume} {PVC_ROOT}/models && mount -o remount,bind,ro {PVC_ROOT}/models
            exec {sys.executable} -m kubetune.gateway "$@"
        """
        flags = [
            f"--table={pod.folder / 'table.json'}", f"--cache={pod.folder / 'cache'}",
            f"--host={pod.address}", f"--engine-url={pod.engine.url}", "--max-lora-rank=16",
        ]  # fmt: skip
        return subprocess.Popen(["unshare", "--mount", "sh", "-ec", script, "sh", *flags])

    async def _mount(self, pod: PlayedPod, name: str) -> None:
        table = await self.get("configmap", f"{name}-table")
        temporary = pod.folder / "table.tmp"
        temporary.write_text(table["data"]["table.json"])
        temporary.replace(pod.folder / "table.json")

    async def kubelet(self, name: str) -> None:
        """Refreshes the mounts of pods that changed, and reports readiness; for ever."""
        while True:
            for pod in list(self.pods.values()):
                found = await self.get("pod", pod.name)
                told = found["metadata"].get("annotations", {}).get(TABLE_ANNOTATION, "")
                if told != pod.seen:
                    pod.seen = told
                    await self._mount(pod, name)
                ready = await self._is_ready(pod)
                if ready != pod.ready:
                    pod.ready = ready
                    condition = {"type": "Ready", "status": str(ready)}
                    await self.set_status(f"pod/{pod.name}", {"conditions": [condition]})
            await asyncio.sleep(0.05)

    async def _is_ready(self, pod: PlayedPod) -> bool:
        with contextlib.suppress(aiohttp.ClientConnectionError):
            return await self.client(pod).ready()
        return False

    async def roll_out(self, name: str) -> None:
        """Say of a Deployment that all its pods are there and of the present template."""
        deployment = await self.get("deployment", name)
        n = deployment["spec"]["replicas"]
        seen = {"observedGeneration": deployment["metadata"]["generation"]}
        await self.set_status(f"deployment/{name}", {**seen, "replicas": n, "updatedReplicas": n})

    def client(self, pod: PlayedPod) -> GatewayClient:
        client = GatewayClient(self.session, API_PORT, ADMIN_PORT)
        client.api, client.admin = f"http://{pod.address}:{API_PORT}", f"http://{pod.address}:{ADMIN_PORT}"
        return client

    async def stop(self) -> None:
        for pod in self.pods.values():
            if pod.process:
                pod.process.kill()
                await asyncio.to_thread(pod.process.wait)
            await pod.engine.kill()

    # Waiting.

    async def until(self, name: str, judge: Callable[[Object], bool], *, seconds: float = 30) -> Object:
        """Wait for a status of an AdapterSet."""
        deadline = time.monotonic() + seconds
        status = await self.status(name)
        while not (status and judge(status)):
            assert time.monotonic() < deadline, json.dumps(status, indent=1)
            status = await self.status(name)
        return status


def custom(kind: str, name: str, spec: Object, **metadata: Any) -> Object:
    """A resource of ours."""
    about = {"name": name, **metadata}
    return {"apiVersion": "kubetune.io/v1alpha1", "kind": kind, "metadata": about, "spec": spec}


def condition(status: Object, kind: str) -> Object:
    """A condition; empty when it is not there."""
    return next((c for c in status.get("conditions", []) if c["type"] == kind), {})


def adapter(status: Object, name: str) -> Object:
    """An adapter's entry; empty when it is not there."""
    return next((a for a in status.get("adapters", []) if a["name"] == name), {})


async def eventually(check: Callable[[], Awaitable[bool]], *, seconds: float = 20) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not await check():
            await asyncio.sleep(0.02)
