"""How much of a streamed text may be released, and when. Pure: text in, units out.

A text is cut into units by its own characters alone, at sentence ends or after so many characters, so the same text
gives the same units however it arrived. Each unit is judged together with what was not yet released and some context;
then everything may go out except the newest `holdback` characters, counted as judges count them (folded).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cosa_guard.folding import INVISIBLE_RUN, folded_length, is_invisible, whole_characters

__all__ = ["Unit", "Window"]

FIRST_UNIT = 48
"""About ten tokens: the first text comes out early."""
UNIT = 200
SHORTEST_SENTENCE = 20
"""A sentence end closes a unit only after this many characters: 'No. 5' is not worth a judge."""
CONTEXT = 1000

_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]{0,3}\s|[。！？\n]")
_END_WIDTH = 5
_HIGH = ("\ud800", "\udbff")


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece to judge. Positions count characters of the whole text."""

    text: str
    """What a judge reads: context, what is still held, and the new characters."""
    start: int
    """Where `text` begins."""
    release: int
    """Everything before this may go out when the unit passes."""
    final: bool
    """The text ends here."""


class Window:
    """Takes a text in pieces; hands out units to judge and, later, the text to release.

    Args:
        holdback: how much of the newest text is never released before more came, in normalised characters.
        context: how much of the released text a unit repeats.
        cut: without, the whole text is one unit.
    """

    def __init__(self, *, holdback: int = 0, context: int = CONTEXT, cut: bool = True) -> None:
        self._cut = cut
        self._holdback = holdback
        self._context = max(context, holdback + 2)
        self.length = 0
        """Characters taken in so far."""
        self._tail = ""  # the text from `_offset` on
        self._offset = 0
        self._unit_start = 0
        self._scan = 0
        self._released = 0  # up to where the newest unit, once passed, lets text out
        self._given = 0  # up to where text was taken out by `take`
        self._invisible = 0  # length of the run of invisible characters that the text ends with
        self._half = ""  # a high surrogate that waits for its other half
        self._pieces: list[str] = []

    @property
    def taken_in(self) -> int:
        """As `length`, with the half of a split character that waits for its other half."""
        return self.length + bool(self._half)

    @property
    def text(self) -> str:
        """The whole text so far."""
        return "".join(self._pieces)

    @property
    def tail(self) -> str:
        """The newest text, as much of it as a unit repeats."""
        return self._tail[self._back(self.length, self._context) - self._offset :]

    def feed(self, piece: str) -> list[Unit]:
        """Take in the next piece; the units that it completes, oldest first."""
        piece = self._admit(piece)
        if not piece:
            return []
        self._pieces.append(piece)
        self._tail += piece
        self.length += len(piece)
        if not self._cut or self.length < self._unit_start + SHORTEST_SENTENCE:
            return []
        return list(self._units())

    def flush(self) -> list[Unit]:
        """The text has ended: its last unit. Always one, so that even an empty text is judged."""
        if self._half:
            self._half = ""
            self._pieces.append("\ufffd")
            self._tail += "\ufffd"
            self.length += 1
        return [*(self._units() if self._cut else ()), self._unit(self.length, final=True)]

    def take(self, upto: int) -> str:
        """The text from the last taken position to `upto`, which a passed unit has released."""
        taken = self._tail[self._given - self._offset : upto - self._offset]
        self._given = max(upto, self._given)
        return taken

    def _units(self) -> Iterator[Unit]:
        while (end := self._next_cut()) is not None:
            unit = self._unit(end, final=False)
            self._unit_start = self._scan = end
            yield unit

    def _next_cut(self) -> int | None:
        """Where the current unit ends, if that much text is there."""
        limit = self._unit_start + (UNIT if self._unit_start else FIRST_UNIT)
        position = max(self._scan, self._unit_start + SHORTEST_SENTENCE - 1)
        found = _SENTENCE_END.search(self._tail, position - self._offset, limit - self._offset)
        if found:
            return self._offset + found.end()
        if self.length >= limit:
            return limit
        self._scan = max(self._scan, self.length - _END_WIDTH)
        return None

    def _unit(self, end: int, *, final: bool) -> Unit:
        start = self._back(self._released, self._context)
        release = end if final else max(self._released, self._back(end, self._holdback))
        unit = Unit(self._tail[start - self._offset : end - self._offset], start, release, final)
        self._released = release
        self._forget(min(self._given, self._back(release, self._context)))
        return unit

    def _back(self, end: int, folded: int) -> int:
        """The position `folded` normalised characters before `end`, or the oldest one still known."""
        low = max(self._offset, end - folded)
        if self._tail[low - self._offset : end - self._offset].isascii():
            plain = self._tail[low - self._offset : end - self._offset]
            if plain.isprintable() or plain.replace("\n", "").isprintable():
                return low
        position, count = end, 0
        while position > self._offset and count < folded:
            position -= 1
            count += folded_length(self._tail[position - self._offset])
        return position

    def _forget(self, before: int) -> None:
        """Drop text that nobody will look at again, in large steps."""
        if before - self._offset > 4 * CONTEXT:
            self._tail = self._tail[before - self._offset :]
            self._offset = before

    def _admit(self, piece: str) -> str:
        """Join split surrogates and cut over-long runs of invisible characters."""
        if not self._half and piece.isascii() and piece.isprintable():
            if piece:
                self._invisible = 0
            return piece
        if self._half:
            piece, self._half = self._half + piece, ""
        if piece and _HIGH[0] <= piece[-1] <= _HIGH[1]:
            piece, self._half = piece[:-1], piece[-1]
        piece = whole_characters(piece)
        kept: list[str] = []
        for char in piece:
            self._invisible = self._invisible + 1 if is_invisible(char) else 0
            if self._invisible <= INVISIBLE_RUN:
                kept.append(char)
        return "".join(kept)
