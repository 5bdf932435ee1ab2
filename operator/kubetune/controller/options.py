"""Settings of the operator: a flag each, with the environment variable of the same name as its default."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any


def _option(default: str | int, about: str) -> Any:
    return field(default=default, metadata={"help": about})


@dataclass(frozen=True)
class Options:
    """What the operator is started with. `--trainer-image` may be given as KUBETUNE_TRAINER_IMAGE."""

    namespace: str = _option(
        "kubetune-system", "Namespace of the operator itself, for its certificate's Secret and its Lease"
    )
    trainer_image: str = _option("kubetune/trainer", "Image of training pods")
    trainer_image_pull_policy: str = _option("IfNotPresent", "When it is pulled")
    gateway_image: str = _option(
        "kubetune/operator", "Image of the gateway in serving pods: the operator's own"
    )
    engine_image: str = _option("vllm/vllm-openai", "Image of the engine in serving pods")
    engine_image_pull_policy: str = _option("IfNotPresent", "When the images of serving pods are pulled")
    progress_url: str = _option(
        "https://kubetune.kubetune-system.svc:8443",
        "Root URL under which trainers reach the progress receiver",
    )
    progress_port: int = _option(8443, "Port of the progress receiver")
    http_port: int = _option(8080, "Port of /healthz, /readyz and /metrics")
    workers: int = _option(8, "Resources reconciled at a time")
    resync_seconds: int = _option(
        300, "How often all resources are looked at, in case a watch has told nothing of a change"
    )
    lease_seconds: int = _option(15, "After how long another replica takes over from a leader that is gone")


def parse(argv: Sequence[str]) -> Options:
    """Options from a command line and the environment."""
    parser = argparse.ArgumentParser(
        prog="kubetune operator", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for option in fields(Options):
        parser.add_argument(
            "--" + option.name.replace("_", "-"),
            type=_positive if isinstance(option.default, int) else str,
            default=os.environ.get(f"KUBETUNE_{option.name.upper()}", option.default),
            help=option.metadata["help"],
        )
    return Options(**vars(parser.parse_args(argv)))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number
