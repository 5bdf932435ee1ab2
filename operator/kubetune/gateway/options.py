"""Settings of a gateway. The defaults are the contract with the serving pod that the operator builds."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from kubetune.api.table import ADAPTER_CACHE, ADMIN_PORT, API_PORT, ENGINE_PORT, TABLE_PATH
from kubetune.api.version import VERSION_TEXT


@dataclass(frozen=True)
class GatewayOptions:
    """What a gateway is started with."""

    table: Path = field(
        default=Path(TABLE_PATH),
        metadata={"help": "The desired table"},
    )
    cache: Path = field(
        default=Path(ADAPTER_CACHE),
        metadata={"help": "Verified copies of adapters; the engine sees the folder under the same path"},
    )
    engine_url: str = field(
        default=f"http://127.0.0.1:{ENGINE_PORT}",
        metadata={"help": "Root of the engine's HTTP API"},
    )
    host: str = field(
        default="0.0.0.0",  # noqa: S104 - the Service's port
        metadata={"help": "Address that both ports are bound to"},
    )
    port: int = field(
        default=API_PORT,
        metadata={"help": "OpenAI-compatible API"},
    )
    admin_port: int = field(
        default=ADMIN_PORT,
        metadata={"help": "Health, state and metrics"},
    )
    max_lora_rank: int | None = field(
        default=None,
        metadata={"help": "What this pod's engine was started with; in a rollout the table is ahead of it"},
    )
    max_adapter_bytes: int = field(
        default=8 * 2**30,
        metadata={"help": "Larger artifacts are refused: the cache must not fill the node's disk"},
    )
    max_body_bytes: int = field(
        default=16 * 2**20,
        metadata={"help": "Larger request bodies are refused"},
    )
    poll_seconds: float = field(
        default=0.5,
        metadata={"help": "How often the engine is looked at"},
    )
    drain_delay_seconds: float = field(
        default=3.0,
        metadata={
            "help": "After SIGTERM, requests are still accepted for so long: other nodes learn late that the "
            "pod goes"
        },
    )
    drain_seconds: float = field(
        default=90.0,
        metadata={
            "help": "After that, requests in flight may take so long to finish; the pod's grace period must "
            "be longer"
        },
    )


def parse(argv: Sequence[str]) -> GatewayOptions:
    """The options from a command line; every field is a flag (`--engine-url`)."""
    parser = argparse.ArgumentParser(
        prog="kubetune gateway",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=VERSION_TEXT)
    converters: dict[str, Any] = {"Path": Path, "str": str, "int": int, "int | None": int, "float": float}
    for option in fields(GatewayOptions):
        kind = (
            option.type
            if isinstance(option.type, str)
            else getattr(option.type, "__name__", str(option.type))
        )
        parser.add_argument(
            "--" + option.name.replace("_", "-"),
            type=converters[kind],
            default=option.default,
            help=option.metadata["help"],
        )
    return GatewayOptions(**vars(parser.parse_args(argv)))
