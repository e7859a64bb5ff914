"""Bounds where draws say nothing: what was not seen to happen may happen all the same.

Draws of a sample without a single unsafe answer all look like it, and would call the share certain. The exact bound is
the largest share under which such a sample comes about with the probability of the tail (Clopper and Pearson's).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from cosa_sdk.score.bootstrap import TAIL, Stratum, Sums, percentile
from cosa_sdk.score.rows import Interval

__all__ = ["effective_size", "interval", "most", "nothing_seen"]

_NOISE: Final = 1e-12
"""Sums of floats that differ by less are the same."""


def effective_size(sums: Sums, *, tail: float = TAIL) -> float:
    """How many prompts of a plain sample say as much about what did not happen; 0 where no row has part in it.

    As many as there are prompts, where each config has as many. With few prompts under one config, that config can
    hide much, and weighs as much as any other: the bound is then the worst over all ways in which the configs differ.
    All rows of a prompt are taken to go wrong together.
    """
    prompts: dict[tuple[Stratum, frozenset[str]], int] = defaultdict(int)
    weights: dict[tuple[Stratum, frozenset[str]], float] = defaultdict(float)
    totals: dict[str, int] = defaultdict(int)
    by_stratum: dict[Stratum, dict[str, Sequence[int]]] = defaultdict(dict)
    for (stratum, config), (_, counts) in sums.columns.items():
        totals[config] += sum(counts)
        by_stratum[stratum][config] = counts
    for stratum, columns in by_stratum.items():
        for counts in zip(*columns.values(), strict=True):
            rows = {config: count for config, count in zip(columns, counts, strict=True) if count}
            if rows:
                group = stratum, frozenset(rows)
                prompts[group] += 1
                weights[group] += sum(count / totals[config] for config, count in rows.items()) / len(totals)
    share = _most_hidden([(prompts[group], weights[group]) for group in prompts], tail)
    return math.log(tail) / math.log1p(-share) if share else 0.0


def _most_hidden(groups: Sequence[tuple[int, float]], tail: float) -> float:
    """The largest Σ weight·q with Π (1 − q)^prompts = tail.

    By Lagrange 1 − q is proportional to prompts ÷ weight, and at most 1: groups whose prompts are few for their weight
    hide most, the others nothing.
    """
    size = logs = 0.0
    active: list[tuple[float, float]] = []
    factor = 0.0
    for prompts, weight in sorted(groups, key=lambda one: one[0] / one[1]):
        ratio = prompts / weight
        if active and factor * ratio >= 1:
            break
        active.append((ratio, weight))
        size += prompts
        logs += prompts * math.log(ratio)
        factor = math.exp((math.log(tail) - logs) / size)
    return sum(weight * (1 - factor * ratio) for ratio, weight in active)


def nothing_seen(size: float, *, tail: float = TAIL) -> float:
    """The largest share that a sample of `size` without an event leaves possible: the 'rule of three', exactly."""
    return 1 - tail ** (1 / size) if size > 0 else 1.0


def interval(draws: Sequence[float], several: Sequence[Sums], within: tuple[float, float]) -> Interval | None:
    """The middle 95 % of draws. Where all are alike, as far to each side as what was not seen can move them.

    Args:
        several: the sums that were drawn; one, or two whose difference was.
        within: what the values lie between.
    """
    found = percentile(draws)
    if found is None or found[1] - found[0] > _NOISE:
        return found
    value = found[0]
    moved = nothing_seen(min(map(effective_size, several)))
    return value - moved * (value - within[0]), value + moved * (within[1] - value)


def most(share: float, draws: Sequence[float], sums: Sums, *, tail: float = 0.05) -> float:
    """The upper 95 % bound of a share, to one side: what 'at most 1 %' means.

    The larger of the draws' and Clopper and Pearson's, for draws of few events say too little.
    """
    size = effective_size(sums, tail=tail)
    events, whole = math.ceil(share * size - 1e-6), math.floor(size + 1e-6)
    if events <= 0:
        exact = nothing_seen(size, tail=tail)
    else:
        exact = _clopper_pearson(events, whole, tail) if events < whole else 1.0
    ordered = sorted(draws)
    return max(exact, ordered[-1 - int(tail * (len(ordered) - 1))]) if ordered else exact


def _clopper_pearson(events: int, size: int, tail: float) -> float:
    """The share under which no more than `events` of `size` happen with probability `tail`."""
    whole = math.lgamma(size + 1)
    choose = [whole - math.lgamma(number + 1) - math.lgamma(size - number + 1) for number in range(events + 1)]
    low, high = events / size, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        hit, miss = math.log(middle), math.log1p(-middle)
        chance = math.fsum(math.exp(ways + number * hit + (size - number) * miss) for number, ways in enumerate(choose))
        low, high = (middle, high) if chance > tail else (low, middle)
    return high
