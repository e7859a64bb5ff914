"""JSON that a model writes as its text, with characters in the place of escapes. Pure.

Whoever parses an answer that was asked for as JSON reads an escaped word as the word that it is. So its text is judged
and let out with the characters themselves: the same JSON, in which nothing is hidden.
"""

from __future__ import annotations

import re

__all__ = ["Spelled"]

# Backslashes are taken in pairs: after an escaped one a `u` is a letter. The last branch is all that may be half there.
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(u[0-9a-fA-F]{0,3})?\Z|.)", re.DOTALL)


class Spelled:
    """Takes such a text in pieces; the pieces to judge and let out do not depend on how it was cut."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    def feed(self, piece: str) -> str:
        """The next piece with its characters; the beginning of an escape waits for its end."""
        if not self._half and "\\" not in piece:
            return piece
        text, self._half = self._half + piece, ""
        return _ESCAPE.sub(self._written, text)

    def rest(self) -> str:
        """What still waits when the text has ended: no escape."""
        rest, self._half = self._half, ""
        return rest

    def _written(self, found: re.Match[str]) -> str:
        escape = found.group()
        if found.group(1):
            char = chr(int(found.group(1), 16))
            return escape if char < " " or char in '"\\' else char  # those must be escaped in JSON
        if found.end() == len(found.string) and (len(escape) == 1 or escape[1] == "u"):
            self._half = escape
            return ""
        return escape
