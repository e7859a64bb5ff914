"""A text and what it hides: the decoded forms that a reader, or a model, would make of it.

Each form is judged beside the text itself, so decoding can only find more. A form is offered only where it reads more
like language than what it was made from, measured in words that the vocabulary knows whole.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from collections.abc import Callable
from urllib.parse import unquote

__all__ = ["views"]

Knows = Callable[[str], bool]
"""Whether a lower-case word is in the vocabulary as a whole."""

_MOST = 4
"""Forms of one text, itself among them."""
_READ = 20_000
"""Characters that are searched for hidden text."""
_SHORTEST = 3
"""Letters of a word that says whether a text is language: every letter is a word of some vocabulary."""
_SAMPLE = 2_000
"""Characters that say whether a text is language."""
_LANGUAGE = 0.4
"""Share of known words above which a text is language as it is,"""
_TURNED = 0.6
"""above which its rot13 is,"""
_INSIDE = 0.5
"""and above which what base64 holds is."""
_IN_PLACE = 1_000
"""Characters of a text that is read around what base64 holds; of a longer one, what it holds alone."""
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
# A one is an l or an i.
_LEET = tuple(str.maketrans("013457@$!|", f"o{one}eastasii") for one in "li")
_MIXED = re.compile(r"[A-Za-z0-9@$!|]{3,24}")
# `100k` is no `look`.
_QUANTITY = re.compile(r"\d{2,}[A-Za-z]{1,2}")
# Single letters with one separator between them: `k i l l`, `k.i.l.l`, `k*i*l*l`.
_SPACED = re.compile(r"(?<![^\W_])(?:[^\W\d_][\s.*_~-]{1,2}){3,}[^\W\d_](?![^\W_])")
_WIDE = re.compile(r"\s{2}")
_ARTICLES = "aAiI"
"""Letters that are words: what follows them may be spaced, not they."""
_MARKS = re.compile(r"[*_~`#>|]+")
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2}){3,}")
_WORD = re.compile(r"[A-Za-z]+")


def views(text: str, knows: Knows) -> list[str]:
    """The text first, then at most three decoded forms.

    Args:
        text: as it came.
        knows: tells words from noise.
    """
    found = [text]
    part = text[:_READ]
    for form in (_plain(part, knows), _rot13(part, knows), *_decoded(part, knows)):
        if form and form not in found:
            found.append(form)
    return found[:_MOST]


def _readable(text: str, knows: Knows) -> float:
    """Share of the words that are known, of those that are long enough."""
    words = [word.lower() for word in _WORD.findall(text[:_SAMPLE]) if len(word) >= _SHORTEST]
    return sum(map(knows, words)) / len(words) if len(words) > 1 else 0.0


def _plain(text: str, knows: Knows) -> str:
    """Leetspeak spelt out, spaced letters joined, emphasis and code marks removed."""

    def spelt(match: re.Match[str]) -> str:
        word = match.group()
        core = word.rstrip("!|")
        if core.isalpha() or not any(map(str.isalpha, core)) or _QUANTITY.fullmatch(core):
            return word
        for table in _LEET if not knows(core.lower()) else ():
            meant = core.translate(table)
            if meant.isalpha() and knows(meant.lower()):
                return meant + word[len(core) :]
        return word

    def joined(match: re.Match[str]) -> str:
        parts = _WIDE.split(match.group())
        if all(len(part) == 1 for part in parts):  # the wide gaps are between letters, not between words
            parts = [match.group()]
        return " ".join(_word(part, knows) for part in parts)

    plain = _SPACED.sub(joined, text)
    plain = _MIXED.sub(spelt, plain)
    plain = _MARKS.sub(" ", plain) if _MARKS.search(plain) else plain
    return "" if plain.split() == text.split() else plain


def _word(spaced: str, knows: Knows) -> str:
    letters = "".join(filter(str.isalpha, spaced))
    if letters[0] in _ARTICLES and not knows(letters.lower()) and knows(letters[1:].lower()):
        return f"{letters[0]} {letters[1:]}"
    return letters


def _rot13(text: str, knows: Knows) -> str:
    if _readable(text, knows) > _LANGUAGE:
        return ""
    turned = codecs.encode(text, "rot13")
    return turned if _readable(turned, knows) > _TURNED else ""


def _decoded(text: str, knows: Knows) -> list[str]:
    found = []
    if _PERCENT.search(text):
        found.append(unquote(text, errors="replace"))
    for match in _BASE64.finditer(text):
        run = match.group().rstrip("=").replace("-", "+").replace("_", "/")
        run = run[: len(run) - (len(run) % 4 == 1)]  # no base64 is one character over
        try:
            inside = base64.b64decode(run + "=" * (-len(run) % 4), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            continue
        if _readable(inside, knows) > _INSIDE:
            found.append(text[: match.start()] + inside + text[match.end() :] if len(text) < _IN_PLACE else inside)
    return found
