"""Which pod template a Deployment goes on with: an upgrade of the operator restarts no engine. Pure.

A newer operator has another gateway image, maybe another default engine, maybe another way to start them.
That is no reason to interrupt what is being served. So the template is kept as it was rendered when the pods
were last made, in an annotation of the Deployment, until something gives a reason to make them anew: the
user's spec, a limit of the engine, or the user's `kubectl rollout restart`.
"""

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from typing import Any

from kubetune.api.adapterset import AdapterSetSpec
from kubetune.api.status import ResolvedBase
from kubetune.desired.adapterset_engine import EngineLimits

TEMPLATE_ANNOTATION = "kubetune.io/pod-template"
RESTARTED_ANNOTATION = "kubectl.kubernetes.io/restartedAt"
"""Set in the template by `kubectl rollout restart`."""
MOST_BYTES = 128 * 1024
"""All annotations of an object together may have 256 KiB."""


def kept(
    rendered: dict[str, Any], live: Mapping[str, Any] | None, reason: str
) -> tuple[dict[str, Any], bool]:
    """A Deployment with the pod template that it should have.

    Args:
        rendered: the Deployment as this operator would make it.
        live: the one that exists.
        reason: what `reason_of` says: pods are made anew when it changes.

    Returns:
        The Deployment, and whether this operator would make its pods otherwise than they are.
    """
    fresh = rendered["spec"]["template"]
    template, text = _kept(fresh, live, reason)
    meta = rendered["metadata"]
    meta = {**meta, "annotations": {**meta.get("annotations", {}), TEMPLATE_ANNOTATION: text}}
    spec = {**rendered["spec"], "template": template}
    return {**rendered, "metadata": meta, "spec": spec}, template != fresh


def _kept(fresh: dict[str, Any], live: Mapping[str, Any] | None, reason: str) -> tuple[dict[str, Any], str]:
    if live is None:
        return fresh, _saved(fresh, reason)
    text = (live["metadata"].get("annotations") or {}).get(TEMPLATE_ANNOTATION)
    if text is None:
        # Made by a version that did not save the template: only its images can be kept.
        template = _with_images(fresh, live["spec"]["template"])
        return template, _saved(template, reason)
    try:
        saved = json.loads(text)
        if saved["reason"] == reason:
            return saved.get("template") or _with_images(fresh, live["spec"]["template"]), text
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # Somebody has edited the annotation: nothing is kept.
    return fresh, _saved(fresh, reason)


def _saved(template: dict[str, Any], reason: str) -> str:
    text = json.dumps({"reason": reason, "template": template}, sort_keys=True, separators=(",", ":"))
    # If a template is too large for an annotation, only the images are kept.
    return text if len(text.encode()) <= MOST_BYTES else json.dumps({"reason": reason})


def _with_images(fresh: dict[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """A template with the images of another."""
    template = deepcopy(fresh)
    for kind in ("initContainers", "containers"):
        used = {container["name"]: container for container in live["spec"].get(kind) or ()}
        for container in template["spec"][kind]:
            was = used.get(container["name"], {})
            container |= {key: was[key] for key in ("image", "imagePullPolicy") if key in was}
    return template


def reason_of(
    spec: AdapterSetSpec, base: ResolvedBase, limits: EngineLimits, live: Mapping[str, Any] | None
) -> str:
    """A digest of all that gives a reason to make pods anew, and of nothing that an upgrade changes."""
    template = live["spec"]["template"] if live else {}
    # Without defaults, a field that a later version of the API adds does not count until the user sets it.
    engine = spec.engine.model_dump(by_alias=True, mode="json", exclude_defaults=True, exclude_none=True)
    annotations = (template.get("metadata") or {}).get("annotations") or {}
    reasons = [
        engine,
        spec.base_model.name,
        base.uri,
        base.digest,
        asdict(limits),
        annotations.get(RESTARTED_ANNOTATION),
    ]
    # Appended only if it says something, so that the digest of sets without it stays the same.
    if gateway := spec.gateway and spec.gateway.wire():
        reasons.append(gateway)
    return hashlib.sha256(json.dumps(reasons, sort_keys=True).encode()).hexdigest()[:16]
