"""Which server slot a request goes to, so that the prefix it shares with an earlier one is still there.

llama.cpp's own choice takes the slot with the longest common prefix. Configs share the preamble of the compiled prompt,
so it puts them all into one slot, each driving out the last, while the others stay empty. And it ignores adapters.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import takewhile

from cosa_guard.messages import Adapter, Message

__all__ = ["Chain", "SlotTable", "chain_of"]

Chain = tuple[bytes, ...]
"""A digest of the adapters and the config, then one for each further turn, each of all that goes before it."""


def chain_of(messages: Sequence[Message], adapters: Iterable[Adapter] = (), scope: str = "") -> Chain:
    """The chain of a conversation. Digests, not text: a slot's record says nothing about what a user wrote.

    Scopes share a config, never a turn. That much is decided here; inside a slot llama.cpp keeps the tokens that the
    next prompt begins with, whoever wrote them, and computes the rest afresh.
    """
    head = [(adapter.name, adapter.scale) for adapter in sorted(adapters, key=lambda adapter: adapter.name)]
    config = messages[0].content if messages and messages[0].role == "system" else None
    rest = messages[1:] if config is not None else messages
    links = [_digest(b"", repr((head, config)))]
    for message in rest:
        links.append(_digest(links[-1], repr((scope, message.role, message.content))))
    return tuple(links)


def _digest(before: bytes, text: str) -> bytes:
    return blake2b(before + text.encode("utf-8", errors="surrogatepass"), digest_size=16).digest()


@dataclass(slots=True)
class _Slot:
    number: int
    chain: Chain = ()
    busy: bool = False
    used: int = 0


class SlotTable:
    """What each slot holds, as far as its client knows: a wrong guess costs time, nothing else. Never waits."""

    def __init__(self, count: int) -> None:
        self._slots = tuple(_Slot(number) for number in range(count))
        self._lock = threading.Lock()
        self._clock = 0

    def take(self, chain: Chain) -> int | None:
        """The best free slot for `chain`, now busy; None when all are, and the server shall queue the request."""
        with self._lock:
            free = [slot for slot in self._slots if not slot.busy]
            if not free:
                return None
            slot = self._best(free, chain)
            slot.busy = True
            self._put(slot, chain)
            return slot.number

    def give(self, number: int | None) -> None:
        """Frees a slot that was taken; None is none."""
        if number is not None:
            with self._lock:
                self._slots[number].busy = False

    def record(self, number: int, chain: Chain) -> None:
        """The server chose this slot itself."""
        if 0 <= number < len(self._slots):
            with self._lock:
                self._put(self._slots[number], chain)

    def _put(self, slot: _Slot, chain: Chain) -> None:
        self._clock += 1
        slot.chain, slot.used = chain, self._clock

    def _best(self, free: list[_Slot], chain: Chain) -> _Slot:
        warm = max(free, key=lambda slot: (_shared(slot.chain, chain), slot.used))
        if _shared(warm.chain, chain):
            return warm
        # An empty slot; else one whose config another slot holds too; else the one unused for longest.
        holders = Counter(slot.chain[0] for slot in self._slots if slot.chain)
        return min(free, key=lambda slot: (holders[slot.chain[0]] == 1, slot.used) if slot.chain else (False, -1))


def _shared(left: Chain, right: Chain) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
