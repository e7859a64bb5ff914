"""A reply that comes as one JSON object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cosa_guard.relay.call import LARGEST_REPLY, Call, Head, pulled
from cosa_guard.relay.escapes import Spelled
from cosa_guard.relay.texts import ANSWER, aligned, alternatives_pass
from cosa_guard.screening import screen_whole, tail_of
from cosa_guard.steps import Begin, Emit, Flow, Settle, Ticket
from cosa_guard.wire.fields import LOGPROBS, Found, Kind, readable
from cosa_guard.wire.protocol import Piece, dumps, loads
from cosa_sdk.errors import UsageError, WireError

__all__ = ["refuse", "relay_whole"]

STREAMED = (Kind.TEXT, Kind.COPY)
"""Kinds that may be released in part."""
_JSON = "application/json"
_EVENTS = "text/event-stream; charset=utf-8"


def refuse(call: Call) -> Flow[None]:
    """Answer with the refusal alone, whole or as a stream."""
    if not call.asked.stream:
        body = call.codec.refusal(call.asked, call.refusal, call.request)
        for lane in range(call.asked.choices):
            call.remember(iter(call.codec.said(body, lane)), "refusal")
        yield from Emit(call.head(None, _JSON))
        yield from Emit(dumps(body))
        return
    writer = call.codec.writer(call.asked, call.request)
    events = b"".join(writer.refuse(lane, call.refusal) for lane in range(call.asked.choices)) + writer.close()
    for lane in range(call.asked.choices):
        call.remember(iter(writer.turns(lane)), "refusal")
    yield from Emit(call.head(None, _EVENTS))
    yield from Emit(events)


def relay_whole(call: Call, head: Head) -> Flow[bool]:
    """Judge every text of the reply, then let it out; False when a fresh candidate is to be asked for."""
    raw = yield from pulled(LARGEST_REPLY, "reply")
    try:
        body = loads(raw)
    except UsageError as error:
        raise WireError(f"the upstream's reply cannot be read: {error}") from None
    reply = _Reply(call, body)
    yield from reply.judge()
    if reply.blocked and call.again():
        return False
    said = reply.written(raw)
    yield from Emit(call.head(head, _JSON))  # it names the act, which is known now
    yield from Emit(said)
    return True


@dataclass(slots=True, eq=False)
class _Judged:
    """A text of the reply under judgement."""

    piece: Piece
    found: list[Found]
    """Where it stands; several unknown fields of a lane are judged together."""
    given: str
    before: str = ""
    """The end of the text that it goes on from."""
    ticket: Ticket[str | None] | None = None


class _Reply:
    """One reply under judgement."""

    def __init__(self, call: Call, body: dict[str, Any]) -> None:
        self._call = call
        self._body = body
        self._pieces = call.codec.reply(body, call.known)
        self._changed = False
        self.blocked: set[int | None] = set()

    def judge(self) -> Flow[None]:
        """Have every text judged, and put what may go out into the body."""
        waiting = [judged for piece in self._pieces for judged in self._texts(piece)]
        if len(waiting) == 1:
            released = yield from self._screened(waiting[0])
            self._settle(waiting[0], released)
        else:
            for judged in waiting:
                judged.ticket = yield from Begin(self._screened(judged))
            for judged in waiting:
                if judged.ticket is not None:
                    released = yield from Settle(judged.ticket)
                    self._settle(judged, released)
        for piece in self._pieces:
            for found in piece.found:
                if found.field is LOGPROBS and piece.lane not in self.blocked:
                    yield from self._logprobs(piece, found)

    def written(self, raw: bytes) -> bytes:
        """The reply as bytes, as they came where nothing had to change."""
        call, lanes = self._call, [piece.lane for piece in self._pieces if piece.lane is not None]
        for lane in lanes:
            if lane in self.blocked:
                call.report.act = "refuse"
                call.codec.refuse(self._body, lane, call.refusal, call.asked, call.known)
                self._changed = True
            call.remember(iter(call.codec.said(self._body, lane)), "refusal" if lane in self.blocked else "reply")
        return dumps(self._body) if self._changed else raw

    def _texts(self, piece: Piece) -> Iterator[_Judged]:
        unknown: list[Found] = []
        parts: dict[str, str] = {}
        for found in piece.found:
            field, kind = found.field, found.field.kind if found.field else None
            if field is None:
                unknown.append(found)
            elif kind is Kind.MEDIA:
                if self._call.policy.config.enforcement.media != "allow":
                    self._call.report.error = f"the reply has a part no judge covers: {found.path}"
                    self._block(piece)
            elif kind is not Kind.LOGPROBS:
                streamed = kind in STREAMED
                if streamed and field.label in ANSWER and self._call.asked.json:
                    self._spell(found)
                said: str = found.value if streamed else readable(found.value)
                before = tail_of(self._call.policy, parts[field.label]) if streamed and field.label in parts else ""
                yield _Judged(piece, [found], said, before)
                if streamed:
                    parts[field.label] = before + said
        if unknown:
            yield _Judged(piece, unknown, readable([{found.path: found.value} for found in unknown]))

    def _spell(self, found: Found) -> None:
        spelled = Spelled()
        said = spelled.feed(found.value) + spelled.rest()
        self._changed = self._changed or said != found.value
        found.holder[found.key] = said

    def _screened(self, judged: _Judged) -> Flow[str | None]:
        call = self._call
        turns = call.conversation.turns
        return screen_whole(call.policy, turns, call.report, judged.given, call.request, judged.before)

    def _settle(self, judged: _Judged, released: str | None) -> None:
        if judged.piece.lane in self.blocked:
            return
        field = judged.found[0].field
        if released == judged.given:
            self._call.report.released += len(released)
        elif released is not None and field is not None and field.kind in STREAMED:
            judged.found[0].holder[judged.found[0].key] = released
            self._call.report.released += len(released)
            self._changed = True
            for other in judged.piece.found:
                if other.field is LOGPROBS:
                    other.holder[other.key] = None
        else:  # stopped, or masked where a mask would make it another value
            self._block(judged.piece)

    def _block(self, piece: Piece) -> None:
        self.blocked.add(piece.lane)
        if piece.lane is None:  # belongs to no choice: taken out, the choices stand on their own
            for found in piece.found:
                if isinstance(found.holder, dict):
                    del found.holder[found.key]  # its name may be what was found
                else:
                    found.holder[found.key] = None
            self._changed = True

    def _logprobs(self, piece: Piece, found: Found) -> Flow[None]:
        if found.value is None:
            return
        texts = {one.field.label: one.value for one in piece.found if one.field and one.field.kind is Kind.TEXT}
        fits = aligned(found.value, texts)
        if not (fits and (yield from alternatives_pass(self._call, found.value, {}))):
            found.holder[found.key] = None
            self._changed = True
