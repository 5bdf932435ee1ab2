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
from kubetune.controller.errors import AlreadyExists
from kubetune.controller.reconciler import utc_now
from kubetune.progress.certificates import Identity, is_due, issue

log = logging.getLogger(__name__)

SECRET = "kubetune-progress"
RENEWAL_CHECK_SECONDS = 12 * 3600.0


async def ensure(client: Client, namespace: str, names: Sequence[str]) -> Identity:
    """The identity in the Secret; made or renewed if need be."""
    found = await client.find("Secret", namespace, SECRET)
    try:
        previous = _read(found) if found else None
        if previous and not is_due(previous, names, utc_now()):
            return previous
        identity = issue(names, utc_now(), previous)
    except ValueError as error:
        # Trainers that run now trust the authority that is lost: they report again in their next attempt.
        log.warning("Secret %s cannot be read, replaced: %s", SECRET, error)
        identity = issue(names, utc_now())
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": namespace, "labels": {MANAGED_BY_LABEL: MANAGER}},
        "data": {
            key.replace("_", "-"): base64.b64encode(value.encode()).decode()
            for key, value in asdict(identity).items()
        },
    }
    if found:
        await client.apply(secret)
    else:
        try:
            await client.create(secret)
        except AlreadyExists:
            return await ensure(client, namespace, names)
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
