"""Two pods that differ only in what was drawn by lot are told of in the same words."""

import random
import string
import uuid
from typing import Any

import pytest

from kubetune.controller.adapterset import pods_refused
from kubetune.status.adapterset_pods import lost_pods, observed_pod
from kubetune.status.attempts import attempt_of
from kubetune.status.conditions import parse_timestamp
from kubetune.status.events import held_up, refused
from kubetune.status.starting import trouble_of
from kubetune.status.steady import steady
from tests.unit.status.test_kubelet import NOW
from tests.unit.status.trainers import CREATED, job, waiting

MESSAGES = (
    # As kubelet, containerd, runc, scheduler, API server and webhooks write them.
    'pods "{pod}" is forbidden: exceeded quota: q, requested: cpu=1,memory=1Gi, used: cpu={number}, '
    "limited: cpu=8",
    'Pod "{pod}" is invalid: spec.containers[0].image: Required value',
    'admission webhook "v.example.org" denied the request: pod {pod} in namespace a has no owner',
    'Internal error occurred: failed calling webhook "v.example.org": failed to call webhook: Post '
    '"https://v.a.svc:443/mutate?timeout=10s": read tcp 10.0.0.{number}:{port}->10.96.0.9:443: i/o '
    "timeout",
    'failed calling webhook "v": tls: failed to verify certificate: x509: certificate has expired or '
    "is not yet valid: current time {time} is after 2026-01-01T00:00:00Z",
    "failed to pull and unpack image "
    '"r.example.org/t@sha256:abababababababababababababababababababababababababababababababab": '
    "failed to copy: httpReadSeeker: failed open: unexpected status code "
    "https://b.example.org/x?X-Amz-Signature={hex}&X-Amz-Date={number}: 403",
    "pull access denied: AccessDenied: status code: 403, request id: {request}, host id: {hex}",
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc "
    'create failed: error mounting "{folder}/volumes/kubernetes.io~empty-dir/tmp" to rootfs at '
    '"/tmp": no space left on device',
    'failed to reserve container name "trainer_{pod}_a_{uid}_0": name "trainer_{pod}_a_{uid}_0" is '
    'reserved for "{id}"',
    'MountVolume.SetUp failed for volume "models" : mount failed: exit status 32\nMounting arguments: '
    "-t nfs nfs.example.org:/x {folder}/volumes/kubernetes.io~nfs/models\nOutput: mount.nfs: "
    "Connection timed out",
    "Unable to attach or mount volumes: unmounted volumes=[{two}], unattached volumes=[{two}]: timed "
    "out",
    'failed to create sandbox for pod: plugin type="calico" failed: error getting '
    'ClusterInformation: Get "https://10.96.0.1:443/apis/x": dial tcp '
    "10.244.0.{number}:{port}->10.96.0.1:443: connect: connection refused",
    "unable to apply cgroup configuration: mkdir /sys/fs/cgroup/kubepods-burstable-pod{uid_}.slice: "
    "read-only",
    'failed to setup network for sandbox "{id}": netplugin failed: open /var/run/netns/cni-{uid}: '
    "no such file",
    "mount failed: exit status 32\nOutput: Running scope as unit: run-r{hex}.scope\nmount.nfs: access "
    "denied",
    'failed to open netns "/proc/{number}/ns/net": no such file or directory',
    'Exec lifecycle hook ([sh]) for Container "mesh" in Pod "{pod}_a({uid})" failed - error: exit '
    "code 1",
    "(EngineCore pid={number}) ERROR 11-{number2} 21:04:{number2} [core.py:9] <Lora object at 0x7f{address}>",
    'waiting for ephemeral volume controller to create the persistentvolumeclaim "{pod}-scratch"',
)  # fmt: skip

CREATION = parse_timestamp(CREATED)


