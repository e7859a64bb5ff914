"""httpx and httpx2 are two families of the same contract; the one that a request comes from decides what it gets.

Neither is imported here: whoever made the request has it loaded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from functools import lru_cache
from typing import Any

from cosa_sdk.errors import UsageError

__all__ = ["AUTH", "NAMES", "family_of", "response", "senders"]

NAMES = ("httpx", "httpx2")
AUTH = "cosa.auth"
"""Extension of a request: the `auth=` that it was sent with."""


def family_of(thing: Any) -> Any:
    """The module of the family that an object belongs to, by its class or a base of it.

    Raises:
        UsageError: it belongs to neither.
    """
    for kind in type(thing).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in NAMES:
            return sys.modules[name]
    raise UsageError(f"{type(thing).__name__} belongs to neither {' nor '.join(NAMES)}")


@lru_cache(maxsize=4)
def _streams(family: Any) -> tuple[type, type]:
    """Byte streams of a family; its clients insist on their own base classes."""

    class Pieces(family.SyncByteStream):  # type: ignore[misc]  # a class of either family
        def __init__(self, pieces: Iterator[bytes]) -> None:
            self._pieces: Any = pieces

        def __iter__(self) -> Iterator[bytes]:
            return self._pieces  # type: ignore[no-any-return]  # an iterator of bytes

        def close(self) -> None:
            self._pieces.close()

    class AsyncPieces(family.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, pieces: AsyncIterator[bytes]) -> None:
            self._pieces: Any = pieces

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self._pieces  # type: ignore[no-any-return]

        async def aclose(self) -> None:
            await self._pieces.aclose()

    return Pieces, AsyncPieces


@lru_cache(maxsize=4)
def senders(family: Any) -> tuple[type, Callable[[Any, Any], Any]]:
    """A family's awaiting client class, and what puts a transport around one of its clients.

    What comes out is a client of the family that builds requests as the given one does, and hands them to the
    transport. It has no connections of its own, so that a guarded call costs one client and not two.
    """
    blocking, awaiting = _blocking(family), _awaiting(family)

    def around(client: Any, transport: Any) -> Any:
        return (awaiting if isinstance(client, family.AsyncClient) else blocking)(client, transport)

    return family.AsyncClient, around


def _blocking(family: Any) -> type:
    class Guarded(family.Client):  # type: ignore[misc]  # a class of either family
        def __init__(self, client: Any, transport: Any) -> None:
            self._client = client
            self._guarding = transport

        def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            started = time.perf_counter()
            answer = self._guarding.handle_request(_with_auth(request, options))
            answer.request = request
            if not stream:
                answer.read()
            answer.elapsed = timedelta(seconds=time.perf_counter() - started)
            return answer

        def close(self) -> None:
            self._client.close()

        def _transport_for_url(self, _url: Any) -> Any:
            return self._guarding  # whoever reaches for a client's transport gets the guarded one

        def __getattr__(self, name: str) -> Any:
            return getattr(object.__getattribute__(self, "_client"), name)

    return Guarded


def _awaiting(family: Any) -> type:
    class AsyncGuarded(family.AsyncClient):  # type: ignore[misc]
        def __init__(self, client: Any, transport: Any) -> None:
            self._client = client
            self._guarding = transport

        async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            started = time.perf_counter()
            answer = await self._guarding.handle_async_request(_with_auth(request, options))
            answer.request = request
            if not stream:
                await answer.aread()
            answer.elapsed = timedelta(seconds=time.perf_counter() - started)
            return answer

        async def aclose(self) -> None:
            await self._client.aclose()

        def _transport_for_url(self, _url: Any) -> Any:
            return self._guarding

        def __getattr__(self, name: str) -> Any:
            return getattr(object.__getattribute__(self, "_client"), name)

    return AsyncGuarded


def _with_auth(request: Any, options: dict[str, Any]) -> Any:
    """The request, carrying the `auth=` that it is to be sent with; the SDKs give one where tokens are fetched."""
    if "auth" in options:
        request.extensions = {**request.extensions, AUTH: options["auth"]}
    return request


def response(family: Any, status: int, headers: list[tuple[str, str]], body: Any) -> Any:
    """A family's own response around bytes, or around an iterator of them."""
    if isinstance(body, bytes):
        return family.Response(status, headers=headers, content=body)
    blocking, awaiting = _streams(family)
    stream = awaiting(body) if hasattr(body, "__aiter__") else blocking(body)
    return family.Response(status, headers=headers, stream=stream)
