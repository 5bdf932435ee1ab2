"""Why an adapter is not loaded."""

from kubetune.api.table import AdapterReason


class AdapterRefused(Exception):
    """An adapter cannot be served. The message tells people what to do."""

    def __init__(self, reason: AdapterReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
