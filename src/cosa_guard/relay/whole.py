"""A reply that comes as one JSON object."""

from __future__ import annotations

from typing import Any

from cosa_guard.relay.call import LARGEST_REPLY, Call, Head, pulled
from cosa_guard.relay.texts import Text, Texts, aligned, alternatives
from cosa_guard.steps import Emit, Flow
from cosa_guard.wire.fields import Found, Kind
from cosa_guard.wire.protocol import Piece, dumps, loads
from cosa_sdk.errors import UsageError, WireError

__all__ = ["refuse", "relay_whole"]

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
    yield from Emit(call.head(head, _JSON))
    yield from Emit(reply.written(raw))
    return True


class _Reply:
    """One reply under judgement."""

    def __init__(self, call: Call, body: dict[str, Any]) -> None:
        self._call = call
        self._body = body
        self._pieces = call.codec.reply(body, call.asked.tools)
        self._texts = Texts(call, "whole", at_once=True)
        self._fields: list[tuple[Piece, Found, Text]] = []
        self._changed = False
        self.blocked: set[int | None] = set()

    def judge(self) -> Flow[None]:
        """Have every text judged, and put what may go out into the body."""
        for piece in self._pieces:
            for found in piece.found:
                yield from self._take(piece, found)
        for _, _, text in self._fields:
            yield from self._texts.end(text)
        while self._texts.oldest:
            stopped = yield from self._texts.settle()
            if stopped is not None:
                self._block(stopped.lane)
        for piece, found, text in self._fields:
            if piece.lane not in self.blocked and not text.whole:
                self._put(piece, found, text)
        for piece in self._pieces:
            for found in piece.found:
                if piece.lane not in self.blocked and found.field is not None and found.field.kind is Kind.LOGPROBS:
                    yield from self._logprobs(piece, found)

    def written(self, raw: bytes) -> bytes:
        """The reply as bytes, as they came where nothing had to change."""
        call, lanes = self._call, [piece.lane for piece in self._pieces if piece.lane is not None]
        for lane in lanes:
            if lane in self.blocked:
                call.report.act = "refuse"
                call.codec.refuse(self._body, lane, call.refusal, call.asked)
                self._changed = True
            call.remember(iter(call.codec.said(self._body, lane)), "refusal" if lane in self.blocked else "reply")
        return dumps(self._body) if self._changed else raw

    def _take(self, piece: Piece, found: Found) -> Flow[None]:
        kind = found.field.kind if found.field else None
        if kind is Kind.LOGPROBS:
            return
        if kind is Kind.MEDIA:
            if self._call.policy.config.enforcement.media != "allow":
                self._call.report.error = f"the reply has a part no judge covers: {found.path}"
                self._block(piece.lane)
            return
        text = self._texts.of_field(piece.lane, found)
        if text.whole:
            text.parts.append(found.value if kind else {found.key: found.value})
        else:
            yield from self._texts.feed(text, found.value)
        self._fields.append((piece, found, text))

    def _block(self, lane: int | None) -> None:
        if lane is None:  # what belongs to no choice: taken out, the choices stand on their own
            self._texts.drop(None)
            for piece in self._pieces:
                if piece.lane is None:
                    for found in piece.found:
                        found.holder[found.key] = None
            self._fields = [entry for entry in self._fields if entry[0].lane is not None]
            self._changed = True
            return
        self.blocked.add(lane)
        self._texts.drop(lane)

    def _put(self, piece: Piece, found: Found, text: Text) -> None:
        released = "".join(text.out) if text.out else text.release(text.channel.releasable)
        if released != found.value:
            found.holder[found.key] = released
            self._changed = True
            for other in piece.found:
                if other.field is not None and other.field.kind is Kind.LOGPROBS:
                    other.holder[other.key] = None

    def _logprobs(self, piece: Piece, found: Found) -> Flow[None]:
        if found.value is None:
            return
        texts = {
            one.field.label: one.value
            for one in piece.found
            if one.field is not None and one.field.kind is Kind.TEXT and isinstance(one.value, str)
        }
        fits = aligned(found.value, texts)
        if fits and (others := alternatives(found.value)):
            fits = yield from self._texts.lawful("\n".join(others))
        if not fits:
            found.holder[found.key] = None
            self._changed = True
