"""Computed configs that no sequence holds at the moment: in memory, and on disk where that is asked for.

Both tiers are bounded, the least recently used goes first. What goes in is the state of a compiled config, never a
user's text. A file that is not exactly what was written is as good as none: its digest is checked before the state is
handed to native code, and its name depends on all that a state depends on, so another version never reads it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

__all__ = ["DiskTier", "PrefixStore", "StoreUse", "prefix_key"]

_MAGIC: Final = b"cosakv1\n"
_HEAD: Final = struct.Struct("<8s32s32sQ")
"""Magic, key, digest and length of the state."""
_SUFFIX: Final = ".kv"
_log = logging.getLogger(__name__)


def prefix_key(model: str, adapters: object, ids: list[int]) -> bytes:
    """What a computed prefix depends on: the model and what computes it, the adapters, and the token ids."""
    head = repr((model, adapters, len(ids))).encode()
    return blake2b(head + b"\0" + struct.pack(f"<{len(ids)}i", *ids), digest_size=32).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUse:
    """What the tiers hold, and what they were worth."""

    held: int = 0
    bytes: int = 0
    hits: int = 0
    disk_hits: int = 0
    evicted: int = 0


class PrefixStore:
    """The tier in memory, with a disk tier behind it or none. One thread at a time may use it.

    Args:
        limit: Bytes that are kept in memory.
        disk: Takes what is put, and is asked for what is not in memory.
    """

    def __init__(self, limit: int, disk: DiskTier | None = None) -> None:
        self._limit, self._disk = limit, disk
        self._states: OrderedDict[bytes, bytearray] = OrderedDict()
        self._bytes = self._hits = self._disk_hits = self._evicted = 0

    @property
    def use(self) -> StoreUse:
        """What is held now."""
        return StoreUse(
            held=len(self._states),
            bytes=self._bytes,
            hits=self._hits,
            disk_hits=self._disk_hits,
            evicted=self._evicted,
        )

    def get(self, key: bytes) -> bytearray | None:
        """The state of a prefix, or None."""
        state = self._states.get(key)
        if state is not None:
            self._states.move_to_end(key)
            self._hits += 1
            return state
        state = self._disk.get(key) if self._disk else None
        if state is not None:
            self._disk_hits += 1
            self._keep(key, state)
        return state

    def put(self, key: bytes, state: bytearray) -> None:
        """Keeps a state, driving out the ones unused for longest."""
        if key not in self._states:
            if self._disk:
                self._disk.put(key, state)
            self._keep(key, state)

    def drop(self, key: bytes) -> None:
        """Forgets a state that turned out not to fit."""
        self._bytes -= len(self._states.pop(key, bytearray()))
        if self._disk:
            self._disk.drop(key)

    def _keep(self, key: bytes, state: bytearray) -> None:
        if len(state) > self._limit:
            return
        self._states[key] = state
        self._bytes += len(state)
        while self._bytes > self._limit:
            self._bytes -= len(self._states.popitem(last=False)[1])
            self._evicted += 1


class DiskTier:
    """A folder of states, readable by their owner only. Several processes may use one folder.

    A disk that is full or read-only costs the cache, never the request: it is logged once.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._warned = False

    def get(self, key: bytes) -> bytearray | None:
        """The state, if the file is exactly what was written."""
        path = self._path(key)
        try:
            raw = path.read_bytes()
        except OSError:
            return None
        state = _checked(raw, key)
        if state is None:
            _log.warning("a stored prefix was damaged and is dropped: %s", path.name)
            self.drop(key)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return state

    def put(self, key: bytes, state: bytearray) -> None:
        """Writes a state, whole or not at all, and removes the oldest beyond the limit."""
        path = self._path(key)
        if len(state) > self._limit or path.exists():
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # mkstemp makes a file that only its owner can read.
            handle, name = tempfile.mkstemp(dir=self._folder, prefix=".new")
            try:
                with open(handle, "wb") as file:  # noqa: PTH123  # a descriptor
                    file.write(_HEAD.pack(_MAGIC, key, _digest(key, state), len(state)))
                    file.write(state)
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            self._shrink()
        except OSError as error:
            if not self._warned:
                _log.warning("prefixes are not stored on disk: %s", error)
            self._warned = True

    def drop(self, key: bytes) -> None:
        """Removes a state."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def _path(self, key: bytes) -> Path:
        return self._folder / f"{key.hex()}{_SUFFIX}"

    def _shrink(self) -> None:
        found = []
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):  # another process was quicker
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._limit:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size


def _digest(key: bytes, state: bytearray) -> bytes:
    return blake2b(state, digest_size=32, key=key).digest()


def _checked(raw: bytes, key: bytes) -> bytearray | None:
    if len(raw) < _HEAD.size:
        return None
    magic, written, digest, length = _HEAD.unpack_from(raw)
    state = bytearray(memoryview(raw)[_HEAD.size :])
    whole = magic == _MAGIC and written == key and length == len(state) and digest == _digest(key, state)
    return state if whole else None
