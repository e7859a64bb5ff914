"""Which assistant turns are the guard's own. A client sends text only, and anybody can write an assistant turn.

What the guard hands out is remembered as a keyed hash of (tenant, preceding turns, text), so a turn counts as its own
only at the place where it was given, and another tenant's conversation cannot vouch for it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Literal

from cosa_guard.messages import Message

__all__ = ["Kind", "Recollection"]

Kind = Literal["reply", "refusal"]


class Recollection:
    """Bounded memory of own turns. Safe to share between threads and guards of one process.

    Args:
        key: secret of the hash; random by default. Give one to let several processes share a store later.
        capacity: turns remembered; the least recently used one goes first, and is then judged like any other text.
    """

    def __init__(self, *, key: bytes | None = None, capacity: int = 10_000) -> None:
        self._key = hashlib.blake2b(key or secrets.token_bytes(32)).digest()  # keys of any length
        self._capacity = capacity
        self._kinds: OrderedDict[bytes, Kind] = OrderedDict()
        self._lock = Lock()

    def remember(self, tenant: str, before: Sequence[Message], text: str, kind: Kind) -> None:
        """Note that the guard answered the turns `before` with `text`."""
        tag = self._tag(tenant, before, text)
        with self._lock:
            self._kinds[tag] = kind
            self._kinds.move_to_end(tag)
            if len(self._kinds) > self._capacity:
                self._kinds.popitem(last=False)

    def recall(self, tenant: str, before: Sequence[Message], text: str) -> Kind | None:
        """What `text` was when it was given after `before`; None when the guard did not give it there."""
        if not self._kinds:
            return None
        tag = self._tag(tenant, before, text)
        with self._lock:
            kind = self._kinds.get(tag)
            if kind:
                self._kinds.move_to_end(tag)
        return kind

    def _tag(self, tenant: str, before: Sequence[Message], text: str) -> bytes:
        parts = [tenant]
        for turn in before:
            parts += (turn.role, turn.content)
        parts.append(text)
        encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
        sizes = b"".join([len(one).to_bytes(8, "big") for one in encoded])  # no two lists of parts read alike
        return hashlib.blake2b(sizes + b"".join(encoded), key=self._key, digest_size=32).digest()
