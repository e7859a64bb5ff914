"""One call on the wire: screen the request, ask the upstream, and relay what passes of its answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

from cosa_guard.admission import Admission, screen_input, system_text
from cosa_guard.conversation import Conversation
from cosa_guard.messages import Message
from cosa_guard.recollection import Kind
from cosa_guard.screening import Policy
from cosa_guard.steps import Close, Emit, Flow, Open, Pull
from cosa_guard.verdicts import Report
from cosa_guard.wire.fields import Known, Names, readable
from cosa_guard.wire.protocol import Asked, Codec, Turn, dumps, loads
from cosa_sdk.errors import UsageError, WireError

__all__ = ["LARGEST_REPLY", "Call", "Head", "Outgoing", "pulled", "relay"]

LARGEST_REPLY = 64 * 1024 * 1024
"""Bytes of a whole reply, or of a stream's event."""
LARGEST_ERROR = 64 * 1024
_SUCCESS, _REDIRECT, _FAILED = 200, 300, 400
_KEPT = frozenset({"retry-after", "retry-after-ms", "x-request-id", "request-id", "x-should-retry"})
_RATES = ("x-ratelimit-", "anthropic-ratelimit-", "openai-processing-")
_DATE = re.compile(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\Z")
_LONGEST_HEADER = 200
_QUOTED = 30
"""Characters of a line of the prompt that an error may not quote."""
_SECRET = frozenset({401, 403})
_PULL = Pull()


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of an answer."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()

    def header(self, name: str) -> str:
        """A header's value; empty when it is missing."""
        return next((value for key, value in self.headers if key.lower() == name), "")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request for the upstream."""

    path: str
    body: bytes
    stream: bool


@dataclass(slots=True, kw_only=True)
class Call:
    """What belongs to one call."""

    policy: Policy
    codec: Codec
    asked: Asked
    conversation: Conversation
    report: Report
    request: str
    """Names it on record, and in answers that no upstream named."""
    identity: str | None = None
    """Names the tenant to the upstream; the caller comes through a proxy then."""
    partial: bool = False
    broken: tuple[str, ...] | None = None
    headers: tuple[tuple[str, str], ...] = field(default=())
    """For the answer's head."""
    known: Known = field(init=False)

    def __post_init__(self) -> None:
        names = self.policy.names.get(self.codec.name)
        if names is None:
            names = self.policy.names[self.codec.name] = Names(self.codec.usual, self.policy.says)
        self.known = Known(self.asked.tools, names)

    @property
    def refusal(self) -> str:
        """The config's refusal."""
        return self.policy.config.refusal.message.strip()

    @property
    def attempts(self) -> int:
        """Candidates that may be asked for; an answer of several choices is asked for once."""
        enforcement = self.policy.config.enforcement
        return enforcement.attempts if enforcement.output == "regenerate" and self.asked.choices == 1 else 1

    def outgoing(self) -> Outgoing:
        """The request for the upstream: aligned, and without what nobody judged."""
        system = system_text(self.policy, self.conversation, partial=self.partial, broken=self.broken)
        turns = self.asked.turns
        kept: list[tuple[Turn, Message]] = [
            (turns[place], message)
            for place, message in zip(self.conversation.places, self.conversation.turns, strict=True)
        ]
        body = self.codec.ask(self.asked, kept, system, self.identity)
        return Outgoing(self.codec.path, dumps(body), self.asked.stream)

    def head(self, upstream: Head | None, kind: str) -> Head:
        """The head of an answer to the caller."""
        kept = self.kept(upstream) if upstream else ()
        return Head(_SUCCESS, (("content-type", kind), *kept, *self.headers, ("x-cosa-act", self.report.act)))

    def kept(self, upstream: Head) -> Iterator[tuple[str, str]]:
        """Headers of the upstream's answer that clients work with, where they say nothing else."""
        for given, value in upstream.headers:
            name = given.lower()
            if (name in _KEPT or name.startswith(_RATES)) and len(name) + len(value) < _LONGEST_HEADER:
                told = self.known.call(value) or (name == "retry-after" and _DATE.match(value))
                if told and self.known.name(name):
                    yield given, value

    def quotes(self, text: str) -> bool:
        """A text repeats a line of the compiled config, as errors do that show what was sent."""
        lines = (line.strip() for line in self.policy.system.splitlines())
        return any(line in text for line in lines if len(line) >= _QUOTED)

    def remember(self, variants: Iterator[tuple[Message, ...]], kind: Kind) -> None:
        """Note the turns of an answer, so that they are recognised when the caller sends them back."""
        for turns in variants:
            before = self.conversation.raw
            for turn in turns:
                self.policy.own.remember(self.policy.tenant, before, turn.content, kind)
                before = (*before, turn)

    def again(self) -> bool:
        """A candidate was stopped before any of it was out: whether a fresh one is asked for."""
        ruling = self.report.last("output")
        if self.report.candidates >= self.attempts or ruling is None or ruling.decision.floor or ruling.error:
            return False
        self.broken = ruling.decision.rules if ruling.outcome == "violates" else ()
        self.report.act = "regenerate"
        return True


def pulled(most: int, what: str) -> Flow[bytes]:
    """The rest of the upstream's body.

    Raises:
        WireError: it has more than `most` bytes.
    """
    body = bytearray()
    while (piece := (yield from _PULL)) is not None:
        body += cast("bytes", piece)
        if len(body) > most:
            raise WireError(f"the upstream's {what} has more than {most} bytes")
    return bytes(body)


def relay(call: Call) -> Flow[Report]:
    """Answer a call: emits one `Head`, then the body in pieces.

    Raises:
        WireError: what the upstream answered is not its protocol, or more than anybody can take apart.
    """
    from cosa_guard.relay.stream import relay_stream  # noqa: PLC0415  # it knows Call: a cycle at import time
    from cosa_guard.relay.whole import refuse, relay_whole  # noqa: PLC0415

    admission: Admission = yield from screen_input(call.policy, call.conversation, call.report, call.request)
    if admission == "refuse":
        call.report.act = "refuse"
        yield from refuse(call)
        return call.report
    call.partial = admission == "partial"
    while True:
        call.report.candidates += 1
        try:
            yield from Open(call.outgoing())
        except RecursionError:
            raise WireError("the request is nested too deeply") from None
        head = cast("Head | None", (yield from _PULL))
        if head is None:
            raise WireError("the upstream closed the connection without an answer")
        if not _SUCCESS <= head.status < _REDIRECT:
            yield from _relay_error(call, head)
            break
        kind = head.header("content-type").partition(";")[0].strip().lower()
        answer = relay_stream if kind == "text/event-stream" else relay_whole
        if kind not in {"text/event-stream", "application/json", ""}:
            told = "HTML (is the base URL right?)" if kind == "text/html" else "neither JSON nor an event stream"
            raise WireError(f"the upstream answered with {told}, which no judge can read")
        try:
            done = yield from answer(call, head)
        except RecursionError:
            raise WireError("the upstream's answer is nested too deeply") from None
        yield from Close()
        if done:
            break
    return call.report


def _relay_error(call: Call, head: Head) -> Flow[None]:
    """An upstream's error, as the client expects it; its words are an upstream's, yet they may quote anything."""
    from cosa_guard.relay.texts import lawful  # noqa: PLC0415  # it knows Call: a cycle at import time

    if head.status < _FAILED:
        raise WireError(f"the upstream redirected ({head.status}); give its final base URL, redirects are not followed")
    body = yield from pulled(LARGEST_ERROR, "error message")
    yield from Close()
    status = head.status
    if call.identity is not None and status in _SECRET:
        status, body = 502, b""  # the caller's key was right: the proxy's was not
    text = body.decode("utf-8", "replace")
    said = readable(text)
    kind = "application/json"
    if not body or call.quotes(said) or not (yield from lawful(call, said, strict=False)):
        body = dumps(call.codec.error(status, "upstream_error", f"the upstream answered {head.status}"))
    elif not _is_json(body):
        # What was judged, as it was: the upstream may name a charset in which its bytes read differently.
        kind, body = "text/plain; charset=utf-8", text.encode()
    yield from Emit(Head(status, (("content-type", kind), *call.kept(head), *call.headers)))
    yield from Emit(body)


def _is_json(body: bytes) -> bool:
    try:
        loads(body)
    except UsageError:
        return False
    return True
