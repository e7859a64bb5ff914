"""The hot routes: a request of one of the three protocols, through the guard, to the upstream and back."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cosa_guard.audit import AuditError
from cosa_guard.exchange import Exchange, Head
from cosa_guard.guard import Guard
from cosa_guard.server.errors import Dialect, HttpError, body_of
from cosa_guard.server.limits import check_request, estimated_tokens
from cosa_guard.server.log import place_of, trouble
from cosa_guard.server.requests import ClientGone, Headers, Receive, Send, authenticated, read_body, read_headers
from cosa_guard.server.site import Binding
from cosa_guard.server.state import as_items
from cosa_guard.server.upstream import UpstreamError
from cosa_guard.server.watch import Ended, Watch
from cosa_guard.verdicts import Report
from cosa_guard.wire import protocols
from cosa_guard.wire.protocol import loads
from cosa_guard.wire.sse import SSEDecoder
from cosa_sdk.errors import (
    CosaError,
    JudgeError,
    MissingExtra,
    PromptTooLong,
    UnsupportedField,
    UsageError,
)

if TYPE_CHECKING:
    from cosa_guard.server.app import App

__all__ = ["ROUTES", "Call", "GuardedRoute", "as_http", "serve"]

_SHOWN = 500
_EVENT_STREAM = "text/event-stream"
_NO_JUDGE = ("the message has parts no judge", "the reply has a part no judge")
"""How a report begins its reason when there are pictures and the like."""


@dataclass(frozen=True, slots=True)
class GuardedRoute:
    """One protocol's route."""

    path: str
    """Below `/v1`."""
    protocol: str
    """As upstreams name it."""
    turns: str
    """The field that holds the conversation."""
    cap: str
    """The field that limits the reply."""
    dialect: Dialect = "openai"


ROUTES = (
    GuardedRoute("/chat/completions", "chat", "messages", "max_completion_tokens"),
    GuardedRoute("/responses", "responses", "input", "max_output_tokens"),
    GuardedRoute("/messages", "messages", "messages", "max_tokens", "anthropic"),
)


_FAULTS: tuple[tuple[type[Exception], int, str, str], ...] = (
    (MissingExtra, 500, "internal_error", "the proxy is not installed completely; its log says more"),
    (AuditError, 503, "audit_unavailable", "decisions cannot be recorded, so nothing is answered"),
    (JudgeError, 503, "judge_unavailable", "nobody could judge the request"),
)
"""What a caller is told of errors that are not its own; the first kind that fits counts."""


