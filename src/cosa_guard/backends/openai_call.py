"""One request to a server, over as many attempts as it needs. Pure: the backend does the I/O and says what happened.

What is tried again: a refused connection, a connection that broke, 408, 429 and 5xx. What is not: anything after the
first text, a silent server (it may be working), a wait longer than `LONGEST_WAIT`.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Final, Generic, Protocol, TypeVar

from cosa_guard.backends.openai_request import Dialect, encoded
from cosa_guard.backends.openai_stream import brief, said_in
from cosa_sdk.errors import BackendError, PromptTooLong, WireError

__all__ = ["FIRST_WAIT", "LONGEST_WAIT", "Broken", "Call", "Failure", "Reader", "Target"]

T_co = TypeVar("T_co", covariant=True)

FIRST_WAIT: Final = 0.5
"""Seconds before the second attempt, give or take a half; each further one waits twice as long."""
LONGEST_WAIT: Final = 30.0
"""Seconds. A server that asks for more is reported instead of waited for."""
LARGEST_REFUSAL: Final = 64 * 1024
"""Bytes that are read of an error's body."""

_OK: Final = 200
_TRANSIENT: Final = frozenset({408, 429, *range(500, 600)})
_NEXT: Final = {
    400: "See what the server says of the request",
    401: "Give api_key=, or set OPENAI_API_KEY (it is sent over https and to this machine only)",
    403: "The key may not use this model; give another api_key=",
    404: "Check the base URL (most end in /v1) and the model's name",
    408: "Raise timeout=, or look at the server's load",
    413: "Shorten the conversation",
    422: "See what the server says of the request",
    429: "Ask less often, or raise retries=",
}
_LIMIT = re.compile(r"maximum context length (?:is|of) (\d{1,9})")
_LENGTH = re.compile(r"(?:resulted in|requested|has|contains)(?: at least)? (\d{1,9})")


class Reader(Protocol[T_co]):
    """Reads one answer (`openai_stream`)."""

    given: bool
    events: int
    over: bool

    @property
    def content_type(self) -> str:
        """What the answer has to be."""
        ...

    @property
    def complete(self) -> bool:
        """Nothing that happens now can change the answer."""
        ...

    def feed(self, chunk: bytes) -> Iterator[T_co]:
        """Read on."""
        ...

    def end(self) -> Iterator[T_co]:
        """The connection gave all it had."""
        ...


class Failure(Exception):  # not an error yet: it may be tried again
    """An attempt failed."""


class Broken(Failure):
    """The connection could not be made, or broke.

    Args:
        why: in words.
        silent: nothing came for too long.
    """

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


class _Refused(Failure):
    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(status)
        self.status, self.headers, self.body = status, headers, body


@dataclass(slots=True, repr=False)
class Target:
    """Where requests go and how patiently."""

    who: str
    """For messages: model and address."""
    timeout: float
    """Seconds without an event."""
    retries: int
    secrets: tuple[str, ...] = ()
    """Never repeated, even where the server does."""
    dialect: Dialect = field(default_factory=Dialect)
    """Learnt from refusals, for all requests to come."""

    def scrub(self, said: str) -> str:
        """Without the secrets."""
        for secret in self.secrets:
            said = said.replace(secret, "[key]")
        return said


