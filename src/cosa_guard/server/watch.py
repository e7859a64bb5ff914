"""Ending a request from outside: its client went away, or its time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

__all__ = ["Ended", "Watch"]

Ended = Literal["gone", "slow", "late"]
"""The client went away; it did not send its body in time; the answer took too long."""
GRACE = 0.05
"""Seconds before anybody listens for the client going away. Most requests without a model's work are done by then, and
a task for each of them would cost more than it saves."""
BODY_SECONDS = 30.0


class Watch:
    """Cancels the task that made it. Stop it before the request's last await is over."""

    __slots__ = ("_began", "_listener", "_loop", "_receive", "_seconds", "_task", "_timer", "ended")

    def __init__(self, receive: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self.ended: Ended | None = None
        self._receive = receive
        self._seconds = 0.0
        """That the answer may take; 0 while the body is read."""
        self._began = False
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._listener: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(GRACE, self._begin)

    def answering(self, seconds: float) -> None:
        """The body is there: from now on the answer is waited for."""
        self._seconds = seconds
        if self._began:
            self._timer.cancel()
            self._begin()

    def stop(self) -> None:
        """The request is over."""
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()

    def settle(self) -> bool:
        """Whether the cancellation that was just caught came from here; takes it back if so."""
        if self.ended is None or self._task is None:
            return False
        self._task.uncancel()
        return True

    def _begin(self) -> None:
        self._began = True
        if not self._seconds:
            self._timer = self._loop.call_later(BODY_SECONDS, self._end, "slow")
            return
        self._timer = self._loop.call_later(self._seconds, self._end, "late")
        self._listener = self._loop.create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end("gone")

    def _end(self, how: Ended) -> None:
        if self.ended is None and self._task is not None:
            self.ended = how
            self._task.cancel()
