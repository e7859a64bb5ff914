"""httpx and httpx2 are two families of the same contract; the one that a request comes from decides what it gets.

Neither is imported here: whoever made the request has it loaded.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache
from typing import Any

from cosa_sdk.errors import UsageError

__all__ = ["NAMES", "family_of", "response", "senders"]

NAMES = ("httpx", "httpx2")


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
            yield from self._pieces

        def close(self) -> None:
            self._pieces.close()

    class AsyncPieces(family.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, pieces: AsyncIterator[bytes]) -> None:
            self._pieces: Any = pieces

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for piece in self._pieces:
                yield piece

        async def aclose(self) -> None:
            await self._pieces.aclose()

    return Pieces, AsyncPieces


@lru_cache(maxsize=4)
def senders(family: Any) -> tuple[type, Callable[[Any, Any], Any]]:
    """A family's awaiting client class, and what puts a transport around one of its clients.

    What comes out is a client of the family that builds requests as the given one does, and hands them to the
    transport. It has no connections of its own, so that a guarded call costs one client and not two.
    """

    class Guarded(family.Client):  # type: ignore[misc]  # a class of either family
        def __init__(self, client: Any, transport: Any) -> None:
            self._client = client
            self._guarding = transport

        def send(self, request: Any, *, stream: bool = False, **_options: Any) -> Any:
            answer = self._guarding.handle_request(request)
            answer.request = request
            if not stream:
                answer.read()
            return answer

        def close(self) -> None:
            self._client.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(object.__getattribute__(self, "_client"), name)

    class AsyncGuarded(family.AsyncClient):  # type: ignore[misc]
        def __init__(self, client: Any, transport: Any) -> None:
            self._client = client
            self._guarding = transport

        async def send(self, request: Any, *, stream: bool = False, **_options: Any) -> Any:
            answer = await self._guarding.handle_async_request(request)
            answer.request = request
            if not stream:
                await answer.aread()
            return answer

        async def aclose(self) -> None:
            await self._client.aclose()

        def __getattr__(self, name: str) -> Any:
            return getattr(object.__getattribute__(self, "_client"), name)

    def around(client: Any, transport: Any) -> Any:
        return (AsyncGuarded if isinstance(client, family.AsyncClient) else Guarded)(client, transport)

    return family.AsyncClient, around


def response(family: Any, status: int, headers: list[tuple[str, str]], body: Any) -> Any:
    """A family's own response around bytes, or around an iterator of them."""
    if isinstance(body, bytes):
        return family.Response(status, headers=headers, content=body)
    blocking, awaiting = _streams(family)
    stream = awaiting(body) if hasattr(body, "__aiter__") else blocking(body)
    return family.Response(status, headers=headers, stream=stream)
