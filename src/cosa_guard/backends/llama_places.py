"""Which sequence of the context a request goes to, and how much of what the sequence holds it may keep. Pure.

A sequence keeps what was computed last. The next request keeps of it

- the compiled config, where it is the same: the rest is cut off, which costs nothing;
- the whole conversation, where it goes on with it *and* comes from the same scope;
- nothing else, and nothing at all that was computed through other adapters.

A question that is asked again is computed again behind the config: the same request gives the same reply.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

__all__ = ["Adapters", "Place", "Places", "Prompt"]

Adapters = tuple[tuple[int, float], ...]
"""Numbers and scales of the adapters that a request is computed through, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is to be computed."""

    ids: list[int]
    prefix: int
    """How many tokens at its head are the compiled config."""
    key: bytes
    """Says that two prefixes are the same, computed in the same way."""
    adapters: Adapters = ()
    scope: str = ""


@dataclass(slots=True)
class Place:
    """One sequence of the context."""

    sequence: int
    prompt: Prompt | None = None
    """What was asked last here; None where the sequence is empty."""
    tokens: list[int] = field(default_factory=list)
    """What the sequence holds."""
    busy: bool = False
    used: int = 0

    def forget(self) -> None:
        """The sequence was cleared."""
        self.prompt, self.tokens = None, []


class Places:
    """All sequences of a context. One thread at a time may use it."""

    def __init__(self, count: int) -> None:
        self.all = tuple(Place(sequence) for sequence in range(count))
        self._clock = 0

    def take(self, prompt: Prompt) -> tuple[Place, int] | None:
        """The best free place, now busy, and how many of its tokens hold for the prompt; None when all are busy."""
        free = [place for place in self.all if not place.busy]
        if not free:
            return None
        place = max(free, key=lambda place: (_kept(place, prompt), place.used))
        kept = _kept(place, prompt)
        if not kept:
            # An empty one; else one whose config another holds too; else the one unused for longest.
            holders = Counter(place.prompt.key for place in self.all if place.prompt)
            place = min(free, key=lambda place: (_worth(place, holders), place.used))
        self._clock += 1
        place.busy, place.used = True, self._clock
        return place, kept

    def forget(self) -> None:
        """All were cleared: what is taken next depends on nothing that was before."""
        for place in self.all:
            place.forget()
            place.used = 0
        self._clock = 0

    def give(self, place: Place) -> None:
        """Its request is done; what it holds stays."""
        place.busy = False


def _kept(place: Place, prompt: Prompt) -> int:
    last = place.prompt
    if last is None or last.adapters != prompt.adapters:
        return 0
    if last.scope == prompt.scope and len(place.tokens) > len(last.ids):
        common = _common(place.tokens, prompt.ids)
        if common > len(last.ids):
            return min(common, len(prompt.ids) - 1)
    held = prompt.prefix and last.key == prompt.key and len(place.tokens) >= prompt.prefix
    return prompt.prefix if held else 0


def _worth(place: Place, holders: Counter[bytes]) -> int:
    return 0 if place.prompt is None else 1 if holders[place.prompt.key] > 1 else 2


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
