"""A guarded exchange with an upstream: the front doors that speak a protocol all go through here."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Protocol

from cosa_guard.asking import Ports
from cosa_guard.conversation import admit
from cosa_guard.drivers import Outcome, adrive, drive
from cosa_guard.relay import Call, Head, Outgoing, relay
from cosa_guard.screening import Policy
from cosa_guard.verdicts import Report
from cosa_guard.wire.protocol import Asked, Codec, dumps, loads
from cosa_sdk.errors import CosaError, UsageError

__all__ = ["AsyncUpstream", "Exchange", "Guarded", "Head", "Outgoing", "Upstream"]

_NO_TEXT = {int, type(None)}
_FAILED = 424
"""Failed Dependency: of the 4xx that say so, one that no SDK retries."""


class Guarded(Protocol):
    """What a guard is to an exchange."""

    @property
    def policy(self) -> Policy:
        """What it applies."""
        ...

    @property
    def ports(self) -> Ports:
        """What its drivers work with."""
        ...

    @property
    def widest(self) -> int:
        """Most characters of a conversation that it judges."""
        ...


class Upstream(Protocol):
    """Sends a request on and gives the answer: a `Head`, then the body as it comes."""

    def stream(self, request: Outgoing) -> Iterator[Head | bytes]:
        """Closing the iterator closes the connection."""
        ...


class AsyncUpstream(Protocol):
    """As `Upstream`, awaiting."""

    def astream(self, request: Outgoing) -> AsyncIterator[Head | bytes]:
        """Closing the iterator closes the connection."""
        ...


class Exchange:
    """One request of a protocol, read and ready to be answered. Nothing has been sent yet.

    Args:
        guard: applies its config; its own backend is not used.
        codec: the protocol.
        body: the request, as bytes or read already.
        proxy: it comes from outside: only listed fields are let through, and system text is judged.
        request: names the call on record and in the header `x-cosa-request`.
        identity: names the tenant to the upstream, instead of what the caller says; the guard's tenant by default.
        on_report: called with the report when the call has ended.

    Raises:
        UnsupportedField: a field that is not let through.
        UsageError: the request cannot be read.
        PromptTooLong: what must be judged is wider than the guard judges.
    """

    def __init__(
        self,
        guard: Guarded,
        codec: Codec,
        body: bytes | Mapping[str, Any],
        *,
        proxy: bool = False,
        request: str = "",
        identity: str | None = None,
        on_report: Callable[[Report], None] | None = None,
    ) -> None:
        policy = guard.policy
        try:
            self.asked: Asked = codec.read(loads(body) if isinstance(body, bytes) else body, proxy=proxy)
        except RecursionError:
            raise UsageError("the body is nested too deeply") from None
        if not 1 <= self.asked.choices <= 128:  # noqa: PLR2004  # OpenAI's own bound
            raise UsageError(f"n is {self.asked.choices}; give a number from 1 to 128")
        self.request = request or os.urandom(8).hex()
        self.report = Report(config=policy.config.digest)
        self.failure: CosaError | None = None
        """Why the guard could not answer."""
        self._codec = codec
        self._ports = guard.ports
        self._on_report = on_report
        self._call = Call(
            policy=policy,
            codec=codec,
            asked=self.asked,
            conversation=admit(
                [turn.message for turn in self.asked.turns],
                own=policy.own,
                tenant=policy.tenant,
                widest=guard.widest,
                system_is_caller=proxy,
            ),
            report=self.report,
            request=self.request,
            identity=(identity or policy.tenant or "cosa") if proxy else None,
            headers=(("x-cosa-config", policy.config.digest), ("x-cosa-request", self.request)),
        )
        if self.asked.ids and not all(map(self._is_id, self.asked.ids)):
            raise UsageError("the id of a tool call is text that no judge reads: give it as the answer had it")

    def _is_id(self, name: Any) -> bool:
        return self._call.known.call(name) if type(name) is str else type(name) in _NO_TEXT

    def stream(self, upstream: Upstream) -> Iterator[Head | bytes]:
        """The answer: a `Head`, then the body in pieces. What the upstream's transport raises comes through.

        A failure of the guard is an answer too: an error object, or an error event once the head is out.
        """
        started = False
        try:
            for piece in drive(relay(self._call), self._with(upstream), Outcome()):
                started = True
                yield piece
        except CosaError as error:
            yield from self._failure(error, started=started)
        finally:
            self._reported()

    async def astream(self, upstream: AsyncUpstream) -> AsyncIterator[Head | bytes]:
        """As `stream`, awaiting."""
        started = False
        pieces: Any = adrive(relay(self._call), self._with(upstream), Outcome())
        try:
            async for piece in pieces:
                started = True
                yield piece
        except CosaError as error:
            for failed in self._failure(error, started=started):
                yield failed
        finally:
            await pieces.aclose()
            self._reported()

    def _with(self, upstream: Any) -> Ports:
        ports = self._ports
        return Ports(backend=upstream, pool=ports.pool, timeout=ports.timeout, record=ports.record)

    def _failure(self, error: CosaError, *, started: bool) -> Iterator[Head | bytes]:
        self.failure = error
        self.report.error = str(error)
        message = f"the guard could not answer safely ({type(error).__name__}), so nothing more was released"
        if self._call.identity is None:
            message = f"{message}: {error}"
        if started:
            yield self._codec.error_event("guard_failure", message)
            return
        headers = (("content-type", "application/json"), ("x-should-retry", "false"), *self._call.headers)
        yield Head(_FAILED, headers)
        yield dumps(self._codec.error(_FAILED, "guard_failure", message))

    def _reported(self) -> None:
        if self._on_report is not None:
            self._on_report(self.report)
