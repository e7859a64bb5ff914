"""Personal data that patterns can find, with the check digits that keep look-alikes out."""

from __future__ import annotations

from collections.abc import Callable

from cosa_sdk import patterns

__all__ = ["PATTERNS", "accepted_length"]

PATTERNS = {
    "email": r"[a-z0-9._%+-]{1,40}@[a-z0-9-]{1,30}(?:\.[a-z0-9-]{1,24}){1,3}",
    "phone": r"\+?\(?\d(?:[ ().-]{0,2}\d){8,14}",
    "credit_card": r"\d(?:[ -]?\d){12,18}",
    "iban": r"[a-z]{2}\d{2}(?: ?[a-z0-9]){11,30}",
    "us_ssn": r"\d{3}-\d{2}-\d{4}",
    "ip_address": r"\d{1,3}(?:\.\d{1,3}){3}",
}
"""RE2 patterns on folded text, by the names that a `Term` may use."""


def _luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value  # noqa: PLR2004  # the digit sum of a two-digit number
    return total % 10 == 0


def _iban(text: str) -> bool:
    moved = text[4:] + text[:4]
    return int("".join(str(int(char, 36)) for char in moved)) % 97 == 1


def _is_card(compact: str) -> bool:
    return 13 <= len(compact) <= 19 and len(set(compact)) > 1 and _luhn(compact)  # noqa: PLR2004  # ISO/IEC 7812


def _is_iban(compact: str) -> bool:
    return 15 <= len(compact) <= 34 and _iban(compact)  # noqa: PLR2004  # ISO 13616


def _is_address(text: str) -> bool:
    return all(int(part) <= 255 for part in text.split("."))  # noqa: PLR2004  # one octet


_CHECKS: dict[str, Callable[[str], bool]] = {"credit_card": _is_card, "iban": _is_iban, "ip_address": _is_address}


def accepted_length(kind: str, matched: str, following: str) -> int:
    """How much of a match is personal data of that kind, or 0.

    The longest part from its start that ends where a word or number ends and whose check digits hold: what comes
    behind it in the text can make it longer, and never hides it.

    Args:
        following: the character behind the match; empty at the end of the text.
    """
    text, whole, check = matched + following, patterns.engine(PATTERNS[kind]), _CHECKS.get(kind)
    for end in range(len(matched), 0, -1):
        if not text[end - 1].isalnum() or text[end : end + 1].isalnum():
            continue  # a word or number is not cut in its middle
        part = matched[:end]
        if whole.fullmatch(part) and (check is None or check(part.replace(" ", "").replace("-", ""))):
            return end
    return 0
