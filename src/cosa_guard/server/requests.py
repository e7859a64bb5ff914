"""Reading a request before anybody trusts it: headers, key, body. Whatever is ambiguous is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from cosa_guard.server.errors import HttpError
from cosa_guard.server.site import Binding, Site

__all__ = ["ClientGone", "Headers", "Receive", "Send", "authenticated", "read_body", "read_headers"]

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_BEARER = "bearer"
_SINGLE = frozenset(
    {
        b"authorization", b"x-api-key", b"content-length", b"content-type", b"content-encoding", b"transfer-encoding",
        b"x-cosa-use", b"host", b"upgrade",
    }
)  # fmt: skip
"""Headers that mean something here. Two of a kind are a way to be read differently by two readers."""


class ClientGone(Exception):
    """The client closed its connection."""


@dataclass(slots=True)
class Headers:
    """The headers that count; everything else a client sends is not read and goes nowhere."""

    found: dict[bytes, bytes]

    def text(self, name: bytes) -> str | None:
        """A header's value, if it is ASCII."""
        value = self.found.get(name)
        if value is None:
            return None
        try:
            return value.decode("ascii").strip()
        except UnicodeDecodeError:
            raise HttpError(400, "invalid_header", f"the header {name.decode()} is not ASCII") from None


def read_headers(scope: dict[str, Any]) -> Headers:
    """The headers that count.

    Raises:
        HttpError: one of them stands twice.
    """
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _SINGLE:
            if name in found:
                said = f"the header {name.decode()} stands twice: send it once"
                raise HttpError(400, "ambiguous_header", said)
            found[name] = value
    return Headers(found)


def presented_key(headers: Headers) -> str | None:
    """The key as OpenAI's clients send it, or as Anthropic's do."""
    bearer, plain = headers.text(b"authorization"), headers.text(b"x-api-key")
    if bearer is not None and plain is not None:
        said = "authorization and x-api-key are both there: send one of them"
        raise HttpError(400, "ambiguous_header", said)
    if bearer is None:
        return plain
    scheme, _, key = bearer.partition(" ")
    return key.strip() if scheme.lower() == _BEARER else None


def authenticated(headers: Headers, site: Site) -> Binding:
    """The binding of the key that came with the request.

    Raises:
        HttpError: there is none; the answer is the same for every reason.
    """
    key = presented_key(headers)
    binding = site.find(key) if key is not None else None
    if binding is None:
        said = "no valid API key: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`"
        raise HttpError(401, "invalid_api_key", said, headers=(("www-authenticate", "Bearer"),))
    return binding


def _check_framing(headers: Headers, limit: int) -> None:
    """Stop before the body is read where it is too large or not plain JSON."""
    found = headers.found
    if b"upgrade" in found:
        raise HttpError(400, "upgrade_not_supported", "this proxy speaks HTTP/1.1 only: send no upgrade", close=True)
    if b"transfer-encoding" in found and (headers.text(b"transfer-encoding") or "").lower() != "chunked":
        raise HttpError(400, "unsupported_encoding", "transfer-encoding may be chunked and nothing else", close=True)
    coding = headers.text(b"content-encoding")
    if coding not in {None, "", "identity"}:
        said = "compressed request bodies are not read: send it without content-encoding"
        raise HttpError(415, "unsupported_encoding", said)
    kind = headers.text(b"content-type")
    if kind is not None and kind.partition(";")[0].strip().lower() != "application/json":
        said = "the body must be JSON: send content-type: application/json"
        raise HttpError(415, "unsupported_media_type", said)
    length = headers.text(b"content-length")
    if length is None:
        return
    if b"transfer-encoding" in found or not length.isdigit():
        raise HttpError(400, "ambiguous_header", "content-length contradicts the rest of the request", close=True)
    if len(length) > 18 or int(length) > limit:  # noqa: PLR2004  # no such body exists
        raise _too_large(limit)


def _too_large(limit: int) -> HttpError:
    said = f"the body is larger than {limit} bytes, which is this key's limit"
    return HttpError(413, "request_too_large", said)


async def read_body(headers: Headers, receive: Receive, limit: int) -> bytes:
    """The whole body.

    Raises:
        HttpError: it is too large, or is not JSON by its headers.
        ClientGone: the client went away.
    """
    _check_framing(headers, limit)
    message = await receive()
    first: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body") and len(first) <= limit:
        return first
    body = bytearray(first)
    while message["type"] == "http.request":
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body"):
            return bytes(body)
        message = await receive()
        body += message.get("body", b"")
    raise ClientGone
