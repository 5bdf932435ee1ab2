"""Waits for our CustomResourceDefinitions, which may come after the operator.

Kopf looks for the kinds once, when it starts, and never watches those that come later.
"""

import asyncio
import logging
from collections.abc import Sequence

from kubetune.api.kinds import KINDS
from kubetune.api.meta import GROUP
from kubetune.controller.client import Client
from kubetune.controller.errors import ApiError

log = logging.getLogger(__name__)

AGAIN_SECONDS = 2.0


class Installed:
    """What the API server serves of our kinds."""

    def __init__(self, client: Client) -> None:
        self.missing: Sequence[str] = ()
        """Names of the CustomResourceDefinitions that are waited for."""
        self._client = client

    async def all(self) -> None:
        """Wait until the API server serves every kind."""
        while True:
            try:
                served = await self._client.served()
            except ApiError as error:
                log.warning("which kinds there are is not known: %s", error.message)
            else:
                before = self.missing
                self.missing = [f"{kind.plural}.{GROUP}" for kind in KINDS if kind.plural not in served]
                if not self.missing:
                    return
                if self.missing != before:
                    log.warning("nothing can be reconciled: %s", self.why())
            await asyncio.sleep(AGAIN_SECONDS)

    def why(self) -> str:
        """What is missing, and what to do."""
        return (
            f"CustomResourceDefinition {', '.join(self.missing)} is not installed: apply it (the chart does "
            "so unless crds.install is false); the operator goes on by itself then"
        )
