"""Key-value caches of torch models: of one prompt, of the prefixes that are kept, and of the replies in one batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias

from cosa_guard.backends.torch_runtime import torch, transformers

__all__ = ["Prefixes", "Rows", "States", "cache_of", "states_of"]

Pair: TypeAlias = "tuple[torch.Tensor, torch.Tensor]"
"""Keys and values of one layer: (requests, heads, tokens, width)."""
States: TypeAlias = "tuple[Pair | None, ...]"
"""Of all layers; None for one that uses those of another."""


def cache_of(states: States, *, length: int | None = None) -> Any:
    """A cache that begins with the first `length` tokens of `states`.

    It never writes to them: a layer that grows joins its old and new tokens in new memory.
    """
    cache = transformers.DynamicCache()
    for pair in states:
        layer = transformers.cache_utils.DynamicLayer()
        if pair is not None:
            layer.keys, layer.values = (each[..., :length, :] for each in pair)
            layer.device, layer.is_initialized = layer.keys.device, True
        cache.layers.append(layer)
    return cache


def states_of(cache: Any) -> States:
    """What a cache holds."""
    return tuple((layer.keys, layer.values) if layer.is_initialized else None for layer in cache.layers)


class Prefixes:
    """States of compiled configs, the ones used last, up to a number of bytes. One thread may use it."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[Hashable, States] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> States | None:
        """The states kept under `key`."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: Hashable, states: States) -> None:
        """Keeps them; drops those unused for longest. What is larger than all there is room for is not kept."""
        size = _bytes(states)
        if size > self._capacity or key in self._kept:
            return
        self._kept[key] = states
        self.bytes += size
        while self.bytes > self._capacity:
            self.bytes -= _bytes(self._kept.popitem(last=False)[1])


def _bytes(states: States) -> int:
    return sum(each.nbytes for pair in states if pair is not None for each in pair)


class Rows:
    """The states of replies that are computed together: shorter ones have padding in front, which nothing looks at."""

    def __init__(self) -> None:
        self.cache = cache_of(())
        """A model that computes one more token of each row lengthens it."""
        self._padding: list[int] = []

    def __len__(self) -> int:
        return len(self._padding)

    def add(self, states: States, length: int) -> None:
        """One more row, at the end, `length` tokens long."""
        if not self._padding:
            self.cache, self._padding = cache_of(states), [0]
            return
        width = self.cache.get_seq_length()
        old, new = max(0, length - width), max(0, width - length)
        joined = zip(states_of(self.cache), states, strict=True)
        self.cache = cache_of(tuple(pair and other and _joined(pair, old, other, new) for pair, other in joined))
        self._padding = [*(each + old for each in self._padding), new]

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all but these rows, and the padding that no row needs any more."""
        if len(rows) == len(self._padding):
            return
        if not rows:
            self.cache, self._padding = cache_of(()), []
            return
        spare = min(self._padding[row] for row in rows)
        chosen = list(rows)
        self.cache = cache_of(
            tuple(pair and (pair[0][chosen, :, spare:], pair[1][chosen, :, spare:]) for pair in states_of(self.cache))
        )
        self._padding = [self._padding[row] - spare for row in rows]

    def places(self, device: torch.device) -> tuple[Any, Any]:
        """Attention mask and positions for one more token in each row; None where nothing is padded."""
        if not any(self._padding):
            return None, None
        width = self.cache.get_seq_length()
        padding = torch.tensor(self._padding, device=device)[:, None]
        return (torch.arange(width + 1, device=device)[None, :] >= padding).long(), width - padding


def _joined(ours: Pair, our_padding: int, theirs: Pair, their_padding: int) -> Pair:
    keys, values = (
        torch.cat((_padded(our, our_padding), _padded(their, their_padding)))
        for our, their in zip(ours, theirs, strict=True)
    )
    return keys, values


def _padded(states: torch.Tensor, tokens: int) -> torch.Tensor:
    return torch.nn.functional.pad(states, (0, 0, tokens, 0)) if tokens else states
