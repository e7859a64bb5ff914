"""`GuardTransport`: guards what passes between an HTTP client and an OpenAI-compatible or Anthropic API."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from cosa_guard.exchange import Exchange, Guarded
from cosa_guard.relay import Head, Outgoing
from cosa_guard.transport.families import family_of, response
from cosa_guard.verdicts import Report
from cosa_guard.wire import protocols
from cosa_guard.wire.protocol import Codec, dumps
from cosa_sdk.errors import CosaError, UnguardedRoute, UnsupportedField, UsageError

if TYPE_CHECKING:
    import httpx
    import httpx2

    class _Transport(httpx.BaseTransport, httpx.AsyncBaseTransport, httpx2.BaseTransport, httpx2.AsyncBaseTransport):
        """What a client of either family takes. Neither is imported when it runs: both take what has the methods."""

        def handle_request(self, request: Any) -> Any: ...
        async def handle_async_request(self, request: Any) -> Any: ...
else:
    _Transport = object

__all__ = ["GuardTransport"]

_OWN = frozenset({"content-length", "transfer-encoding", "accept-encoding", "content-type", "expect"})
_EVENTS = "text/event-stream"
_REFUSED = 400
_MODELS = re.compile(r"/models(/[^/]+)?\Z")


class GuardTransport(_Transport):
    """A transport for `httpx.Client`, `httpx.AsyncClient` and their httpx2 namesakes.

    Blocks come back as ordinary replies in the protocol's own words; failures of the guard as error objects that no
    SDK retries. Routes that the guard does not understand are refused. What the inner transport raises comes through.

    Args:
        guard: applies its config; its own backend is not used.
        inner: the transport that sends, of the colour that the client needs.
        passthrough: ends of paths that go through unguarded, such as `/embeddings`.
        on_report: called with the report of each call when it has ended.
    """

    def __init__(
        self,
        guard: Guarded,
        inner: Any,
        *,
        passthrough: Sequence[str] = (),
        on_report: Callable[[Report], None] | None = None,
    ) -> None:
        if isinstance(passthrough, str) or not all(path.startswith("/") for path in passthrough):
            raise UsageError(f"passthrough={passthrough!r}: give a list of path ends, such as ['/embeddings']")
        self._guard = guard
        self._inner = inner
        self._passthrough = tuple(passthrough)
        self._on_report = on_report

    def handle_request(self, request: Any) -> Any:
        """Send one request, guarded."""
        codec = self._codec(request)
        if codec is None:
            return self._inner.handle_request(request)
        family = family_of(request)
        exchange = self._begin(codec, request.read())
        if isinstance(exchange, _Refusal):
            return exchange.response(family)
        pieces: Any = exchange.stream(_Upstream(self._inner, request))
        head: Head = next(pieces)
        if head.header("content-type").startswith(_EVENTS):
            return response(family, head.status, [*head.headers], pieces)
        return response(family, head.status, [*head.headers], b"".join(pieces))

    async def handle_async_request(self, request: Any) -> Any:
        """As `handle_request`, awaiting."""
        codec = self._codec(request)
        if codec is None:
            return await self._inner.handle_async_request(request)
        family = family_of(request)
        exchange = self._begin(codec, await request.aread())
        if isinstance(exchange, _Refusal):
            return exchange.response(family)
        pieces: Any = exchange.astream(_AsyncUpstream(self._inner, request))
        head: Head = await anext(pieces)
        if head.header("content-type").startswith(_EVENTS):
            return response(family, head.status, [*head.headers], pieces)
        return response(family, head.status, [*head.headers], b"".join([piece async for piece in pieces]))

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._inner.__exit__(exc_type, exc_value, traceback)

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._inner.__aexit__(exc_type, exc_value, traceback)

    def _codec(self, request: Any) -> Codec | _Unguarded | None:
        """The protocol of a request; None for what may pass as it is."""
        path = request.url.path
        if any(path.endswith(end) for end in self._passthrough) or (request.method == "GET" and _MODELS.search(path)):
            return None
        codec = next((codec for end, codec in protocols.items() if path.endswith(end)), None)
        if codec is None or request.method != "POST" or "/threads/" in path:
            return _Unguarded(f"{request.method} {path}")
        return codec

    def _begin(self, codec: Codec | _Unguarded, body: bytes) -> Exchange | _Refusal:
        try:
            if isinstance(codec, _Unguarded):
                raise codec.error()
            return Exchange(self._guard, codec, body, on_report=self._on_report)
        except CosaError as error:
            speaking = codec if not isinstance(codec, _Unguarded) else protocols["/chat/completions"]
            return _Refusal(speaking, error)


class _Unguarded:
    """A route that the guard cannot see into."""

    def __init__(self, route: str) -> None:
        self._route = route

    def error(self) -> UnguardedRoute:
        routes = ", ".join(f"POST …{path}" for path in protocols)
        return UnguardedRoute(
            f"{self._route} is not guarded, so it was not sent. Guarded are {routes}. "
            "To let it through as it is, name its end in passthrough=[…]"
        )


class _Refusal:
    """A request that was not sent: what the caller must change."""

    def __init__(self, codec: Codec, error: CosaError) -> None:
        self._codec = codec
        self._error = error

    def response(self, family: Any) -> Any:
        error = self._error
        codes = {UnguardedRoute: "unguarded_route", UnsupportedField: "unsupported_field"}
        code = codes.get(type(error), "invalid_request")
        field = error.field if isinstance(error, UnsupportedField) else None
        headers = [("content-type", "application/json"), ("x-should-retry", "false")]
        return response(family, _REFUSED, headers, dumps(self._codec.error(_REFUSED, code, str(error), field)))


class _Upstream:
    """The inner transport, for the request that the caller made."""

    def __init__(self, inner: Any, request: Any) -> None:
        self._inner = inner
        self._request = request

    def stream(self, outgoing: Outgoing) -> Iterator[Head | bytes]:
        answer = self._inner.handle_request(_rewritten(self._request, outgoing.body))
        try:
            yield _head(answer)
            yield from answer.iter_bytes()
        finally:
            answer.close()


class _AsyncUpstream:
    """As `_Upstream`, awaiting."""

    def __init__(self, inner: Any, request: Any) -> None:
        self._inner = inner
        self._request = request

    async def astream(self, outgoing: Outgoing) -> AsyncIterator[Head | bytes]:
        answer = await self._inner.handle_async_request(_rewritten(self._request, outgoing.body))
        try:
            yield _head(answer)
            async for piece in answer.aiter_bytes():
                yield piece
        finally:
            await answer.aclose()


def _rewritten(request: Any, body: bytes) -> Any:
    """The caller's request with another body."""
    headers = [(name, value) for name, value in request.headers.raw if name.decode("latin-1").lower() not in _OWN]
    headers += [(b"content-type", b"application/json"), (b"accept-encoding", b"identity")]
    return type(request)(request.method, request.url, headers=headers, content=body, extensions=request.extensions)


def _head(answer: Any) -> Head:
    return Head(answer.status_code, tuple(answer.headers.multi_items()))
