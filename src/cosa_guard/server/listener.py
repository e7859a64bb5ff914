"""uvicorn's HTTP/1.1 with bounds on the head of a request.

uvicorn waits for a head for ever and keeps whatever comes of it, from clients that have shown no key yet.
"""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import Any

__all__ = ["protocol"]

LARGEST_HEAD = 64 * 1024
"""Bytes of request line and headers, beyond what came with their beginning."""
HEAD_SECONDS = 30.0
"""Longest time from the first byte of a head, or from the opening of the connection, to the head's end."""


def protocol() -> Any:
    """What uvicorn is to speak: a class, or its own choice where httptools is missing (h11 bounds heads in size)."""
    return _bounded() if find_spec("httptools") is not None else "auto"


def _bounded() -> type[asyncio.Protocol]:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol  # noqa: PLC0415  # an extra

    class Bounded(HttpToolsProtocol):  # type: ignore[misc, unused-ignore]
        _open = 0
        """Bytes of a head that is not complete; negative while none has begun."""
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._timer = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

        def connection_lost(self, exc: Exception | None) -> None:
            self._settle()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._open >= 0:
                self._open += len(data)
            super().data_received(data)
            if self._open > LARGEST_HEAD:
                self.send_400_response("the head of the request is too large")
            elif self._timer is None and self.timeout_keep_alive_task is None and not self._answering():
                self._timer = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

        def on_message_begin(self) -> None:
            self._open = 0
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._open = -1
            self._settle()
            super().on_headers_complete()

        def _answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _settle(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Bounded
