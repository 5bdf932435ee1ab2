"""One line per event on stdout, for `kubectl logs`: `12:00:01 train step=20/300 loss=6.12`."""

import sys
import time


def say(event: str, /, **facts: object) -> None:
    """Print one event with its facts. Values with spaces are quoted, so that programs can split the line."""
    words = [f"{name}={_text(value)}" for name, value in facts.items() if value is not None]
    print(time.strftime("%H:%M:%S", time.gmtime()), event, *words, flush=True)  # noqa: T201


def duration(seconds: float) -> str:
    """Seconds as people write them: 42s, 3m05s, 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = (
        f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    )
    return f'"{text}"' if " " in text else text


def banner_error(message: str) -> None:
    """Say why the run ends, on stderr."""
    print(f"error: {message}", file=sys.stderr, flush=True)  # noqa: T201
