"""Text as judges of words read it: case, accents, look-alikes and invisible characters folded away.

Folding works character by character, so the folded form of a text is the concatenation of the folded forms of its
parts however it is cut: that is what makes a streamed decision equal to a whole one. Each character is decomposed
(NFKD), case-folded, mapped to the Latin letter it is confusable with, and freed of diacritics; characters that a
reader cannot see fold to nothing.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

__all__ = ["INVISIBLE_RUN", "Folded", "fold", "folded_length", "is_invisible", "whole_characters"]

INVISIBLE_RUN = 64
"""Longest run of invisible characters that passes; the rest of a longer run is cut from the text."""

# Letters of other scripts that look like a Latin one: the part of Unicode TR39 that phishing and filter evasion use.
_LOOKALIKES = {
    "а": "a", "в": "b", "с": "c", "ԁ": "d", "е": "e", "ё": "e", "һ": "h", "і": "i", "ј": "j", "к": "k", "ӏ": "l",
    "м": "m", "н": "h", "о": "o", "р": "p", "ԛ": "q", "ѕ": "s", "т": "t", "у": "y", "ѵ": "v", "ԝ": "w", "х": "x",
    "α": "a", "β": "b", "ε": "e", "η": "n", "ι": "i", "κ": "k", "ν": "v", "ο": "o", "ρ": "p", "τ": "t", "υ": "u",
    "χ": "x", "γ": "y", "ω": "w", "ϲ": "c", "ϳ": "j", "օ": "o", "ո": "n", "ս": "u", "հ": "h", "ց": "g", "զ": "q",
    "ɑ": "a", "ɡ": "g", "ı": "i", "ȷ": "j", "ɩ": "i", "ʟ": "l", "ɴ": "n", "ʀ": "r", "ʏ": "y", "ᴀ": "a", "ʙ": "b",
    "ᴄ": "c", "ᴅ": "d", "ᴇ": "e", "ɢ": "g", "ʜ": "h", "ɪ": "i", "ᴊ": "j", "ᴋ": "k", "ᴍ": "m", "ᴏ": "o", "ᴘ": "p",
    "ᴛ": "t", "ᴜ": "u", "ᴠ": "v", "ᴡ": "w", "ᴢ": "z", "ł": "l", "ø": "o", "đ": "d", "ħ": "h", "ŧ": "t", "ƒ": "f",
    "’": "'", "‘": "'", "“": '"', "”": '"', "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "-", "−": "-",
}  # fmt: skip
# Letters to a renderer that draws nothing: fillers of Hangul and Khmer, Mongolian selectors, the grapheme joiner.
_BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u3164\uffa0")
# Selectors, tags, and code points that Unicode reserves for more characters without a shape.
_SHAPELESS = ((0x2065, 0x2065), (0xFE00, 0xFE0F), (0xFFF0, 0xFFF8), (0xE0000, 0xE0FFF))
_DIACRITICS = (
    *((0x0300, 0x036F), (0x0483, 0x0489), (0x1AB0, 0x1AFF)),
    *((0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0xFE20, 0xFE2F)),
)


_HALF = re.compile("[\ud800-\udfff]")


def whole_characters(text: str) -> str:
    """The text with halves of characters (surrogates) joined, and those without their other half replaced."""
    if text.isascii() or not _HALF.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def is_invisible(char: str) -> bool:
    """The character takes no room and draws nothing: format controls, selectors, fillers, other controls."""
    if char.isascii():
        return not (char.isprintable() or char in "\n\t\r\v\f")
    point = ord(char)
    if char in _BLANKS or any(low <= point <= high for low, high in _SHAPELESS):
        return True
    return unicodedata.category(char) in {"Cf", "Cc"}


def _fold_char(char: str) -> str:
    if is_invisible(char):
        return ""
    if "\ud800" <= char <= "\udfff":
        return "\ufffd"  # half a character: no engine takes it
    if char.isspace():
        return "\n" if char in "\n\r\v\f\x85\u2028\u2029" else " "
    parts = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
    kept = (part for part in parts if not any(low <= ord(part) <= high for low, high in _DIACRITICS))
    return "".join(_LOOKALIKES.get(part, part) for part in kept)


class _Table(dict[int, str]):
    """Folds of single characters, found once; bounded by the number of code points in use."""

    def __missing__(self, point: int) -> str:
        folded = self[point] = _fold_char(chr(point))
        return folded


_TABLE = _Table()


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded text that can lead back to the original."""

    text: str
    ends: tuple[int, ...] | None
    """For each original character, where its fold ends in `text`; None when positions are the same."""

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Positions in the original of the non-empty folded span."""
        if self.ends is None:
            return start, end
        return bisect_right(self.ends, start), bisect_right(self.ends, end - 1) + 1

    def to_folded(self, position: int) -> int:
        """Where the original character at `position` begins in the folded text."""
        if self.ends is None:
            return position
        return self.ends[position - 1] if position else 0


def fold(text: str) -> Folded:
    """The folded text, with the way back."""
    if text.isascii() and text.isprintable():
        return Folded(text.lower(), None)
    table = _TABLE
    pieces = [table[ord(char)] for char in text]
    return Folded("".join(pieces), tuple(accumulate(map(len, pieces))))


def folded_length(char: str) -> int:
    """How many normalised characters one character counts for."""
    return 1 if char.isascii() and char.isprintable() else len(_TABLE[ord(char)])
