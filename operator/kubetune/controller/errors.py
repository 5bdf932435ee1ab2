"""Errors of requests to the API server.

ApiError
|- NotFound          404
|- AlreadyExists     409 on create
|- Conflict          409 otherwise: somebody else changed it, or its UID is another
|- Refused           400, 403, 413, 422, unknown field: the same request will be refused again
|  '- NamespaceTerminating
|- Unavailable       429, 5xx, no answer: the same request may succeed later
|- NotLeader         not sent: only the leader writes
"""

import re

_FROM_PORT = re.compile(r"(\d+(\.\d+){3}|\[[0-9a-f:]+\]):\d+->")
"""Local end of a connection. Its port differs each time, which would make the same message look new."""


class ApiError(Exception):
    """A request failed."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.request = ""
        """What was asked for, as `patch pods`."""

    @property
    def is_answer(self) -> bool:
        """Whether it is about this request, rather than a sign that the API server is not well.

        A webhook that does not work comes as 500.
        """
        return isinstance(self, Refused) or self.code == 500


class NotFound(ApiError):
    """There is no such object."""


class AlreadyExists(ApiError):
    """An object of that name exists."""


class Conflict(ApiError):
    """The object is not in the state that the request assumed."""


class Refused(ApiError):
    """The request will never succeed as it is."""


class NamespaceTerminating(Refused):
    """Nothing can be created any more in a namespace that is being deleted."""


class Unavailable(ApiError):
    """The API server could not answer now."""


class NotLeader(ApiError):
    """This replica must not write now."""


def error_of(code: int, reason: str, message: str) -> ApiError:
    """The error of an HTTP status, the Status object's reason and its message."""
    message = _FROM_PORT.sub("", message)
    # Server-side apply reports an unknown field as a server error; it is the request that is wrong.
    if "field not declared in schema" in message:
        return Refused(message, code)
    if code == 403 and "because it is being terminated" in message:
        return NamespaceTerminating(message, code)
    if code == 404:
        return NotFound(message, code)
    if code == 409:
        return AlreadyExists(message, code) if reason == "AlreadyExists" else Conflict(message, code)
    if code in (400, 401, 403, 405, 413, 422):
        return Refused(message, code)
    return Unavailable(message, code)
