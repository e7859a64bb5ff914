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

_ATOM_ESCAPE = re.compile(r"\\(?:x\{[0-9A-Fa-f]+\}|[pP](?:\{\^?\w+\}|\w)|.)", re.DOTALL)
_OPEN_REPEAT = re.compile(r"\{(\d+),\}")


class PatternFault(ValueError):
    """A regular expression that cannot be a term; the message says why and what to write instead."""


def bounded(pattern: str) -> str:
    """`pattern` with every unbounded repeat outside character classes bounded to `REPEAT`."""
    out: list[str] = []
    position, in_class = 0, False
    while position < len(pattern):
        char = pattern[position]
        if char == "\\" and (escape := _ATOM_ESCAPE.match(pattern, position)):
            out.append(escape.group())
            position = escape.end()
            continue
        if in_class:
            in_class = char != "]"
            out.append(char)
        elif char == "[":
            in_class = True
            opening = re.compile(r"\[\^?\]?").match(pattern, position)
            assert opening is not None  # it starts with "["
            out.append(opening.group())
            position = opening.end()
            continue
        elif char in "*+":
            out.append(f"{{{'0' if char == '*' else '1'},{REPEAT}}}")
        elif char == "{" and (repeat := _OPEN_REPEAT.match(pattern, position)):
            least = int(repeat.group(1))
            out.append(f"{{{least},{max(least, REPEAT)}}}")
            position = repeat.end()
            continue
        else:
            out.append(char)
        position += 1
    return "".join(out)


@lru_cache(maxsize=1024)
def width(pattern: str) -> int:
    """Longest match of an already bounded pattern, in characters.

    Raises:
        PatternFault: the pattern does not compile, could match nothing, or is wider than `WIDEST`.
    """
    _refuse_assertions(pattern)
    from re import _parser  # type: ignore[attr-defined]  # noqa: PLC0415  # the only width calculator there is

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            least, most = _parser.parse(pattern).getwidth()
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


def _refuse_assertions(pattern: str) -> None:
    """Anchors mean the ends of a whole text, which a stream does not have."""
    position, in_class = 0, False
    while position < len(pattern):
        char = pattern[position]
        if char == "\\":
            if not in_class and pattern[position + 1 : position + 2] in {"A", "z", "Z"}:
                raise PatternFault("anchors to the end or start of a text; use \\b for word boundaries")
            position += 2
            continue
        if in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
            position += 1 if pattern[position + 1 : position + 2] == "]" else 0
        elif char in "^$":
            raise PatternFault(f"uses the anchor {char!r}; terms are found anywhere: use \\b for word boundaries")
        position += 1


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
