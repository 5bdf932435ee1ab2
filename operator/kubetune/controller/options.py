"""Settings of the operator: a flag each, with the environment variable of the same name as its default."""

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import ValidationError

from kubetune.api.defaults import PodDefaults
from kubetune.api.version import VERSION_TEXT

_NAMESPACE = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def _option(default: str | int | tuple[str, ...], about: str) -> Any:
    return field(default=default, metadata={"help": about})


@dataclass(frozen=True)
class OperatorOptions:
    """What the operator is started with. `--trainer-image` may be given as KUBETUNE_TRAINER_IMAGE."""

    namespace: str = _option(
        "kubetune-system", "Namespace of the operator itself, for its certificate's Secret and its Lease"
    )
    watch_namespaces: tuple[str, ...] = _option(
        (),
        "Namespace whose resources are reconciled; may be given more than once, in KUBETUNE_WATCH_NAMESPACES "
        "separated by commas. Default: every namespace",
    )
    trainer_image: str = _option("kubetune/trainer", "Image of training pods")
    trainer_image_pull_policy: str = _option("IfNotPresent", "When it is pulled")
    gateway_image: str = _option(
        "kubetune/operator", "Image of the gateway in serving pods: the operator's own"
    )
    engine_image: str = _option("vllm/vllm-openai", "Image of the engine in serving pods")
    engine_image_pull_policy: str = _option("IfNotPresent", "When the images of serving pods are pulled")
    pod_defaults: str = _option(
        "{}", "What all training, serving and reclaim pods have, as JSON: kubetune.api.defaults.PodDefaults"
    )
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


def parse(argv: Sequence[str]) -> OperatorOptions:
    """The options from a command line and the environment."""
    parser = argparse.ArgumentParser(
        prog="kubetune operator", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--version", action="version", version=VERSION_TEXT)
    for option in fields(OperatorOptions):
        given = os.environ.get(f"KUBETUNE_{option.name.upper()}")
        if isinstance(option.default, tuple):
            continue
        parser.add_argument(
            "--" + option.name.replace("_", "-"),
            type=_positive if isinstance(option.default, int) else str,
            default=option.default if given is None else given,
            help=option.metadata["help"],
        )
    watched = OperatorOptions.__dataclass_fields__["watch_namespaces"]
    parser.add_argument(
        "--watch-namespace",
        dest=watched.name,
        action="append",
        type=_namespace,
        metavar="NAME",
        help=watched.metadata["help"],
    )
    found = vars(parser.parse_args(argv))
    try:
        inherited = [
            _namespace(n) for n in os.environ.get("KUBETUNE_WATCH_NAMESPACES", "").split(",") if n.strip()
        ]
    except argparse.ArgumentTypeError as error:
        parser.error(f"KUBETUNE_WATCH_NAMESPACES: {error}")
    try:
        PodDefaults.model_validate_json(found["pod_defaults"])
    except ValidationError as error:
        parser.error(f"--pod-defaults: {error}")
    # Each once: two watches of a namespace would see everything twice.
    found[watched.name] = tuple(dict.fromkeys(found[watched.name] or inherited))
    return OperatorOptions(**found)


def _namespace(text: str) -> str:
    """A name, not a pattern: Kopf would take `*` and `!` for one."""
    if not _NAMESPACE.fullmatch(text.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a namespace")
    return text.strip()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number
