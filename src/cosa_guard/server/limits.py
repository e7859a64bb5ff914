"""What one tenant may use: places to run, a queue, and rates. Times come from the caller, so tests need no clock."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from cosa_guard.server.errors import HttpError, Unavailable
from cosa_guard.server.tenants import Limits

__all__ = ["Bucket", "Gate", "check_request", "estimated_tokens"]

_MINUTE = 60.0
_BYTES_PER_TOKEN = 4
_LARGEST = 10**9
"""No model counts further, and no library overflows at it."""
_TOKEN_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


@dataclass(slots=True)
class Bucket:
    """A rate per minute that lets a minute's worth pass at once."""

    what: str
    level: float = -1.0
    """What is left; negative before the first use."""
    at: float = 0.0

    def take(self, amount: int, per_minute: int | None, now: float) -> None:
        """Use some of it.

        Raises:
            Unavailable: it is used up, or `amount` never fits.
        """
        if per_minute is None:
            return
        if self.level < 0:
            self.level, self.at = float(per_minute), now
        self.level = min(float(per_minute), self.level + (now - self.at) * per_minute / _MINUTE)
        self.at = now
        if amount > per_minute:
            said = f"this request has about {amount} {self.what}; the limit is {per_minute} a minute"
            raise HttpError(413, "request_too_large", said)
        if amount > self.level:
            wait = (amount - self.level) * _MINUTE / per_minute
            said = f"more than {per_minute} {self.what} a minute: try again in {wait:.0f} s"
            raise Unavailable(429, "rate_limit_exceeded", said, retry_after=wait)
        self.level -= amount


@dataclass(slots=True)
class Gate:
    """Places for requests that run, and a first-come queue for those that wait."""

    running: int = 0
    arriving: int = 0
    """Bodies that are being read."""
    _waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    def arrive(self, limits: Limits) -> None:
        """Begin to read a body: no more of them are held than may run and wait.

        Raises:
            Unavailable: there are too many.
        """
        if self.arriving >= limits.concurrency + limits.queue:
            raise Unavailable(429, "too_many_requests", "too many requests arrive: try again later", retry_after=1)
        self.arriving += 1

    def try_enter(self, limits: Limits) -> bool:
        """Take a place if one is free and nobody waits for it."""
        if self.running < limits.concurrency and not self._waiting:
            self.running += 1
            return True
        return False

    async def enter(self, limits: Limits) -> None:
        """Wait for a place.

        Raises:
            Unavailable: the queue is full, or the wait was too long.
        """
        if len(self._waiting) >= limits.queue:
            said = f"{limits.concurrency} requests run and {limits.queue} wait: try again later"
            raise Unavailable(429, "too_many_requests", said, retry_after=1)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(limits.queue_seconds):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave(limits)  # the place was given in the same moment
            elif turn in self._waiting:
                self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                said = f"no place became free within {limits.queue_seconds} s: try again later"
                raise Unavailable(429, "too_many_requests", said, retry_after=limits.queue_seconds) from None
            raise

    def leave(self, limits: Limits) -> None:
        """Give a place back; whoever waited longest gets it."""
        self.running -= 1
        while self._waiting and self.running < limits.concurrency:
            turn = self._waiting.popleft()
            if not turn.done():
                self.running += 1
                turn.set_result(None)


def estimated_tokens(body_bytes: int) -> int:
    """Input tokens, guessed from the size of the request before anybody reads it."""
    return body_bytes // _BYTES_PER_TOKEN + 1


def check_request(body: dict[str, Any], limits: Limits, *, turns: str, cap: str) -> None:
    """Hold a request to the tenant's limits; asks for no more than `max_tokens` where it names no number.

    Args:
        turns: the field that holds the conversation.
        cap: the field that limits the reply in this protocol.

    Raises:
        HttpError: a number is no number, or too large.
    """
    conversation = body.get(turns)
    if isinstance(conversation, list) and len(conversation) > limits.turns:
        said = f"{turns} has {len(conversation)} entries; this key allows {limits.turns}"
        raise HttpError(400, "too_many_turns", said, param=turns)
    if "n" in body and body["n"] is not None:
        _bounded(body["n"], "n", limits.n)
    asked = [name for name in _TOKEN_FIELDS if body.get(name) is not None]
    for name in asked:
        _bounded(body[name], name, limits.max_tokens)
    if limits.max_tokens is not None and not asked:
        body[cap] = limits.max_tokens


def _bounded(value: Any, name: str, most: int | None) -> None:
    if type(value) is not int or not 1 <= value <= _LARGEST:
        raise HttpError(400, "invalid_value", f"{name} is not a whole number from 1 to {_LARGEST}", param=name)
    if most is not None and value > most:
        raise HttpError(400, "limit_exceeded", f"{name} is {value}; this key allows {most}", param=name)
