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
from itertools import groupby
from urllib.parse import unquote

__all__ = ["views"]

Knows = Callable[[str], bool]
"""Whether a lower-case word is in the vocabulary as a whole."""

_READ = 24_000
"""Characters that are searched for hidden text: as many as the judge reads."""
_SHORTEST = 3
"""Letters of a word that says whether a text is language: every letter is a word of some vocabulary."""
_SAMPLE = 2_000
"""Characters that say whether a text is language."""
_INSIDE = 0.5
"""Share of known words above which what base64 holds is language."""
_TURNED = 3
"""Different words that only rot13 makes known, from which on a text is taken to hold some: fewer are chance."""
_IN_PLACE = 1_000
"""Characters of a text that is read around what base64 holds; of a longer one, what it holds alone."""
# Mail wraps it, and quotes it.
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}(?:[ \t]*\r?\n[ \t>]*[A-Za-z0-9+/_-]{2,})*={0,2}")
_BROKEN = re.compile(r"[ \t\r\n>]+")
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
    """The text first, then at most three decoded forms: written otherwise, rot13, and encoded.

    Each takes in all that is hidden in its way, so that nothing harmless can use up the room of what is not.

    Args:
        text: as it came.
        knows: tells words from noise.
    """
    found = [text]
    part = text[:_READ]
    for form in (_plain(part, knows), _rot13(part, knows), _decoded(part, knows)):
        if form and form not in found:
            found.append(form)
    return found


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
    if not letters:  # circled digits, fractions: no decimal digits, and no letters either
        return spaced
    if letters[0] in _ARTICLES and not knows(letters.lower()) and knows(letters[1:].lower()):
        return f"{letters[0]} {letters[1:]}"
    return letters


def _rot13(text: str, knows: Knows) -> str:
    """The stretches in rot13 turned, wherever they stand; nothing where too few words give it away.

    A stretch lies between words that are known as they are and not once turned. It is rot13 where most of its unknown
    words are known once turned; the others in it may be names, and words that are known either way.
    """
    found = list(_WORD.finditer(text))
    words = {match.group().lower() for match in found}
    unknown = {word for word in words if len(word) >= _SHORTEST and not knows(word)}
    hidden = {word for word in unknown if knows(codecs.encode(word, "rot13"))}
    if len(hidden) < _TURNED:  # nearly every text
        return ""
    plain = {word for word in words - unknown if knows(word) and not knows(codecs.encode(word, "rot13"))}
    shown: set[str] = set()
    pieces: list[str] = []
    at = 0
    for _, group in groupby(found, lambda match: match.group().lower() in plain):
        stretch = list(group)
        start, end = stretch[0].start(), stretch[-1].end()
        said = {match.group().lower() for match in stretch}
        if len(said & hidden) > _INSIDE * len(said & unknown):
            shown |= said & hidden
            pieces += text[at:start], codecs.encode(text[start:end], "rot13")
            at = end
    return "".join((*pieces, text[at:])) if len(shown) >= _TURNED else ""


def _decoded(text: str, knows: Knows) -> str:
    """Percent-encoding and base64 decoded: in their places in a short text; of a long one, what base64 holds alone."""
    escaped = bool(_PERCENT.search(text))
    whole = unquote(text, errors="replace") if escaped else text
    found = [(match.start(), match.end(), _inside(match.group(), knows)) for match in _BASE64.finditer(whole)]
    found = [each for each in found if each[2]]
    if found and not escaped and len(text) >= _IN_PLACE:
        return "\n".join(inside for _, _, inside in found)
    pieces: list[str] = []
    at = 0
    for start, end, inside in found:
        pieces += whole[at:start], inside
        at = end
    return "".join((*pieces, whole[at:])) if found or escaped else ""


def _inside(block: str, knows: Knows) -> str:
    """What one block of base64 holds; nothing where that is no language.

    Its lines are one run that was wrapped; else runs of lines of equal length and a shorter last one, with words before
    or after them; else a run each. Whatever cannot be decoded stays as it is.
    """
    lines = _BROKEN.split(block)
    whole = _language("".join(lines), knows)
    if whole or len(lines) == 1:
        return whole
    pieces: list[str] = []
    for run in _wrapped(lines):
        inside = _language("".join(run), knows)
        pieces += [inside] if inside else [_language(line, knows) or line for line in run]
    return "\n".join(pieces) if pieces != lines else ""


def _wrapped(lines: list[str]) -> list[list[str]]:
    """Lines of one length together, each time with the shorter line after them."""
    found: list[list[str]] = [[]]
    for line in lines:
        run = found[-1]
        if run and (len(line) > len(run[0]) or len(run[-1]) < len(run[0])):
            found.append([line])
        else:
            run.append(line)
    return found


def _language(run: str, knows: Knows) -> str:
    """What a run of base64 holds; nothing where that is no language."""
    run = run.rstrip("=").replace("-", "+").replace("_", "/")
    run = run[: len(run) - (len(run) % 4 == 1)]  # no base64 is one character over
    try:
        inside = base64.b64decode(run + "=" * (-len(run) % 4), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return inside if _readable(inside, knows) > _INSIDE else ""
