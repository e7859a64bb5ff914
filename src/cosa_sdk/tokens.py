"""How long a prompt is, and whether that was counted or guessed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Counter", "Tokens", "estimate"]

Counter = Callable[[str], int]
"""Gives the number of tokens of a text: a backend's own tokenizer, or `tiktoken`'s `len(encoding.encode(text))`."""

CHARACTERS_PER_TOKEN = 4.0
"""English prose on the vocabularies of today's models; other languages take more tokens."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A token count."""

    count: int
    counted: bool
    """False when estimated from the length."""


def estimate(text: str) -> int:
    """A guess without a tokenizer: a token for four ASCII characters, one for each other character."""
    plain = sum(map(str.isascii, text))
    return round(plain / CHARACTERS_PER_TOKEN) + len(text) - plain


def measure(text: str, counter: Counter | None = None) -> Tokens:
    """Count with `counter`, or estimate."""
    return Tokens(counter(text), counted=True) if counter else Tokens(estimate(text), counted=False)
