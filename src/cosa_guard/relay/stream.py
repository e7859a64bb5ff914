"""An answer that comes as events: each goes out, in its place, when all the text in it has passed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, cast

from cosa_guard.relay.call import LARGEST_REPLY, Call, Head
from cosa_guard.relay.texts import UNKNOWN, Text, Texts, aligned, alternatives_pass
from cosa_guard.steps import READY, Close, Emit, Flow, Pull
from cosa_guard.wire.fields import Found, Kind
from cosa_guard.wire.protocol import ALL, Piece
from cosa_guard.wire.sse import SSEDecoder
from cosa_sdk.errors import WireError

__all__ = ["relay_stream"]

_PULL = Pull()
_COPIES = (Kind.COPY, Kind.WHOLE_COPY)
_WHOLE = (Kind.WHOLE, Kind.WHOLE_COPY, Kind.NAME)


@dataclass(slots=True, eq=False)
class _Held:
    """An event that waits for what it says to pass."""

    piece: Piece
    order: int
    """Its number in the whole stream."""
    size: int
    spans: list[tuple[Text, int, Found]] = field(default_factory=list)
    """Streamed text in it, and up to where that must have passed."""
    copies: list[tuple[Text, Found]] = field(default_factory=list)
    wholes: list[Text] = field(default_factory=list)
    before: tuple[Text, ...] = ()
    """Where it ends an answer, the texts whose verdicts must be there: after it no refusal could come."""
    logprobs: list[Found] = field(default_factory=list)

    def ready(self) -> bool:
        """Everything in it has passed."""
        for text, upto, _ in self.spans:  # loops: this is asked for with every event
            if text.channel.releasable < upto:
                return False
        for text in self.wholes:
            if not text.passed:
                return False
        return not self.before or all(text.channel.oldest is None for text in self.before)


@dataclass(slots=True, eq=False)
class _Lane:
    """One of several answers in a stream."""

    held: deque[_Held] = field(default_factory=deque)
    later: list[tuple[Text, Piece, Found, Any]] = field(default_factory=list)
    """Unknown fields, taken out of their events until they have been judged."""
    blocked: bool = False
    complete: bool = False
    started: bool = False
    """Something of it went out."""


def relay_stream(call: Call, head: Head) -> Flow[bool]:
    """Relay a stream; False when a fresh candidate is to be asked for, nothing having gone out."""
    stream = _Stream(call, head)
    return (yield from stream.run())


class _Stream:
    """One stream under judgement."""

    def __init__(self, call: Call, head: Head) -> None:
        self._call = call
        self._head: Head | None = head
        self._codec = call.codec
        self._writer = call.codec.writer(call.asked, call.request)
        self._decoder = SSEDecoder()
        self._texts = Texts(call)
        self._lanes: dict[int | None, _Lane] = {}
        self._order = 0
        self._waiting = 0
        """Bytes of events that are held, and of fields that come later."""
        self._last = False
        self._lost = False
        """The upstream's error, which ended the stream, could not go out as it was worded."""
        self._out = bytearray()
        # Until text is out a fresh candidate may take this one's place, so nothing else of it may be out either.
        self._patient = call.attempts > 1

    def run(self) -> Flow[bool]:
        ended = False
        while (oldest := self._texts.oldest) or not ended:
            if oldest and (ended or oldest.ready or self._texts.crowded):
                stopped = yield from self._texts.settle()
                if stopped is not None and not (yield from self._stop(stopped.lane)):
                    return False
            else:
                answer = yield from (Pull(oldest) if oldest else _PULL)
                if answer is READY:
                    continue
                ended = answer is None
                if ended:
                    yield from self._end(None)
                else:
                    for event in self._decoder.feed(cast("bytes", answer)) if not self._last else ():
                        if self._last:
                            break  # whatever comes then, the answer is over
                        for piece in self._codec.pieces(event, self._call.known):
                            yield from self._take(piece, len(event.data))
            yield from self._pump()
            if self._over():
                break
        yield from self._finish()
        return True

    # --- taking in ---

    def _take(self, piece: Piece, size: int) -> Flow[None]:
        lane = self._lanes.setdefault(piece.lane, _Lane())
        if lane.blocked or self._last:
            return
        self._order += 1
        held = _Held(piece, self._order, size)
        for found in piece.found:
            yield from self._field(lane, held, found)
            if lane.blocked:
                return
        self._keep(lane, held)
        if piece.closing or ALL in piece.ends:
            held.before = tuple(self._texts.of(piece.lane))
        if ALL in piece.ends:  # what was taken out of earlier events goes out before this one
            held.wholes += [text for text in self._texts.of(piece.lane) if text.key[1] == UNKNOWN]
        for place in piece.ends:
            lane.complete = lane.complete or place == ALL
            for text in self._texts.of(piece.lane):
                if text.key[2][: len(place)] == place and (text.key[1] != UNKNOWN or place == ALL):
                    yield from self._texts.end(text)
        if piece.last:
            self._last = True
            yield from self._end(piece.lane)

    def _keep(self, lane: _Lane, held: _Held) -> None:
        lane.held.append(held)
        self._waiting += held.size
        if self._waiting > LARGEST_REPLY:
            raise WireError(f"more than {LARGEST_REPLY} bytes of the upstream's stream wait for its end")

    def _field(self, lane: _Lane, held: _Held, found: Found) -> Flow[None]:
        kind = found.field.kind if found.field else None
        piece, texts = held.piece, self._texts
        if kind is Kind.TEXT:
            yield from self._text(held, found)
        elif kind is Kind.LOGPROBS:
            held.logprobs.append(found)
        elif kind is Kind.MEDIA:
            if self._call.policy.config.enforcement.media != "allow":
                self._call.report.error = f"the reply has a part no judge covers: {found.path}"
                yield from self._stop(piece.lane, fresh=False)
        elif kind is None:
            text = texts.of_field(piece.lane, found)
            text.parts.append({str(found.key): found.value})
            # In a list it has no name to come under, and nothing comes after what is last.
            if self._codec.additive and isinstance(found.holder, dict) and not piece.last:
                lane.later.append((text, piece, found, found.holder.pop(found.key)))
                piece.raw = None
                self._waiting += held.size
            else:
                held.wholes.append(text)
        elif kind in _COPIES and (known := texts.known(piece.lane, found)) is not None:
            held.copies.append((known, found))
            if known.whole:
                held.wholes.append(known)
        elif kind in _WHOLE:
            text = texts.of_field(piece.lane, found)
            text.parts.append(found.value)
            held.wholes.append(text)
        else:  # a copy of what never came in pieces
            yield from self._text(held, found)

    def _text(self, held: _Held, found: Found) -> Flow[None]:
        texts, lane = self._texts, held.piece.lane
        text = texts.of_field(lane, found)
        if not text.fed:
            for other in texts.of(lane):
                yield from texts.flush(other)
        yield from texts.feed(text, found.value)
        held.spans.append((text, text.channel.length, found))

    def _end(self, lane: int | None) -> Flow[None]:
        """The upstream is done with a lane, or with everything."""
        lanes = self._texts.lanes() if lane is None else {lane, None}
        for one in lanes:
            for text in self._texts.of(one):
                yield from self._texts.end(text)

    # --- stopping ---

    def _stop(self, number: int | None, *, fresh: bool = True) -> Flow[bool]:
        """Refuse a lane; False when a fresh candidate is to be asked for instead."""
        lane = self._lanes.setdefault(number, _Lane())
        self._texts.drop(number)
        held, lane.held = lane.held, deque()
        lane.later.clear()
        self._waiting -= sum(one.size for one in held)
        if number is None:  # belongs to no answer: left out, the answers stand on their own
            for one in held:
                if not (one.spans or one.wholes):
                    self._keep(lane, one)
                elif one.piece.last:
                    self._lost = True
            return True
        untouched = self._head is not None and not self._out
        if fresh and untouched and self._call.again():
            return False
        lane.blocked = lane.complete = True
        self._call.report.act = "refuse"
        self._out += self._writer.refuse(number, self._call.refusal)
        yield from self._flush()
        return True

    def _over(self) -> bool:
        """Every answer that was asked for has been refused: the upstream need not go on."""
        refused = sum(lane.blocked for lane in self._lanes.values())
        return refused >= max(1, self._call.asked.choices)

    def _finish(self) -> Flow[None]:
        yield from Close()
        for number, lane in self._lanes.items():
            if number is not None:
                kind = "refusal" if lane.blocked and not lane.started else "reply"
                self._call.remember(iter(self._writer.turns(number)), kind)  # type: ignore[arg-type]  # one of two
        answers = [lane for number, lane in self._lanes.items() if number is not None]
        if self._over():
            self._out += self._writer.close()
        elif self._lost:
            self._call.report.error = "the upstream ended its stream with an error that may not go out"
            self._out += self._codec.error_event("upstream_error", "the upstream failed")
        elif not self._last and not (answers and all(lane.complete for lane in answers)):
            message = "the upstream's stream stopped before its end"
            self._call.report.error = message
            self._out += self._codec.error_event("upstream_truncated", message)
        elif any(lane.blocked for lane in answers):
            self._out += self._writer.close()
        yield from self._flush()

    # --- letting out ---

    def _pump(self) -> Flow[None]:
        """Let out what has passed: in order within a lane; what belongs to none when all before it is out."""
        for number, lane in self._lanes.items():
            if number is not None:
                while lane.held and lane.held[0].ready() and not self._waits(lane):
                    yield from self._send(lane, lane.held.popleft())
        common = self._lanes.get(None)
        while common and common.held and common.held[0].ready():
            order = common.held[0].order
            if any(lane.held and lane.held[0].order < order for lane in self._lanes.values()):
                break
            yield from self._send(common, common.held.popleft())
        if not (self._patient and not any(lane.started for lane in self._lanes.values())):
            yield from self._flush()

    def _waits(self, lane: _Lane) -> bool:
        """The lane has no text out yet, and none that may go out."""
        if not self._patient or lane.started:
            return False
        speaking = next((held for held in lane.held if held.spans or held.wholes), None)
        return not (lane.complete if speaking is None else speaking.ready())

    def _send(self, lane: _Lane, held: _Held) -> Flow[None]:
        piece, changed = held.piece, held.piece.raw is None
        self._waiting -= held.size
        for text, upto, found in held.spans:
            released = text.release(upto)
            if released != found.value:
                found.holder[found.key] = released
                changed = True
                self._unlogged(held)
        for text, found in held.copies:
            said = text.said if text.whole else "".join(text.out)
            if said != found.value:
                found.holder[found.key] = said
                changed = True
        if held.logprobs:
            changed = (yield from self._logprobs(held)) or changed
        if lane.later and ALL in piece.ends:
            judged = [entry for entry in lane.later if entry[0] in held.wholes]  # more may have come since
            self._out += b"".join(self._codec.later(*entry[1:]) for entry in judged)
            lane.later = [entry for entry in lane.later if entry not in judged]
        lane.started = lane.started or bool(held.spans or held.wholes)
        self._writer.sent(piece)
        self._out += self._codec.encode(piece) if changed or piece.raw is None else piece.raw

    @staticmethod
    def _unlogged(held: _Held) -> None:
        for found in held.logprobs:
            found.holder[found.key] = None

    def _logprobs(self, held: _Held) -> Flow[bool]:
        """Whether log probabilities had to go: they tell another text, or tokens beside it that may not go out."""
        changed = False
        beside = [(text, found) for text, _, found in held.spans] + held.copies
        said = {text.key[1]: found.value for text, found in beside}
        texts = {text.key[1]: text for text, _ in beside}
        for found in held.logprobs:
            if found.value is None:
                changed = True
                continue
            fits = aligned(found.value, said)
            if not (fits and (yield from alternatives_pass(self._call, found.value, texts))):
                found.holder[found.key] = None
                changed = True
        return changed

    def _flush(self) -> Flow[None]:
        if not self._out:
            return
        if self._head is not None:
            yield from Emit(self._call.head(self._head, "text/event-stream; charset=utf-8"))
            self._head = None
        piece, self._out = bytes(self._out), bytearray()
        yield from Emit(piece)
