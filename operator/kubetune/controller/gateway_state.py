"""Asks the gateways of serving pods what they serve."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
from pydantic import ValidationError

from kubetune.api.table import ADMIN_PORT, GatewayState

log = logging.getLogger(__name__)
_SECONDS = 2.0
_AT_ONCE = 64


async def read_states(pods: Sequence[Mapping[str, Any]]) -> dict[str, GatewayState | None]:
    """What each pod's gateway says, by pod name; None where it cannot be asked or does not answer."""
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=_SECONDS), connector=aiohttp.TCPConnector(limit=_AT_ONCE)
    ) as session:
        states = await asyncio.gather(*(_read(session, pod) for pod in pods))
    return {pod["metadata"]["name"]: state for pod, state in zip(pods, states, strict=True)}


async def _read(session: aiohttp.ClientSession, pod: Mapping[str, Any]) -> GatewayState | None:
    address = pod.get("status", {}).get("podIP")
    if not address or not _gateway_runs(pod):
        return None
    host = f"[{address}]" if ":" in address else address
    try:
        async with session.get(f"http://{host}:{ADMIN_PORT}/state", allow_redirects=False) as response:
            response.raise_for_status()
            # A gateway may be of another version.
            return GatewayState.model_validate_json(await response.read(), extra="ignore")
    except (aiohttp.ClientError, TimeoutError, ValidationError) as error:
        log.info("no state from pod %s: %s", pod["metadata"]["name"], str(error) or type(error).__name__)
        return None


def _gateway_runs(pod: Mapping[str, Any]) -> bool:
    containers = pod.get("status", {}).get("containerStatuses", ())
    return any(c["name"] == "gateway" and "running" in c.get("state", {}) for c in containers)
