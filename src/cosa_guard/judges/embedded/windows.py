"""What of a long text is read, and where: sentences, and the windows that are made of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cosa_guard.judges.embedded.wordpiece import CLS, SEP, WordPiece

__all__ = ["PROMPT_ROOM", "ROOM", "Coded", "coded", "sentences", "window_at"]

ROOM = 96
"""Most word pieces that the encoder reads at once; as in training."""
PROMPT_ROOM = 32
"""Most word pieces of the prompt that a response is read beside: its last ones."""
_LONGEST = 48
"""Word pieces of a sentence; longer ones are cut."""
_STEP = _LONGEST * 3 // 4
"""Word pieces from one cut to the next: the rest overlaps."""
_END = re.compile(r"(?<=[.!?;:…。！？])\s+|\n+")

Coded = tuple[list[int], list[int]]
"""Ids and segments of one reading."""


def sentences(tokenizer: WordPiece, text: str) -> list[list[int]]:
    """Ids of each sentence, in order; long ones are cut into overlapping pieces."""
    found: list[list[int]] = []
    for part in _END.split(text):
        if ids := tokenizer.ids(part):
            starts = range(0, max(1, len(ids) - (_LONGEST - _STEP)), _STEP)
            found += [ids[start : start + _LONGEST] for start in starts]
    return found


def window_at(parts: Sequence[list[int]], centre: int) -> list[int]:
    """One sentence with the neighbours that fit, the earlier one first: what a sentence means may stand before it."""
    first = last = centre
    size = len(parts[centre])
    while True:
        if first and size + len(parts[first - 1]) <= ROOM // 2:
            first -= 1
            size += len(parts[first])
        elif last + 1 < len(parts) and size + len(parts[last + 1]) <= ROOM // 2:
            last += 1
            size += len(parts[last])
        else:
            return [number for part in parts[first : last + 1] for number in part]


def coded(body: list[int], asked: list[int] | None = None) -> Coded:
    """A reading: the body alone, or behind the prompt that it answers."""
    if not asked:
        return [CLS, *body, SEP], [0] * (len(body) + 2)
    asked = asked[-PROMPT_ROOM:]
    return [CLS, *asked, SEP, *body, SEP], [0] * (len(asked) + 2) + [1] * (len(body) + 1)
