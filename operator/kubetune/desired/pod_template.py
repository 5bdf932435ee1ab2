"""The settings of pods by users and the chart, as parts of a pod's spec. Pure.

A `template` is a podTemplate as JSON. The chart's defaults are added to it; the template's own settings take
precedence.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kubetune.api.defaults import ContainerDefaults, PodDefaults

_AS_THEY_ARE = ("affinity", "priorityClassName", "schedulerName", "runtimeClassName")


def placement(template: Mapping[str, Any], defaults: PodDefaults) -> dict[str, Any]:
    """Where a pod may run, and with which secrets its images are pulled."""
    tolerated = [*(template.get("tolerations") or ()), *(t.wire() for t in defaults.tolerations)]
    found = {
        **{key: template.get(key) for key in _AS_THEY_ARE},
        "nodeSelector": defaults.node_selector | (template.get("nodeSelector") or {}),
        "tolerations": [t for n, t in enumerate(tolerated) if t not in tolerated[:n]],
        "imagePullSecrets": by_name(
            template.get("imagePullSecrets") or (), (s.wire() for s in defaults.image_pull_secrets)
        ),
    }
    return {key: value for key, value in found.items() if value}


def spreading(template: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """How pods are spread, and the devices that are claimed for each; labels: of the pods themselves."""
    constraints = [
        {"labelSelector": {"matchLabels": dict(labels)}, **constraint}
        for constraint in template.get("topologySpreadConstraints") or ()
    ]
    claims = template.get("resourceClaims")
    return {
        **({"topologySpreadConstraints": constraints} if constraints else {}),
        **({"resourceClaims": claims} if claims else {}),
    }


def pod_security(template: Mapping[str, Any], defaults: PodDefaults) -> dict[str, Any]:
    """Pod securityContext: the restricted Pod Security Standard, as far as the user does not loosen it."""
    user = defaults.run_as_user
    ids = {} if user is None else {"runAsUser": user, "runAsGroup": user, "fsGroup": user}
    return {
        "runAsNonRoot": True,
        **ids,
        # Without this the kubelet walks a large models volume at every start of a pod.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
        **(template.get("securityContext") or {}),
    }


def container_security(wanted: Mapping[str, Any] | None = None, *, read_only: bool = True) -> dict[str, Any]:
    """Container securityContext, likewise.

    Args:
        wanted: what the user says.
        read_only: whether the root file system is, unless the user says otherwise.
    """
    wanted = wanted or {}
    capabilities = {"drop": ["ALL"], **(wanted.get("capabilities") or {})}
    root = {"readOnlyRootFilesystem": True} if read_only else {}
    return {"allowPrivilegeEscalation": False, **root, **wanted, "capabilities": capabilities}


def resources(
    wanted: Mapping[str, Any] | None, defaults: ContainerDefaults, ours: Mapping[str, Any]
) -> dict[str, Any]:
    """Resources of a container.

    A layer that names a resource, as request or limit, replaces both of its defaults, because halves from two
    layers might contradict each other.

    Args:
        wanted: by the user, who goes before the chart.
        defaults: by the chart, which goes before us.
        ours: where nobody says anything.
    """
    chart = defaults.resources.wire() if defaults.resources else {}
    out: dict[str, Any] = {}
    said: set[str] = set()
    for layer in (wanted or {}, chart, ours):
        for side in ("requests", "limits"):
            free = {k: v for k, v in (layer.get(side) or {}).items() if k not in said}
            if free:
                out[side] = {**free, **out.get(side, {})}
        said |= {*(layer.get("requests") or ()), *(layer.get("limits") or ())}
        if layer.get("claims"):
            out.setdefault("claims", layer["claims"])
    return out


def variables(
    ours: Mapping[str, str], users: Sequence[Mapping[str, Any]], defaults: ContainerDefaults
) -> list[dict[str, Any]]:
    """Environment variables: ours sorted by name, then the chart's and the user's in their order, because one
    may refer to those before it. Of the same name, the later one wins. The API refuses reserved names."""
    entries = [{"name": name, "value": value} for name, value in sorted(ours.items())]
    entries += [_variable(e.wire()) for e in defaults.env]
    entries += [_variable(e) for e in users]
    last = {entry["name"]: n for n, entry in enumerate(entries)}
    return [entry for n, entry in enumerate(entries) if last[entry["name"]] == n]


def _variable(entry: Mapping[str, Any]) -> dict[str, Any]:
    if entry.get("valueFrom"):
        return {"name": entry["name"], "valueFrom": entry["valueFrom"]}
    return {"name": entry["name"], "value": entry.get("value", "")}


def of_container(template: Mapping[str, Any], env: list[dict[str, Any]]) -> dict[str, Any]:
    """Environment of trainer or engine."""
    sources = template.get("envFrom")
    return {"env": env, **({"envFrom": sources} if sources else {})}


def init_containers(template: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The user's own containers."""
    return [_own(container) for container in template.get("initContainers") or ()]


def _own(container: Mapping[str, Any]) -> dict[str, Any]:
    out = {key: value for key, value in container.items() if value not in ([], {})}
    if env := container.get("env"):
        out["env"] = [_variable(e) for e in env]
    out["securityContext"] = container_security(container.get("securityContext"), read_only=False)
    return out


def by_name(*lists: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Entries of lists, each name once: the first."""
    found: dict[str, dict[str, Any]] = {}
    for entries in lists:
        for entry in entries:
            found.setdefault(entry["name"], dict(entry))
    return [*found.values()]
