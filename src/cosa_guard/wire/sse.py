"""Server-sent events, as they come off a socket in pieces of any size. Pure: bytes in, events out.

Source: the event-stream format of the HTML standard (section 9.2.6). Kept to what the three protocols use: `event` and
`data`. Comments, `id` and `retry` are text that no judge reads, so an event that has them is written anew without.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cosa_sdk.errors import WireError

__all__ = ["LARGEST_EVENT", "Event", "SSEDecoder", "encode"]

LARGEST_EVENT = 8 * 1024 * 1024
"""Bytes. A stream that never ends an event would fill the memory."""

_END = re.compile(rb"(?:\r\n|\r(?!\n)|\n){2}")
_LINE = re.compile(rb"\r\n|\r|\n")
_NAME = re.compile(r"[\w.:-]{0,64}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Event:
    """One event."""

    raw: bytes
    """Its bytes on the wire, the empty line included; safe to forward when nobody objects to `data`."""
    event: str
    """Its name; empty when it has none."""
    data: str


def encode(data: str, event: str = "") -> bytes:
    """An event as bytes."""
    head = f"event: {event}\n" if event else ""
    lines = "\n".join(f"data: {line}" for line in data.split("\n"))
    return f"{head}{lines}\n\n".encode("utf-8", "replace")


class SSEDecoder:
    """Cuts a byte stream into events.

    Raises:
        WireError: an event is larger than `LARGEST_EVENT`, or is not UTF-8.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._first = True
        self._error: WireError | None = None

    @property
    def pending(self) -> bool:
        """Bytes of an unfinished event are waiting."""
        return bool(self._buffer.strip())

    def feed(self, piece: bytes) -> list[Event]:
        """Take in the next piece; the events that it completes. What cannot be read ends them, however it is cut."""
        if self._error is not None:
            raise self._error
        buffer = self._buffer
        buffer += piece
        if self._first and len(buffer) >= 3:  # noqa: PLR2004  # a byte order mark has three bytes
            self._first = False
            if buffer.startswith(b"\xef\xbb\xbf"):
                del buffer[:3]
        events: list[Event] = []
        start = 0
        plain = b"\r" not in buffer
        while (end := self._end(max(start, self._scanned), plain)) is not None:
            try:
                event = _parsed(bytes(buffer[start:end]))
            except WireError as error:
                if not events:
                    raise
                self._error = error
                return events
            start = self._scanned = end
            if event is not None:
                events.append(event)
        if start:
            del buffer[:start]
        if len(buffer) > LARGEST_EVENT:
            raise WireError(f"the upstream sent an event of more than {LARGEST_EVENT} bytes without an end")
        self._scanned = max(0, len(buffer) - 3)  # an end may be half there
        return events

    def _end(self, low: int, plain: bool) -> int | None:  # on the hot path
        """Where an event ends, from a place on."""
        if plain:
            place = self._buffer.find(b"\n\n", low)
            return place + 2 if place >= 0 else None
        found = _END.search(self._buffer, low)
        return found.end() if found else None


def _parsed(raw: bytes) -> Event | None:
    """The event, or None where nothing would be dispatched."""
    if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2 and b"\r" not in raw:  # nearly all are
        return Event(raw, "", _text(raw[6:-2]))
    name, data, plain = "", [], raw.endswith(b"\n\n")
    for line in _LINE.split(raw):
        if not line:
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(_text(value))
        elif field == b"event":
            name = _text(value)
        else:
            plain = False
    if not data:
        return None
    if not _NAME.match(name):
        raise WireError("the upstream sent an event whose name is no identifier")
    text = "\n".join(data)
    return Event(raw if plain else encode(text, name), name, text)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise WireError("the upstream sent an event that is not UTF-8") from None