def as_http(error: Exception) -> HttpError:
    """What a caller is told about an error: what it can mend in full, the rest in general."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, UpstreamError):
        late = error.status == 504  # noqa: PLR2004  # Gateway Timeout
        return HttpError(error.status, "upstream_error", f"the model server {'took too long' if late else 'failed'}")
    for kind, status, code, message in _FAULTS:
        if isinstance(error, kind):
            return HttpError(status, code, message)
    if isinstance(error, UnsupportedField):
        return HttpError(400, "unsupported_field", str(error)[:_SHOWN], param=error.field[:_SHOWN])
    if isinstance(error, UsageError):
        code = "context_length_exceeded" if isinstance(error, PromptTooLong) else "invalid_request"
        return HttpError(400, code, str(error)[:_SHOWN])
    return HttpError(500, "internal_error", "the proxy failed; its log says more")


class Call:
    """One request to a tenant's route: admission on the way in, one line in log and metrics on the way out."""

    __slots__ = (
        "_app",
        "_dialect",
        "_label",
        "_send",
        "_started",
        "act",
        "binding",
        "name",
        "outcome",
        "sent",
        "status",
    )

    def __init__(self, app: App, label: str, send: Send, dialect: Dialect = "openai") -> None:
        self._app = app
        self._label = label
        self._send = send
        self._dialect = dialect
        self._started = time.perf_counter()
        self.name = f"req_{os.urandom(12).hex()}"
        """For the caller, the log and the record."""
        self.binding: Binding | None = None
        self.act = self.outcome = "none"
        self.status = 0
        self.sent = False
        """The head of the answer is out."""

    async def admitted(self, headers: Headers, receive: Receive) -> tuple[Binding, Guard, dict[str, Any]]:
        """Who asks, under which config, and what.

        Raises:
            HttpError: no key, a config that the key is not bound to, too much, or no JSON object.
        """
        binding = self.binding = authenticated(headers, self._app.site)
        guard = _chosen(headers, binding)
        limits, state = binding.limits, binding.state
        state.gate.arrive(limits)
        try:
            raw = await read_body(headers, receive, limits.body_bytes)
        finally:
            state.gate.arriving -= 1
        now = time.monotonic()
        state.requests.take(1, limits.requests_per_minute, now)
        state.tokens.take(estimated_tokens(len(raw)), limits.tokens_per_minute, now)
        try:
            return binding, guard, loads(raw)
        except UsageError as error:
            raise HttpError(400, "invalid_json", str(error)[:_SHOWN]) from None

    async def start(self, status: int, headers: list[tuple[bytes, bytes]], digest: str | None = None) -> None:
        """Send the head of the answer."""
        self.sent, self.status = True, status
        headers.append((b"x-cosa-request", self.name.encode()))
        if digest is not None:
            headers += [(b"x-cosa-config", digest.encode()), (b"x-cosa-act", self.act.encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(self, piece: bytes, *, more: bool = False) -> None:
        """Send a piece of the answer; waits while the client does not read."""
        await self._send({"type": "http.response.body", "body": piece, "more_body": more})

    def ruled(self, report: Report, failure: CosaError | None) -> None:
        """Note what the guard did, and why it could not."""
        self.act, self.outcome = report.act, report.outcome
        assert self.binding is not None
        metrics, tenant = self._app.metrics, self.binding.tenant
        if failure is not None:
            kind = type(failure).__name__
            metrics.guard_errors[tenant, kind] += 1
            self._app.log.event(f"{self.name} {kind}: {failure}")
        # Pictures and the like, which no judge covers, are nobody's failure.
        judge = next((said for one in report.rulings if (said := one.error) and not said.startswith(_NO_JUDGE)), None)
        if judge is not None:
            metrics.judge_errors[tenant] += 1
            self._app.log.event(f"{self.name} {trouble(judge)}")
        elif failure is None and report.error and not report.error.startswith(_NO_JUDGE):
            self._app.log.event(f"{self.name} {report.error}")

    async def refuse(self, error: HttpError) -> None:
        """Answer with an error object."""
        body = body_of(error, self._dialect)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(name.encode(), value.encode()) for name, value in error.headers]
        await self.start(error.status, headers)
        await self.body(body)

    def done(self) -> None:
        """Count and log it."""
        seconds = time.perf_counter() - self._started
        tenant, key = (self.binding.tenant, self.binding.label) if self.binding else ("-", "-")
        self._app.metrics.answered(tenant, self._label, self.status, self.act, self.outcome, seconds)
        self._app.log.request(
            self._label, self.status, tenant=tenant, key=key, act=self.act, outcome=self.outcome, seconds=seconds,
            name=self.name,
        )  # fmt: skip


def _chosen(headers: Headers, binding: Binding) -> Guard:
    """The guard of the config that the key is bound to, or of one of several that it may choose from."""
    use = headers.text(b"x-cosa-use")
    guard = next(iter(binding.guards.values())) if use is None else binding.guards.get(use)
    if guard is None:
        raise HttpError(403, "config_not_allowed", "this key is not bound to that config")
    return guard


async def serve(app: App, route: GuardedRoute, scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer one request."""
    call = Call(app, route.path, send, route.dialect)
    watch = Watch(receive)
    try:
        headers = read_headers(scope)
        binding, guard, body = await call.admitted(headers, receive)
        watch.answering(binding.limits.seconds)
        gate, limits = binding.state.gate, binding.limits
        items = _prepared(app, route, binding, body)
        if not gate.try_enter(limits):
            await gate.enter(limits)
        try:
            exchange = Exchange(guard, protocols[route.path], body, proxy=True, request=call.name)
            await _answer(call, exchange, items)
        finally:
            gate.leave(limits)
    except ClientGone:
        app.metrics.gone += 1
    except asyncio.CancelledError:
        if not watch.settle():
            raise
        await _ended(app, call, route, watch.ended)
    except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets the protocol's error object
        await _failed(app, call, route, error)
    finally:
        watch.stop()
        call.done()


def _prepared(app: App, route: GuardedRoute, binding: Binding, body: dict[str, Any]) -> list[Any] | None:
    """Hold the request to what the key is bound to; for `responses`, the conversation to store with the answer."""
    if route.protocol not in binding.upstream.settings.protocols:
        said = f"the upstream of this key does not speak /v1{route.path}"
        raise HttpError(404, "route_not_served", said)
    model = body.get("model")
    if model is None:
        body["model"] = next(iter(binding.models.values()))
    else:
        known = binding.models.get(model) if isinstance(model, str) else None
        if known is None:
            said = "this key may not use that model: GET /v1/models lists those it may use"
            raise HttpError(404, "model_not_found", said, param="model")
        body["model"] = known
    items = None
    if route.protocol == "responses":
        items = _continued(app, binding, body)
    check_request(body, binding.limits, turns=route.turns, cap=route.cap)
    return items


def _continued(app: App, binding: Binding, body: dict[str, Any]) -> list[Any] | None:
    """Replace `previous_response_id` by the conversation behind it; the items to store, where they are to be."""
    previous = body.pop("previous_response_id", None)
    keep = body.pop("store", None)
    if keep not in (None, True, False):
        raise HttpError(400, "invalid_value", "store is neither true nor false", param="store")
    if previous is not None:
        if app.workers > 1:
            said = "previous_response_id needs a proxy with one worker: send the whole conversation as input"
            raise HttpError(400, "previous_response_unavailable", said, param="previous_response_id")
        body["input"], size = binding.state.responses.expand(previous, body.get("input"))
        # The model reads it all again, however short the request that refers to it.
        binding.state.tokens.take(estimated_tokens(size), binding.limits.tokens_per_minute, time.monotonic())
    if keep is False or app.workers > 1 or body.get("input") is None:
        return None
    return as_items(body["input"])


async def _answer(call: Call, exchange: Exchange, items: list[Any] | None) -> None:
    """Drive the exchange, handing the caller what it releases."""
    assert call.binding is not None
    pieces: Any = exchange.astream(call.binding.upstream.backend)
    digest = exchange.report.config
    try:
        head = await anext(pieces)
        assert isinstance(head, Head)
        call.act = exchange.report.act
        # The call's own names and acts are added below, the same for every kind of answer.
        headers = [(name.encode(), value.encode()) for name, value in head.headers if not name.startswith("x-cosa-")]
        if any(name == "content-type" and value.startswith(_EVENT_STREAM) for name, value in head.headers):
            await _streamed(call, head.status, headers, digest, pieces, items)
        else:
            body = b"".join([piece async for piece in pieces if isinstance(piece, bytes)])
            call.act = exchange.report.act
            if items is not None and head.status == 200:  # noqa: PLR2004  # an error is no answer to go on from
                _keep(call.binding, items, json.loads(body))
            headers.append((b"content-length", str(len(body)).encode()))
            await call.start(head.status, headers, digest)
            await call.body(body)
    finally:
        await pieces.aclose()
        call.ruled(exchange.report, exchange.failure)


async def _streamed(
    call: Call,
    status: int,
    headers: list[tuple[bytes, bytes]],
    digest: str,
    pieces: AsyncIterator[Head | bytes],
    items: list[Any] | None,
) -> None:
    # Without this nginx gathers the pieces of a stream.
    headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
    await call.start(status, headers, digest)
    events = SSEDecoder() if items is not None else None
    async for piece in pieces:
        assert isinstance(piece, bytes)
        if events is not None and items is not None and call.binding is not None:
            for event in events.feed(piece):
                if '"response.completed"' in event.data or '"response.incomplete"' in event.data:
                    _keep(call.binding, items, json.loads(event.data).get("response"))
        await call.body(piece, more=True)
    await call.body(b"")


def _keep(binding: Binding, items: list[Any], answer: Any) -> None:
    if isinstance(answer, dict):
        binding.state.responses.keep(items, answer, binding.limits.stored_responses)


async def _ended(app: App, call: Call, route: GuardedRoute, how: Ended | None) -> None:
    """The watch stopped the request."""
    if how == "gone":
        app.metrics.gone += 1
        call.status = call.status or 499
        return
    error = HttpError(504, "timeout", "the request took longer than this key allows")
    if how == "slow":
        error = HttpError(408, "request_timeout", "the body did not arrive in time", close=True)
    await _failed(app, call, route, error)


async def _failed(app: App, call: Call, route: GuardedRoute, error: Exception) -> None:
    """Tell the caller in the protocol's own words, in the middle of a stream too."""
    said = as_http(error)
    if isinstance(error, UpstreamError) and call.binding is not None:
        app.metrics.upstream_errors[call.binding.upstream.settings.name] += 1
    if not isinstance(error, HttpError | UsageError):
        # A CosaError's message is made for logs; anything else may quote the conversation.
        known = isinstance(error, CosaError | UpstreamError)
        app.log.event(f"{call.name} {f'{type(error).__name__}: {error}' if known else place_of(error)}")
    if call.sent:
        await call.body(protocols[route.path].error_event(said.code, said.message), more=True)
        await call.body(b"")
        return
    await call.refuse(said)
