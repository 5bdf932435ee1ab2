"""Events. Each is created once, even if the operator restarts, because its name is a hash of what it says."""

import hashlib
import logging

from kubetune.controller.client import Client, Object
from kubetune.controller.errors import AlreadyExists, ApiError
from kubetune.controller.reconciler import utc_now
from kubetune.status.conditions import timestamp

log = logging.getLogger(__name__)

LONGEST_MESSAGE = 1000


async def record(client: Client, resource: Object, kind: str, reason: str, message: str) -> None:
    """Record an event about a resource.

    Args:
        client: of the API server.
        resource: what it is about.
        kind: Normal or Warning.
        reason: one word.
        message: for people.
    """
    meta = resource["metadata"]
    said = hashlib.sha256(f"{meta['uid']}\0{reason}\0{message}".encode()).hexdigest()[:16]
    now = timestamp(utc_now())
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{said}", "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": resource["apiVersion"],
            "kind": resource["kind"],
            **{key: meta[key] for key in ("name", "namespace", "uid")},
        },
        "type": kind,
        "reason": reason,
        "message": message[:LONGEST_MESSAGE],
        "source": {"component": "kubetune"},
        "reportingComponent": "kubetune",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        await client.create(event)
    except AlreadyExists:
        return
    except ApiError as error:
        # An event is a courtesy: the status says the same.
        log.warning("event %s of %s not recorded: %s", reason, meta["name"], error.message)
