"""The receiver's certificate lives in a Secret of the operator's namespace, and is renewed there."""

import base64
import logging
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from kubetune.api.labels import MANAGED_BY_LABEL, MANAGER
from kubetune.controller.client import Client, Object
from kubetune.controller.errors import AlreadyExists, Conflict
from kubetune.controller.reconciler import utc_now
from kubetune.progress.certificates import Identity, is_due, issue

log = logging.getLogger(__name__)

SECRET = "kubetune-progress"
CHECK_SECONDS = 60.0
"""How often the Secret is read: another replica may have renewed it, or somebody deleted it."""


async def ensure(
    client: Client, namespace: str, names: Sequence[str], known: Identity | None = None
) -> Identity:
    """The identity in the Secret; made or renewed if need be, by one of several replicas for all.

    Args:
        client: of the API server.
        namespace: of the operator.
        names: that the certificate is for.
        known: what was presented so far: its authority lives on should the Secret be lost.
    """
    found = await client.find("Secret", namespace, SECRET)
    try:
        previous = _read(found) if found else None
        if previous and not is_due(previous, names, utc_now()):
            return previous
        identity = issue(names, utc_now(), previous or known)
    except ValueError as error:
        # Trainers that trust an authority that is lost report again in their next attempt.
        log.warning("Secret %s cannot be read, replaced: %s", SECRET, error)
        identity = issue(names, utc_now(), known)
    secret: Object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": namespace, "labels": {MANAGED_BY_LABEL: MANAGER}},
        "data": {
            key.replace("_", "-"): base64.b64encode(value.encode()).decode()
            for key, value in asdict(identity).items()
        },
    }
    try:
        if found:
            # Refused when another replica was first.
            secret["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
            await client.apply(secret)
        else:
            await client.create(secret)
    except (AlreadyExists, Conflict):
        return await ensure(client, namespace, names, known)
    log.info("certificate of the progress receiver issued for %s", ", ".join(names))
    return identity


def _read(secret: Object) -> Identity | None:
    """The identity in a Secret; None if a part of it is missing."""
    data = {key.replace("-", "_"): value for key, value in (secret.get("data") or {}).items()}
    if not data.keys() >= {field.name for field in fields(Identity)}:
        return None
    return Identity(**{f.name: base64.b64decode(data[f.name]).decode() for f in fields(Identity)})


def load(context: ssl.SSLContext, identity: Identity) -> None:
    """Present a certificate; connections that are open keep theirs."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder) / "tls.crt", Path(folder) / "tls.key"
        certificate.write_text(identity.certificate)
        key.touch(mode=0o600)
        key.write_text(identity.key)
        context.load_cert_chain(certificate, key)
