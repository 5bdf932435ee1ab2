"""Warnings of this run: written to the log, sent to the operator, shown in the report."""

from collections.abc import Callable

from kubetune.api.warnings import MAX_WARNINGS, RunWarning, WarningReason
from kubetune_trainer.log import say

_LONGEST = 1024
_given: list[RunWarning] = []
_listeners: list[Callable[[], None]] = []


def warn(reason: WarningReason, message: str) -> None:
    """Warn once about something that is allowed, but that a user may not expect.

    Args:
        reason: its row in `kubetune.api.warnings`.
        message: what is the case, in a plain sentence with the field's name, and what to do.
    """
    message = " ".join(message.split())  # in a condition each warning is one line
    text = message if len(message) <= _LONGEST else message[: _LONGEST - 1] + "…"
    warning = RunWarning(reason=reason.value, message=text)
    if warning in _given:
        return
    say("warning", reason=reason.value, text=message)
    if len(_given) < MAX_WARNINGS:
        _given.append(warning)
        for tell in _listeners:
            tell()


def given() -> list[RunWarning]:
    """The warnings of this run so far, in their order; at most `MAX_WARNINGS`."""
    return list(_given)


def restart(listener: Callable[[], None] | None = None) -> None:
    """Forget the warnings of an earlier run in this process. `listener` is called at each new one."""
    _given.clear()
    _listeners[:] = [listener] if listener else []
