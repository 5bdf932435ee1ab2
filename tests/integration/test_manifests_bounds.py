"""The largest objects that the schemas allow: the API server can afford all of their rules."""

from typing import Any

import pytest

from kubetune.api.kinds import KINDS
from tests.fixtures.cluster import Cluster
from tests.fixtures.manifests import dump, merge, minimal

pytestmark = pytest.mark.integration

DIGEST = "sha256:" + "a" * 64
URI = "pvc://claim/" + "x" * (1024 - len("pvc://claim/"))
KEY = f"{'p' * 253}/{'k' * 63}"
REMOTE = "https://host/" + "x" * (1024 - len("https://host/"))
BUCKET = "s3://bucket/" + "x" * (1024 - len("s3://bucket/"))
SECRET = {"name": "s" * 253}
LABELS = {f"{'p' * 253}/{'k' * 60}{n:03}": "v" * 63 for n in range(64)}


def name(n: int, length: int = 63) -> str:
    return f"{n:03}".rjust(length, "n")


VALUES = ["v" * 63] * 16
TERM = {"matchExpressions": [{"key": KEY, "operator": "In", "values": VALUES}] * 8}
RESOURCES = {
    **{side: {f"{'d' * 253}/{name(n, 63)}": "1" * 32 for n in range(32)} for side in ("requests", "limits")},
    "claims": [{"name": name(n), "request": "r" * 63} for n in range(8)],
}
MOUNTS = [{"name": name(n), "mountPath": f"/{'m' * 500}{n}"} for n in range(16)]
SELECTOR = {"matchLabels": LABELS, "matchExpressions": TERM["matchExpressions"]}
POD_TERM = {"labelSelector": SELECTOR, "topologyKey": KEY, "namespaces": [name(n) for n in range(8)]}
POD_AFFINITY = {
    "requiredDuringSchedulingIgnoredDuringExecution": [POD_TERM] * 2,
    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": POD_TERM}],
}
SPREAD = {
    "maxSkew": 1,
    "topologyKey": KEY,
    "whenUnsatisfiable": "DoNotSchedule",
    "labelSelector": {"matchExpressions": TERM["matchExpressions"]},
}
POD_TEMPLATE = {
    "labels": LABELS,
    "nodeSelector": LABELS,
    "annotations": dict.fromkeys(LABELS, "a" * 256),
    "tolerations": [{"key": "k" * 63, "operator": "Equal", "value": "v" * 63}] * 32,
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [TERM] * 8},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": TERM}] * 8,
        },
        "podAffinity": POD_AFFINITY,
    },
    "image": "i" * 512,
    "imagePullSecrets": [{"name": name(n, 253)} for n in range(8)],
    "env": [{"name": name(n, 256), "value": "v" * 512} for n in range(64)],
    "envFrom": [{"prefix": "P" * 64, "secretRef": {"name": name(n, 253)}} for n in range(16)],
    "volumes": [
        {
            "name": name(n),
            "secret": {"secretName": "s" * 253, "items": [{"key": "k" * 253, "path": "p"}] * 16},
        }
        for n in range(16)
    ],
    "volumeMounts": MOUNTS,
    "containerSecurityContext": {"capabilities": {"add": ["C" * n for n in range(1, 17)]}},
    "securityContext": {"supplementalGroups": [*range(16)]},
    "initContainers": [
        {
            "name": name(n),
            "image": "i" * 512,
            "args": ["a"] * 64,
            "env": [{"name": name(m, 256)} for m in range(64)],
            "envFrom": [{"configMapRef": {"name": "c" * 253}}] * 4,
            "volumeMounts": MOUNTS,
            "resources": RESOURCES if n == 0 else {},
        }
        for n in range(8)
    ],
    "topologySpreadConstraints": [SPREAD] * 8,
    "resourceClaims": [{"name": name(n), "resourceClaimName": "c" * 253} for n in range(8)],
}
# With 256 adapters beside all of it, the object would be larger than etcd takes.
LESS = ("affinity", "initContainers", "topologySpreadConstraints")
SMALLER = {key: value for key, value in POD_TEMPLATE.items() if key not in LESS}
COMPUTE = {
    "resourcesPerNode": RESOURCES,
    "serviceAccountName": "s" * 253,
    "podTemplate": POD_TEMPLATE,
    "cache": {"uri": URI},
    "reclaimResources": RESOURCES,
}
LARGEST: dict[str, Any] = {
    "PretrainJob": {
        "data": {
            "mixture": [
                {"name": name(n), "uri": REMOTE, "textField": "t" * 63, "secretRef": SECRET}
                for n in range(64)
            ]
        },
        "output": {"storageUri": URI},
        "compute": COMPUTE,
        "model": {"config": {f"setting{n}": "x" * 1000 for n in range(100)}},
    },
    "FineTuneJob": {
        "baseModel": {"jobRef": None, "uri": BUCKET, "digest": DIGEST, "secretRef": SECRET},
        "lora": {"targetModules": [name(n, 253) for n in range(64)]},
        "data": {
            "sources": [
                {
                    "name": name(n),
                    "uri": REMOTE,
                    "format": "sharegpt",
                    "fields": dict.fromkeys(("conversations", "system", "tools"), "f" * 63),
                    "secretRef": SECRET,
                }
                for n in range(64)
            ]
        },
        "evaluation": {"samplePrompts": ["p" * 1024] * 8},
        "output": {"storageUri": URI},
        "compute": COMPUTE,
    },
    "AdapterSet": {
        "baseModel": {"jobRef": None, "uri": URI, "digest": DIGEST, "name": "b" * 96},
        "engine": {"args": ["-" + "-" * 1023] * 64, "resources": RESOURCES, "podTemplate": SMALLER},
        "adapters": [
            {
                "name": name(n, 96),
                "digest": DIGEST,
                "source": {"uri": URI}
                if n % 2
                else {"jobSelector": {"matchLabels": dict(list(LABELS.items())[:8])}},
            }
            for n in range(256)
        ],
    },
}


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_largest_object_is_created_and_edited(crds: Cluster, namespace: str, kind: str) -> None:
    largest = merge(minimal(kind), {"spec": LARGEST[kind]})
    for change in ({}, {"metadata": {"labels": {"edited": "true"}}}):
        crds.apply(dump(merge(largest, change)), f"--namespace={namespace}", "--server-side")
