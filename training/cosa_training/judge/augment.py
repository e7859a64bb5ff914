"""Light noise, so that a changed spelling does not change the verdict: typos, leetspeak, casing, spacing."""

from __future__ import annotations

import random

__all__ = ["noisy", "padded"]

_LEET = str.maketrans("aeiost", "431057")
_NEAR = {"a": "s", "e": "r", "i": "o", "o": "p", "t": "y", "n": "m", "s": "d", "r": "t", "l": "k", "h": "j"}


def _typo(word: str, rng: random.Random) -> str:
    if len(word) < 4:
        return word
    place = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:place] + word[place + 1 :]
    if kind == 1:
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if kind == 2:
        return word[:place] + word[place] * 2 + word[place + 1 :]
    return word[:place] + _NEAR.get(word[place], word[place]) + word[place + 1 :]


def noisy(text: str, rng: random.Random) -> str:
    """One of the noises, on a few words or on all."""
    words = text.split(" ")
    kind = rng.randrange(6)
    if kind <= 1:
        return " ".join(_typo(word, rng) if rng.random() < 0.2 else word for word in words)
    if kind == 2:
        return " ".join(word.translate(_LEET) if rng.random() < 0.4 else word for word in words)
    if kind == 3:
        return text.upper() if rng.random() < 0.5 else text.lower()
    if kind == 4:
        return " ".join(" ".join(word) if len(word) > 3 and rng.random() < 0.15 else word for word in words)
    return text.rstrip("?.! ").replace(",", "")


def padded(text: str, harmless: list[str], rng: random.Random) -> str:
    """The text among one to three harmless ones, at most 60 words of them: what is risky stays so, wherever."""
    around = " ".join(rng.choice(harmless) for _ in range(rng.randint(1, 3))).split()[:60]
    place = rng.choice([0, len(around), rng.randint(0, len(around))])
    return " ".join([*around[:place], text, *around[place:]])
