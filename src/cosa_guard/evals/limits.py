"""How fast a run may ask, how often it tries again, and what it may cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cosa_guard.messages import Request
from cosa_sdk import tokens
from cosa_sdk.errors import AdapterError, BackendError, ModelFileError, UsageError

if TYPE_CHECKING:
    from cosa_guard.evals.replies import Said

__all__ = ["Limits", "Meter"]

_LONGEST_PAUSE = 60.0
_MINUTE = 60.0
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run keeps to. None: no limit."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    """Of prompts and replies, as estimated."""
    retries: int = 3
    """Further tries after a failed call, beside those of the backend itself, with longer and longer pauses."""
    price_in: float | None = None
    """Of a million prompt tokens, in any currency."""
    price_out: float | None = None
    """Of a million tokens of replies."""
    max_cost: float | None = None
    """In the same currency."""

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "max_cost"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not value > 0):
                raise UsageError(f"{name}={value!r}: give a number above 0")
        for name in ("price_in", "price_out"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not value >= 0):
                raise UsageError(f"{name}={value!r}: give the price of a million tokens")
        if type(self.retries) is not int or self.retries < 0:
            raise UsageError(f"retries={self.retries!r}: give a whole number from 0 on")
        if self.max_cost is not None and self.price_in is None and self.price_out is None:
            raise UsageError(
                f"max_cost={self.max_cost!r} needs prices: give price_in and price_out, for a million tokens each"
            )


class Meter:
    """Counts calls and tokens, and holds calls back. Many threads may use it.

    Args:
        clock, sleep: for tests.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.limits = limits or Limits()
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._next_request = self._next_token = 0.0
        self.calls = 0
        self.prompt_tokens = 0
        """Estimated, at four characters a token where nothing counts them."""
        self.completion_tokens = 0

    @property
    def cost(self) -> float:
        """So far, by the prices given."""
        limits = self.limits
        paid = self.prompt_tokens * (limits.price_in or 0) + self.completion_tokens * (limits.price_out or 0)
        return paid / _MILLION

    def call(self, request: Request, ask: Callable[[], Said]) -> Said:
        """Ask when it is time, and again where it fails.

        Raises:
            UsageError: the run has cost what it may. What was answered is kept.
            BackendError: the last try failed.
        """
        prompt = sum(tokens.measure(message.content, None).count for message in request.messages)
        for trial in range(self.limits.retries + 1):
            self._wait(prompt + request.sampling.max_tokens)
            try:
                said = ask()
            except (ModelFileError, AdapterError):
                raise  # will be the same
            except BackendError:
                with self._lock:
                    self.prompt_tokens += prompt  # whoever sells tokens may count it
                if trial == self.limits.retries:
                    raise
                self._sleep(min(2.0**trial, _LONGEST_PAUSE))
            else:
                with self._lock:
                    self.calls += 1
                    self.prompt_tokens += prompt
                    self.completion_tokens += said.tokens
                return said
        raise AssertionError

    def _wait(self, expected: int) -> None:
        limits = self.limits
        with self._lock:
            if limits.max_cost is not None and self.cost >= limits.max_cost:
                raise UsageError(
                    f"the run has cost {self.cost:.4g} of at most {limits.max_cost:.4g} (estimated: "
                    f"{self.prompt_tokens} prompt tokens, {self.completion_tokens} of replies). What was answered is "
                    "kept: raise --max-cost and run the same command again"
                )
            now = self._clock()
            at = max(now, self._next_request, self._next_token)
            if limits.requests_per_minute:
                self._next_request = at + _MINUTE / limits.requests_per_minute
            if limits.tokens_per_minute:
                self._next_token = at + _MINUTE * expected / limits.tokens_per_minute
        if at > now:
            self._sleep(at - now)
