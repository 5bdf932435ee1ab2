"""Errors in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`.

RequestFailed
 +- BadRequest (400)
 +- UnknownModel (404)
 +- NotServed (404: the model is known, and its adapter refused for good)
 +- NotHere (404: no such path or method)
 +- TooLarge (413)
 +- Undecodable (415)
 +- Internal (500)
 +- ServiceUnavailable (503, with Retry-After)

OpenAI's clients wait and try again after 408, 409, 429 and all from 500 on, and after no other.
"""

import json
from collections.abc import Iterable
from typing import Any, ClassVar

from aiohttp import web

RETRY_AFTER_SECONDS = 5


class RequestFailed(Exception):
    """A request failed; the message is for the client."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    param: ClassVar[str | None] = None

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return error_body(str(self), type=self.type, param=self.param, code=self.code)

    def response(self) -> web.Response:
        """The HTTP response."""
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if self.status == 503 else None
        return web.json_response(self.body, status=self.status, headers=headers)


class BadRequest(RequestFailed):
    """The request cannot be understood."""

    status = 400
    type = "invalid_request_error"


class UnknownModel(RequestFailed):
    """No such model."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"
    param = "model"

    def __init__(self, model: str, available: Iterable[str]) -> None:
        super().__init__(f"The model `{model}` does not exist. Available: {', '.join(available) or 'none'}.")


class NotServed(RequestFailed):
    """The model is not served, and waiting does not help."""

    status = 404
    type = "invalid_request_error"
    code = "adapter_refused"
    param = "model"


class NotHere(RequestFailed):
    """No such path, or not with this method."""

    status = 404
    type = "invalid_request_error"
    code = "unknown_url"


class TooLarge(RequestFailed):
    """The body exceeds the limit."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class Undecodable(RequestFailed):
    """The body has an unknown encoding."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_encoding"


class Internal(RequestFailed):
    """A fault of the gateway; its log says more."""

    def __init__(self) -> None:
        super().__init__("The gateway failed. Its log says why.")


class ServiceUnavailable(RequestFailed):
    """Cannot be answered now; the same request may succeed later."""

    status = 503
    type = "service_unavailable"
    code = "unavailable"


def error_body(
    message: str, *, type: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def in_openai_form(content: bytes, status: int) -> bytes:
    """An engine's error, in OpenAI's form: as it is, or its text as the message."""
    try:
        if isinstance(json.loads(content)["error"]["message"], str):
            return content
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    told = content[:2000].decode(errors="replace").strip() or f"HTTP {status}"
    kind = "invalid_request_error" if status < 500 else "server_error"
    return json.dumps(error_body(told, type=kind, code="engine_error")).encode()
