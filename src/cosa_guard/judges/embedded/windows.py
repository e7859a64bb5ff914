"""What of a long text is read: its beginning and end together, and single sentences."""

from __future__ import annotations

import re

from cosa_guard.judges.embedded.wordpiece import CLS, SEP, WordPiece

__all__ = ["PROMPT_ROOM", "ROOM", "Coded", "coded", "ends", "sentences"]

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


def ends(body: list[int]) -> list[int]:
    """What is read of a text at once: all of a short one; of a long one its beginning and its end."""
    return body if len(body) <= ROOM else body[: ROOM * 2 // 3] + body[-ROOM // 3 :]


def coded(body: list[int], asked: list[int] | None = None) -> Coded:
    """A reading: the body alone, or behind the prompt that it answers."""
    if not asked:
        return [CLS, *body, SEP], [0] * (len(body) + 2)
    asked = asked[-PROMPT_ROOM:]
    return [CLS, *asked, SEP, *body, SEP], [0] * (len(asked) + 2) + [1] * (len(body) + 1)
