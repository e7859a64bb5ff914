"""Which word pieces stay: those that the training rows use, all single characters, and the commonest of the rest.

A word whose piece is gone falls back to smaller pieces, never to an unknown one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from cosa_guard.judges.embedded.wordpiece import WordPiece

__all__ = ["prune", "read"]

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def read(text: str) -> list[str]:
    """The pieces of a `vocab.txt`."""
    return text.rstrip("\n").split("\n")


def prune(pieces: list[str], texts: Iterable[str], size: int) -> list[int]:
    """Old ids of the pieces that stay, the four special ones first.

    Args:
        pieces: the whole vocabulary.
        texts: what the pieces are counted in.
        size: how many stay.
    """
    where = {piece: number for number, piece in enumerate(pieces)}
    everything = [*_SPECIAL, *(piece for piece in pieces if piece not in _SPECIAL)]
    counting = WordPiece(everything)
    counts = Counter(number for text in texts for number in set(counting.ids(text)))
    singles = [
        piece for piece in pieces if len(piece.removeprefix("##")) == 1 and ord(piece.removeprefix("##")) < 0x3000
    ]
    kept = dict.fromkeys([*_SPECIAL, *singles])
    ordinary = [piece for piece in pieces if not piece.startswith("[")]
    # BERT's vocabulary is sorted by how common a piece is, so the order of the file is the second key.
    for piece in sorted(ordinary, key=lambda piece: (-min(counts[counting.number(piece)], 3), where[piece])):
        if len(kept) >= size:
            break
        kept.setdefault(piece)
    return [where[piece] for piece in kept]
