"""Time as the API writes it."""

from datetime import UTC, datetime


def rfc3339() -> str:
    """Now, in UTC, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
