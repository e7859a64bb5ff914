"""Term patterns with a bounded match: what a stream may be held back for.

A streamed text can only be released up to the longest match that might still be starting in it. So every pattern has a
longest match: unbounded repeats (`*`, `+`, `{n,}`) match at most `REPEAT` times, and a pattern wider than `WIDEST`
characters is refused. Matching runs on RE2, in linear time; what RE2 lacks (look-around, back-references) is refused.
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from typing import Any

__all__ = ["REPEAT", "WIDEST", "PatternFault", "bounded", "engine", "width"]

WIDEST = 256
"""Longest match of a term, in normalised characters."""
REPEAT = 64
"""What an unbounded repeat is bounded to."""

_PIECE = re.compile(
    r"\\(?:x\{[0-9A-Fa-f]+\}|[pP](?:\{\^?\w+\}|\w)|.)"  # an escape
    r"|\[\^?\]?(?:\[:\^?[a-z]+:\]|\\.|[^\]\\])*\]"  # a character class; a "]" that comes first is one of its characters
    r"|\{[0-9]*,?[0-9]*\}"  # a counted repeat
    r"|.",
    re.DOTALL,
)
_OPEN_REPEAT = re.compile(r"\{([0-9]+),\}")
_ONE = re.compile(r"\[|\\(?:x\{|[pP])")
"""How a class, a code point and a Unicode property begin."""


class PatternFault(ValueError):
    """A regular expression that cannot be a term; the message says why and what to write instead."""


def bounded(pattern: str) -> str:
    """`pattern` with every unbounded repeat outside character classes bounded to `REPEAT`."""
    return "".join(_bounded(piece) for piece in _PIECE.findall(pattern))


def _bounded(piece: str) -> str:
    if piece in {"*", "+"}:
        return f"{{{'0' if piece == '*' else '1'},{REPEAT}}}"
    if repeat := _OPEN_REPEAT.fullmatch(piece):
        least = int(repeat.group(1))
        return f"{{{least},{max(least, REPEAT)}}}"
    return piece


@lru_cache(maxsize=1024)
def width(pattern: str) -> int:
    """Longest match of an already bounded pattern, in characters.

    Raises:
        PatternFault: the pattern does not compile, could match nothing, or is wider than `WIDEST`.
    """
    pieces = _PIECE.findall(pattern)
    _refuse(pieces)
    from re import _parser  # type: ignore[attr-defined]  # noqa: PLC0415  # the only width calculator there is

    # What stands for one character in RE2 and reads differently in Python counts as any one character.
    plain = "".join("." if len(piece) > 1 and _ONE.match(piece) else piece for piece in pieces)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            least, most = _parser.parse(plain).getwidth()
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternFault(f"does not parse: {error}") from None
    if least == 0:
        raise PatternFault("matches the empty text, so it would match everywhere")
    if most > WIDEST:
        raise PatternFault(
            f"can match {most} characters; at most {WIDEST}: bound its repeats, as in \\w{{0,20}} instead of \\w*"
        )
    engine(pattern)
    return int(most)


def _refuse(pieces: list[str]) -> None:
    """Anchors mean the ends of a whole text, which a stream does not have; `{,n}` is text to RE2 and no repeat."""
    for piece in pieces:
        if piece in {r"\A", r"\z", r"\Z"}:
            raise PatternFault("anchors to the end or start of a text; use \\b for word boundaries")
        if piece in {"^", "$"}:
            raise PatternFault(f"uses the anchor {piece!r}; terms are found anywhere: use \\b for word boundaries")
        if piece.startswith("{,"):
            raise PatternFault(f"has a repeat without its least number: {{0{piece[1:]} instead of {piece}")


@lru_cache(maxsize=1024)
def engine(pattern: str) -> Any:
    """The pattern compiled by RE2, with case and newlines ignored as terms need it.

    Raises:
        PatternFault: RE2 cannot run the pattern.
    """
    import re2  # noqa: PLC0415  # loaded with the first term, not with cosa_sdk

    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise PatternFault(f"cannot run in linear time: {reason}") from None
