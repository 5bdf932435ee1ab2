"""Settings of a gateway. The defaults are the contract with the serving pod that the operator builds."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kubetune.api.table import ADAPTER_CACHE, ADMIN_PORT, API_PORT, ENGINE_PORT, TABLE_PATH


@dataclass(frozen=True)
class Options:
    """What a gateway is started with."""

    table: Path = Path(TABLE_PATH)
    """The desired table."""
    cache: Path = Path(ADAPTER_CACHE)
    """Verified copies of adapters; the engine sees the folder under the same path."""
    engine_url: str = f"http://127.0.0.1:{ENGINE_PORT}"
    """Root of the engine's HTTP API."""
    host: str = "0.0.0.0"  # noqa: S104 - the Service's port
    """Address that both ports are bound to."""
    port: int = API_PORT
    """OpenAI-compatible API."""
    admin_port: int = ADMIN_PORT
    """Health, state and metrics."""
    max_lora_rank: int | None = None
    """What this pod's engine was started with; while a set rolls, the table is ahead of it."""
    max_adapter_bytes: int = 8 * 2**30
    """Larger artifacts are refused: the cache must not fill the node's disk."""
    max_body_bytes: int = 16 * 2**20
    """Larger request bodies are refused."""
    poll_seconds: float = 0.5
    """How often the engine is looked at."""
    drain_delay_seconds: float = 3.0
    """After SIGTERM, requests are still accepted for so long: other nodes learn late that the pod goes."""
    drain_seconds: float = 90.0
    """After that, requests in flight may take so long to finish. The pod's grace period must be longer."""


def parse(argv: Sequence[str]) -> Options:
    """Options from a command line; every field is a flag (`--engine-url`)."""
    parser = argparse.ArgumentParser(
        prog="kubetune gateway",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    converters: dict[str, Any] = {"Path": Path, "str": str, "int": int, "int | None": int, "float": float}
    for field in fields(Options):
        kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        parser.add_argument(
            "--" + field.name.replace("_", "-"), type=converters[kind], default=field.default, help=" "
        )
    return Options(**vars(parser.parse_args(argv)))
