"""What a token says of itself, before anybody has vouched for it. Pure.

The API server alone says whether a token is valid. But what does not even claim to be a token of ours need
not be asked about.
https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#schema-for-service-account-private-claims
"""

import base64
import binascii
import json
from typing import Any

CLOCKS_DIFFER_SECONDS = 300.0


def refuted(token: str, audience: str, namespace: str, now: float) -> tuple[int, str] | None:
    """Why a token cannot be one of a pod of a namespace, for an audience; None if it may be.

    With an HTTP status: 401 if it is not valid, 403 if it is somebody else's.

    Args:
        token: as it came.
        audience: that it must be meant for.
        namespace: of the pod.
        now: the clock, in seconds since 1970.
    """
    content = _content(token)
    if content is None:
        return 401, "it is no token of a service account"
    meant_for = content.get("aud")
    if audience not in (meant_for if isinstance(meant_for, list) else [meant_for]):
        return 401, f"the token is not valid for audience {audience}"
    expires = content.get("exp")
    if not isinstance(expires, int | float) or expires + CLOCKS_DIFFER_SECONDS < now:
        return 401, "the token has expired"
    bound = content.get("kubernetes.io")
    if not isinstance(bound, dict) or not bound.get("pod") or bound.get("namespace") != namespace:
        return 403, "the token is not bound to a pod of the job's namespace"
    return None


def _content(token: str) -> dict[str, Any] | None:
    parts = token.split(".")
    if len(parts) != 3 or not all(parts):
        return None
    try:
        payload = parts[1].encode("ascii")
        content = json.loads(base64.b64decode(payload + b"=" * (-len(payload) % 4), b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        return None
    return content if isinstance(content, dict) else None
