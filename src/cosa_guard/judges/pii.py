"""Personal data that patterns can find, with the check digits that keep look-alikes out."""

from __future__ import annotations

from collections.abc import Callable

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


_SHORTEST: dict[str, Callable[[str], bool]] = {"credit_card": _is_card, "iban": _is_iban}


def accepted_length(kind: str, matched: str) -> int:
    """How much of a match is personal data of that kind: the longest prefix whose check digits hold, or 0."""
    if kind == "ip_address":
        return len(matched) if all(int(part) <= 255 for part in matched.split(".")) else 0  # noqa: PLR2004  # one octet
    check = _SHORTEST.get(kind)
    if check is None:
        return len(matched)
    for end in range(len(matched), 11, -1):
        if end < len(matched) and matched[end - 1].isalnum() and matched[end].isalnum():
            continue  # a number is not cut in the middle of a group
        if check(matched[:end].replace(" ", "").replace("-", "")):
            return end
    return 0
