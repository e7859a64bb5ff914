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

    @property
    def pending(self) -> bool:
        """Bytes of an unfinished event are waiting."""
        return bool(self._buffer.strip())

    def feed(self, piece: bytes) -> list[Event]:
        """Take in the next piece; the events that it completes."""
        buffer = self._buffer
        buffer += piece
        if self._first and len(buffer) >= 3:  # noqa: PLR2004  # a byte order mark has three bytes
            self._first = False
            if buffer.startswith(b"\xef\xbb\xbf"):
                del buffer[:3]
        events: list[Event] = []
        start = 0
        while found := _END.search(buffer, max(start, self._scanned)):
            event = _parsed(bytes(buffer[start : found.end()]))
            start = self._scanned = found.end()
            if event is not None:
                events.append(event)
        if start:
            del buffer[:start]
        if len(buffer) > LARGEST_EVENT:
            raise WireError(f"the upstream sent an event of more than {LARGEST_EVENT} bytes without an end")
        self._scanned = max(0, len(buffer) - 3)  # an end may be half there
        return events


def _parsed(raw: bytes) -> Event | None:
    """The event, or None where nothing would be dispatched."""
    name, data, plain = "", [], raw.endswith(b"\n\n")
    for line in _LINE.split(raw):
        if not line:
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        try:
            if field == b"data":
                data.append(value.decode())
            elif field == b"event":
                name = value.decode()
            else:
                plain = False
        except UnicodeDecodeError:
            raise WireError("the upstream sent an event that is not UTF-8") from None
    if not data:
        return None
    if not _NAME.match(name):
        raise WireError("the upstream sent an event whose name is no identifier")
    text = "\n".join(data)
    return Event(raw if plain else encode(text, name), name, text)
