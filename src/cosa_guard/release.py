"""Masks over text that is let out in pieces."""

from __future__ import annotations

__all__ = ["MASK", "Release"]

MASK = "[redacted]"


class Release:
    """Puts masks over spans of a text whose pieces are released one after the other.

    A mask is written where its span begins, and spans that touch share one: so the same spans give the same text,
    however it is cut into pieces.
    """

    def __init__(self) -> None:
        self.position = 0
        """Up to where the text was released."""
        self._spans: set[tuple[int, int]] = set()
        self._masking = False  # the last released character was under a mask

    def mask(self, start: int, end: int) -> None:
        """Put the characters from `start` to `end` of the whole text under a mask."""
        if end > self.position:
            self._spans.add((start, end))

    def text(self, piece: str, upto: int) -> tuple[str, int]:
        """The next piece, which ends at `upto`, with its masks; how many masks begin in it."""
        start = upto - len(piece)
        self.position = max(upto, self.position)
        if not self._spans:
            self._masking = self._masking and not piece
            return piece, 0
        out: list[str] = []
        masks, done = 0, start
        for low, high in sorted(self._spans):
            low, high = max(low, done), min(high, upto)  # noqa: PLW2901  # clipped to the piece
            if low >= high:
                continue
            if low > done:
                out.append(piece[done - start : low - start])
                self._masking = False
            if not self._masking:
                out.append(MASK)
                masks += 1
            self._masking = True
            done = high
        if done < upto:
            out.append(piece[done - start :])
            self._masking = False
        self._spans = {span for span in self._spans if span[1] > upto}
        return "".join(out), masks
