"""Word pieces: text into the ids that both tiers read, in pure Python.

Greedy longest match as in BERT (uncased), over a vocabulary that was pruned. A dictionary look-up a word is several
times faster than the general tokenizer library on short texts, and needs nothing installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from cosa_guard.folding import fold

__all__ = ["CLS", "PAD", "SEP", "UNK", "WordPiece", "lowered"]

PAD, UNK, CLS, SEP = range(4)
"""Ids of the special pieces: the first four lines of every vocabulary."""

_WORD = re.compile(r"[^\W_]+|[^\s]")
_WHOLE = 48
"""Longer runs of letters are cut: no word is that long, and the search takes quadratic time."""
# Scripts without spaces: every character is a word, as in BERT.
_IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
"""What `fold` drops of ASCII,"""
_GAPS = str.maketrans("\t\r\v\f", " \n\n\n")
"""and what it makes of other gaps."""


def lowered(text: str) -> str:
    """Look-alikes, diacritics and invisible characters fold away, in training as in use."""
    if text.isascii():  # as `fold` does it, ten times faster
        return _INVISIBLE.sub("", text.lower()).translate(_GAPS)
    return _IDEOGRAPH.sub(r" \g<0> ", fold(text).text)


class WordPiece:
    """A tokenizer over one vocabulary.

    Args:
        pieces: the vocabulary in the order of its ids; pieces inside a word begin with `##`.
    """

    def __init__(self, pieces: Iterable[str]) -> None:
        self._ids = {piece: number for number, piece in enumerate(pieces)}
        self._of_word = lru_cache(maxsize=65_536)(self._cut)

    def __len__(self) -> int:
        return len(self._ids)

    def number(self, piece: str) -> int:
        """Id of one piece; UNK where it is not in the vocabulary."""
        return self._ids.get(piece, UNK)

    def ids(self, text: str) -> list[int]:
        """Ids of a text, without special pieces."""
        found: list[int] = []
        for word in _WORD.findall(lowered(text)):
            if len(word) <= _WHOLE:
                found += self._of_word(word)
            else:  # cut before the cache sees it: a cache of words must not keep whole texts
                for start in range(0, len(word), _WHOLE):
                    found += self._of_word(word[start : start + _WHOLE])
        return found

    def _cut(self, word: str) -> tuple[int, ...]:
        whole = self._ids.get(word)
        if whole is not None:
            return (whole,)
        found: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                number = self._ids.get(prefix + word[start:end])
                if number is not None:
                    found.append(number)
                    break
            else:
                return (UNK,)
            start = end
        return tuple(found)
