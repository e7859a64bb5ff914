"""Upstreams on `http://`: HTTP/1.1 on asyncio's own sockets, parsed by httptools (which uvicorn brings along).

These are model servers beside the proxy, where a general client costs more than all else that the proxy does: aiohttp
takes 80 to 90 µs a request here and this 34. What it leaves out is not needed: it posts JSON, keeps connections alive,
follows nothing and stores nothing. `https://` goes through aiohttp.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlsplit

from cosa_guard.backends.base import Capabilities
from cosa_guard.exchange import Head, Outgoing
from cosa_guard.server.tenants import Upstream
from cosa_guard.server.upstream import STREAMED, UpstreamError, fixed_headers

__all__ = ["PlainUpstream"]

LARGEST_HEAD = 64 * 1024
"""Bytes of status line and headers."""
HIGH_WATER = 256 * 1024
"""Bytes that wait for whoever reads the answer; then the upstream waits."""
IDLE_SECONDS = 4.0
"""Longest rest of a connection that is used again. uvicorn, which most model servers run on, ends them after 5 s."""
_INFORMATIONAL = range(100, 200)


class _Connection(asyncio.Protocol):
    """One connection, for one answer after the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: Any = None
        self._parser: Any = None
        self._waiter: asyncio.Future[None] | None = None
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._paused = False
        self._headers: list[tuple[str, str]] = []
        self._head_bytes = 0
        self._head: Head | None = None
        self._framed = False
        """The answer says itself where it ends."""
        self._ended = True
        self._kept = False
        """The upstream keeps the connection open after this answer."""
        self._fault: str | None = None
        self._idle_since = 0.0

    # --- what asyncio calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended:
            if self._head is not None and not self._framed and exc is None:
                self._ended = True
            else:
                self._fault = self._fault or "it closed the connection before its answer was complete"
        self._wake()

    def data_received(self, data: bytes) -> None:
        if self._ended:  # nobody asked: this connection cannot be trusted to keep answers apart
            self.close()
            return
        if self._head is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except Exception as error:  # noqa: BLE001  # httptools has a tree of its own; all of it means the same here
            self._fault = f"its answer is no HTTP ({type(error).__name__})"
        if self._head is None and self._head_bytes > LARGEST_HEAD:
            self._fault = "the head of its answer has no end"
        if self._fault is not None:
            self.close()
        self._wake()

    # --- what httptools calls ---

    def on_message_begin(self) -> None:
        if self._head is not None:
            self._fault = "it sent a second answer that nobody asked for"

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        if self._fault is not None:
            return
        status = self._parser.get_status_code()
        if status not in _INFORMATIONAL:
            self._framed = any(name in {"content-length", "transfer-encoding"} for name, _ in self._headers)
            self._head = Head(status, tuple(self._headers))
        self._headers = []

    def on_body(self, body: bytes) -> None:
        if self._fault is not None:
            return
        self._pieces.append(body)
        self._waiting += len(body)
        if self._waiting > HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._head is not None and not self._ended:
            self._ended = True
            self._kept = self._framed and bool(self._parser.should_keep_alive())

    # --- what the upstream below calls ---

    @property
    def reusable(self) -> bool:
        """Its last answer is complete, and it may carry another one."""
        return self._kept and not self._transport.is_closing()

    def fresh(self) -> bool:
        """It rested so briefly that the upstream has not given it up."""
        return not self._transport.is_closing() and self._loop.time() - self._idle_since < IDLE_SECONDS

    def rest(self) -> None:
        self._idle_since = self._loop.time()

    def close(self) -> None:
        self._transport.abort()

    def send(self, request: bytes, parser: Any) -> None:
        self._parser = parser
        self._head, self._head_bytes, self._framed = None, 0, False
        self._ended = self._kept = False
        self._transport.write(request)

    async def head(self, seconds: float) -> Head:
        while self._head is None:
            await self._more(seconds)
        return self._head

    async def piece(self, seconds: float) -> bytes | None:
        """What has come of the body; None at its end."""
        while not self._pieces:
            if self._ended:
                return None
            await self._more(seconds)
        whole = self._pieces.popleft() if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._waiting = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return whole

    async def _more(self, seconds: float) -> None:
        if self._fault is not None:
            raise ConnectionError(self._fault)
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._late)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _late(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class PlainUpstream:
    """An upstream as the guard's backend: `astream(outgoing)`. As `HttpUpstream`, for `http://`."""

    capabilities = Capabilities()

    def __init__(self, settings: Upstream, secret: str | None) -> None:
        from httptools import HttpResponseParser  # noqa: PLC0415  # an extra

        self.name = f"{settings.kind}:{settings.name}"
        self._settings = settings
        self._parser = HttpResponseParser
        parts = urlsplit(str(settings.url))
        self._address = (parts.hostname or "", parts.port or 80)
        self._base = parts.path.rstrip("/")
        rows = {"host": parts.netloc, **fixed_headers(settings, secret)}
        self._rows = "".join(f"{name}: {value}\r\n" for name, value in rows.items())
        self._idle: list[_Connection] = []
        self._closed = False

    async def astream(self, outgoing: Outgoing) -> AsyncGenerator[Head | bytes, None]:
        """Send it; the head of the answer, then its body as it comes. Closing this closes the connection.

        Raises:
            UpstreamError: there is no connection, it broke, the next piece takes too long, or there are too many.
        """
        name, seconds = self._settings.name, self._settings.read_seconds
        connection: _Connection | None = None
        try:
            connection = await self._connected()
            head = (
                f"POST {self._base}{outgoing.path} HTTP/1.1\r\n{self._rows}content-length: {len(outgoing.body)}\r\n\r\n"
            )
            connection.send(head.encode("ascii") + outgoing.body, self._parser(connection))
            yield await connection.head(seconds)
            most = self._settings.answer_bytes * (STREAMED if outgoing.stream else 1)
            while (piece := await connection.piece(seconds)) is not None:
                most -= len(piece)
                if most < 0:
                    raise UpstreamError(f"upstream {name!r} sent more than its answer_bytes allow")
                yield piece
            if connection.reusable and not self._closed:
                connection.rest()
                self._idle.append(connection)
                connection = None
        except TimeoutError:
            raise UpstreamError(f"upstream {name!r} was silent for too long", 504) from None
        except ConnectionError as error:
            raise UpstreamError(f"upstream {name!r} failed: {error}") from None
        except OSError as error:
            raise UpstreamError(f"upstream {name!r} cannot be reached: {type(error).__name__}") from None
        finally:
            if connection is not None:
                connection.close()

    async def _connected(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.fresh():
                return connection
            connection.close()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._settings.connect_seconds):
            _, connection = await loop.create_connection(lambda: _Connection(loop), *self._address)
        return connection

    def close(self) -> None:
        """Close what rests, now and when answers under way have ended."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
