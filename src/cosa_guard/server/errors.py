"""What the proxy answers when it does not answer: the error objects of OpenAI and Anthropic."""

from __future__ import annotations

import json
from typing import Literal

from cosa_sdk.errors import CosaError

__all__ = ["Dialect", "HttpError", "Unavailable", "body_of", "kind_of"]

Dialect = Literal["openai", "anthropic"]
"""Whose error object a route speaks."""

_OPENAI = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_ANTHROPIC = {**_OPENAI, 413: "request_too_large", 503: "overloaded_error"}
SERVER_FAULT = 500


class HttpError(CosaError):
    """A request that is refused before or instead of an answer.

    Args:
        message: for the caller: names the value, the place and the next step, never a secret.
        param: the request field that is at fault.
        close: nobody knows where the request ends, so the connection cannot be used again. Elsewhere it stays open, and
            the rest of the body is read and thrown away: closing it would reset a client that still sends, and the
            answer would be lost.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = (*headers, ("connection", "close")) if close else headers


class Unavailable(HttpError):
    """Nothing is wrong with the request: there is too much to do. `retry_after` is in seconds."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: float) -> None:
        seconds = max(1, round(retry_after + 0.5))
        super().__init__(status, code, message, headers=(("retry-after", str(seconds)),))


def kind_of(status: int, dialect: Dialect) -> str:
    """The `type` that the vendor's clients map to an exception."""
    if status >= SERVER_FAULT:
        return _ANTHROPIC.get(status, "api_error") if dialect == "anthropic" else "server_error"
    known = _ANTHROPIC if dialect == "anthropic" else _OPENAI
    return known.get(status, "invalid_request_error")


def body_of(error: HttpError, dialect: Dialect) -> bytes:
    """The error as the vendor's JSON. ASCII only: what a caller sent comes back escaped."""
    kind = kind_of(error.status, dialect)
    if dialect == "anthropic":
        # Anthropic's object has no code; the SDKs show the whole body, so an extra key is seen and harms nobody.
        detail: dict[str, str | None] = {"type": kind, "message": error.message, "code": error.code}
        return json.dumps({"type": "error", "error": detail}).encode()
    detail = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return json.dumps({"error": detail}).encode()