class Call(Generic[T_co]):
    """Feeds one answer to a reader, attempt by attempt.

    Args:
        target: where it goes.
        body: the request in a dialect.
        reader: makes a fresh reader for each attempt.
    """

    def __init__(
        self, target: Target, body: Callable[[Dialect], Mapping[str, Any]], reader: Callable[[], Reader[T_co]]
    ) -> None:
        self._target = target
        self._body = body
        self._make_reader = reader
        self._reader = reader()
        self._left = target.retries
        self._wait = FIRST_WAIT
        self._dialect = target.dialect
        self._status = 0
        self._headers: Mapping[str, str] = {}
        self._refusal = bytearray()
        self._cut = False
        """A refusal that takes too long is told as far as it came."""
        self._heard = (0, 0.0)

    def content(self) -> bytes:
        """The request's body, for the next attempt."""
        self._dialect = self._target.dialect
        return encoded(self._body(self._dialect))

    def begin(self, status: int, headers: Mapping[str, str], now: float) -> None:
        """The head of an answer has come.

        Raises:
            WireError: it is of another kind than was asked for.
        """
        self._reader = self._make_reader()
        self._status, self._headers, self._heard = status, headers, (0, now)
        self._refusal.clear()
        self._cut = False
        if status != _OK:
            return
        kind = headers.get("content-type", "").partition(";")[0].strip()
        if kind.lower() != self._reader.content_type:
            shown = brief(self._target.scrub(kind)) or "nothing"
            raise WireError(
                f"{self._target.who}: the server answered with {shown}, not {self._reader.content_type}. Is the base "
                "URL the one of an OpenAI-compatible API?"
            )
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise WireError(f"{self._target.who}: the server compressed its answer, though it was asked not to")

    @property
    def over(self) -> bool:
        """No more needs to be read."""
        return self._reader.over or self._cut

    @property
    def complete(self) -> bool:
        """The answer is whole, even if the connection breaks now."""
        return self._status == _OK and self._reader.complete

    def feed(self, chunk: bytes, now: float) -> Iterator[T_co]:
        """The next bytes of the body, and the time in seconds.

        Raises:
            BackendError: what they say is an error, or not the protocol.
            Broken: bytes come, but nothing that says anything.
        """
        if self._status != _OK:
            self._refusal += chunk[:LARGEST_REFUSAL]
            self._cut = len(self._refusal) >= LARGEST_REFUSAL or now - self._heard[1] > self._target.timeout
            return
        try:
            yield from self._reader.feed(chunk)
        except BackendError as error:
            raise type(error)(f"{self._target.who}: {error}") from None
        events, since = self._heard
        if self._reader.events > events:
            self._heard = (self._reader.events, now)
        elif now - since > self._target.timeout:
            if not self._reader.complete:
                raise Broken("it keeps the connection open and says nothing", silent=True)
            self._reader.over = True

    def end(self) -> Iterator[T_co]:
        """What is left to give when the body has ended.

        Raises:
            BackendError: the answer is not whole.
        """
        if self._status != _OK:
            raise _Refused(self._status, self._headers, bytes(self._refusal))
        try:
            yield from self._reader.end()
        except BackendError as error:
            raise type(error)(f"{self._target.who}: {error}") from None

    def again(self, failure: Failure, now: float) -> float:
        """Seconds until the next attempt.

        Args:
            failure: what `feed` or `end` raised, or a `Broken` of the caller's.
            now: seconds since the epoch, for servers that name a time.

        Raises:
            BackendError: there is none.
            PromptTooLong: the server says that the prompt does not fit.
        """
        if isinstance(failure, _Refused):
            return self._after_refusal(failure, now)
        said = brief(self._target.scrub(str(failure)))
        if isinstance(failure, Broken) and failure.silent:
            seconds = f"{self._target.timeout:g} s"
            raise BackendError(f"{self._target.who}: the server was silent for {seconds} ({said}). Raise timeout=.")
        if self._reader.given:
            raise WireError(f"{self._target.who}: the connection broke in the middle of the reply: {said}")
        return self._pause(f"{self._target.who} cannot be reached: {said}. Is it running, and is the base URL right?")

    def _after_refusal(self, refusal: _Refused, now: float) -> float:
        target, status = self._target, refusal.status
        said, error = said_in(refusal.body)
        if (dialect := self._dialect.after(status, said)) is not None:
            target.dialect = dialect
            return 0.0
        words = brief(target.scrub(said))
        if _says_too_long(status, said, error):
            tokens = _number(error.get("n_prompt_tokens"), _LENGTH, said)
            budget = _number(error.get("n_ctx"), _LIMIT, said)
            raise PromptTooLong(f"{target.who}: {words}", tokens=tokens, budget=budget)
        step = _NEXT.get(status, "Look at the server's log")
        if 300 <= status < 400:  # noqa: PLR2004  # redirects
            words = brief(target.scrub(refusal.headers.get("location", "")))
            step = "It redirects, which is not followed; give the address it names as the base URL"
        message = f"{target.who} answered {status}{f': {words}' if words else ''}. {step}."
        if status not in _TRANSIENT:
            raise BackendError(message)
        return self._pause(message, _retry_after(refusal.headers, now))

    def _pause(self, message: str, asked: float | None = None) -> float:
        if asked is not None and asked > LONGEST_WAIT:
            raise BackendError(f"{message} The server asks to wait {asked:.0f} s.")
        if not self._left:
            tried = f" Tried {self._target.retries + 1} times." if self._target.retries else ""
            raise BackendError(message + tried)
        self._left -= 1
        wait, self._wait = self._wait * random.uniform(0.5, 1.5), min(LONGEST_WAIT, self._wait * 2)  # noqa: S311
        return wait if asked is None else asked


def _says_too_long(status: int, said: str, error: Mapping[str, Any]) -> bool:
    named = error.get("code") == "context_length_exceeded" or error.get("type") == "exceed_context_size_error"
    return status in {400, 413, 422} and (named or "maximum context length" in said)


def _number(value: Any, pattern: re.Pattern[str], said: str) -> int:
    """A count from the server's field or its words; 0 when it names none."""
    if type(value) is int:
        return value
    found = pattern.search(said)
    return int(found[1]) if found else 0


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