def drawn(rng: random.Random) -> dict[str, Any]:
    """What is another at each try."""
    uid = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    root = rng.choice(["/var/lib/kubelet", "/var/snap/microk8s/common/var/lib/kubelet", "/data/k"])
    two = ["data", "models"]
    rng.shuffle(two)
    return {
        "pod": f"x-abc-0-{''.join(rng.choices('bcdfghjklmnpqrstvwxz2456789', k=5))}",
        "uid": uid,
        "uid_": uid.replace("-", "_"),
        "folder": f"{root}/pods/{uid}",
        "id": f"{rng.getrandbits(256):064x}",
        "hex": f"{rng.getrandbits(160):040x}",
        "request": "".join(rng.choices(string.ascii_uppercase + string.digits, k=16)),
        "time": f"2026-03-{rng.randint(10, 28)}T12:{rng.randint(10, 59)}:07Z",
        "port": rng.randint(30000, 60000),
        "number": rng.randint(1, 250),
        "number2": rng.randint(10, 28),
        "address": f"{rng.getrandbits(40):010x}",
        "two": " ".join(two),
    }


def said(message: str, lot: dict[str, Any]) -> set[str]:
    """All that we say of it, wherever Kubernetes says it."""
    text = message.format(**lot)
    meta = {"name": lot["pod"], "uid": lot["uid"], "creationTimestamp": CREATED}

    def pod(**status: Any) -> dict[str, Any]:
        return {"metadata": meta, "status": status}

    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text}
    taken = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": text}
    creating = {"name": "trainer", "state": waiting("CreateContainerError", text)}
    pulling = {"name": "trainer", "state": waiting("ErrImagePull", text)}
    failed = [
        pod(phase="Failed", reason="OutOfcpu", message=f"Pod was rejected: {text}"),
        pod(phase="Failed", reason="Evicted", message=text, conditions=[taken], containerStatuses=[creating]),
        pod(phase="Failed", message=text, containerStatuses=[creating]),
    ]
    of_pod = {"involvedObject": meta, "reason": "FailedMount", "message": text}
    of_job = {"involvedObject": {"name": "x-abc"}, "message": f"Error creating: {text}"}
    ended = {"name": "engine", "state": {"terminated": {"exitCode": 1, "message": text}}}
    serving = [
        pod(containerStatuses=[creating]), pod(containerStatuses=[pulling]), pod(conditions=[unscheduled]),
        pod(initContainerStatuses=[ended]),
    ]  # fmt: skip
    replicas = {"type": "ReplicaFailure", "status": "True", "message": text}
    troubles = [
        trouble_of(pod(containerStatuses=[creating])),
        trouble_of(pod(containerStatuses=[pulling])),
        trouble_of(pod(conditions=[unscheduled])),
        held_up([of_pod]),
    ]
    of_set: set[tuple[str, str] | None] = {observed_pod(p, None).failure for p in serving}
    if "{uid" not in message and "{folder}" not in message:
        # Of a pod that has never been: it has no UID.
        troubles.append(refused([of_job]))
        of_set.add(pods_refused({"metadata": {"name": "x"}, "status": {"conditions": [replicas]}}))
    return {
        *(message for _, message in filter(None, of_set)),
        *(trouble.message for trouble in troubles if trouble),
        *(attempt_of(1, job("Failed"), [p], NOW).failure.message for p in failed),
        lost_pods([failed[0], failed[0]], CREATION),
    }


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m[:30])
def test_what_is_drawn_by_lot_is_not_told(message: str):
    rng = random.Random(message)
    first = said(message, drawn(rng))
    for _ in range(20):
        assert said(message, drawn(rng)) == first


@pytest.mark.parametrize(
    "text",
    [
        'Back-off pulling image "r.example.org/t@sha256:' + "0a" * 32 + '"',
        'persistentvolumeclaim "models-0-backup" not found',
        "pods is forbidden: exceeded quota: q, requested: cpu=1, limited: cpu=8",
        'forbidden: violates PodSecurity: allowPrivilegeEscalation != false (container "trainer")',
        'open /etc/kubernetes/pods/static.yaml: permission denied',
        "lookup r.example.org: no such host",
    ],
)  # fmt: skip
def test_what_tells_stays(text: str):
    assert steady(text, pod="x-abc-0-bbbbb", uid=str(uuid.UUID(int=7)), owner="x-abc") == text


def test_names_of_long_jobs_are_cut_in_those_of_their_pods():
    name = "n" * 52 + "-0a1b2c3d"
    text = 'pods "{}-0-x7k2b" is invalid'
    assert steady(text.format(name[:55]), owner=name) == 'pods "<pod>" is invalid'
