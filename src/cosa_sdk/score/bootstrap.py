"""How sure a number is: prompts are drawn again, with all their rows together.

The configs are what they are. All rows of a prompt, under several configs, move together, for they go wrong together;
prompts are drawn within the set of configs that they occur under, so that each draw has as many rows of each config.
Several systems are drawn alike: a difference is that of the same prompts.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Final

from cosa_sdk.errors import UsageError
from cosa_sdk.score.means import Measure, pair_value, pairs_of
from cosa_sdk.score.rows import Interval, Row

__all__ = [
    "CONTRAST",
    "DRAWS",
    "TAIL",
    "Stratum",
    "Sums",
    "multiplicities",
    "once",
    "percentile",
    "strata_of",
    "sums_of",
]

DRAWS: Final = 10_000
TAIL: Final = 0.025
"""What a 95 % interval leaves out at either end."""
CONTRAST: Final = "contrast"
"""Stands for a config where pairs are counted, which have two."""

Stratum = frozenset[str]
"""The configs that a prompt occurs under."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Of one measure, what the prompts of each stratum add to each config: a sum, and a count."""

    columns: Mapping[tuple[Stratum, str], tuple[Sequence[float], Sequence[int]]]
    even: Mapping[tuple[Stratum, str], int]
    """Where each prompt has the same count: the count of any draw."""

    def value(self, drawn: Mapping[Stratum, Sequence[int]]) -> float | None:
        """The measure, of prompts that were drawn so often."""
        means = list(self.by_config(drawn).values())
        return sum(means) / len(means) if means else None

    def by_config(self, drawn: Mapping[Stratum, Sequence[int]]) -> dict[str, float]:
        """As `value`, config by config."""
        totals: dict[str, list[float]] = {}
        for (stratum, config), (sums, counts) in self.columns.items():
            often = drawn[stratum]
            total = totals.setdefault(config, [0.0, 0.0])
            total[0] += sum(map(mul, often, sums))
            # As many prompts are drawn as there are.
            even = self.even.get((stratum, config))
            total[1] += sum(map(mul, often, counts)) if even is None else even
        return {config: total / count for config, (total, count) in totals.items() if count}


def strata_of(rows: Sequence[Row]) -> dict[Stratum, list[str]]:
    """Prompts, by the set of configs that they occur under."""
    configs: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        configs[row.prompt].add(row.config)
    strata: dict[Stratum, list[str]] = defaultdict(list)
    for prompt, found in configs.items():
        strata[frozenset(found)].append(prompt)
    return {stratum: sorted(strata[stratum]) for stratum in sorted(strata, key=sorted)}


def sums_of(rows: Sequence[Row], measure: Measure | None) -> Sums:
    """A measure's sums; of contrast accuracy where the measure is None."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    if measure is None:
        for pair in pairs_of(rows):
            value = pair_value(pair)
            if value is not None:
                values[pair[0].prompt, CONTRAST].append(value)
    else:
        for row in rows:
            value = measure(row)
            if value is not None:
                values[row.prompt, row.config].append(value)
    columns: dict[tuple[Stratum, str], tuple[list[float], list[int]]] = {}
    for stratum, prompts in strata_of(rows).items():
        for config in (CONTRAST,) if measure is None else sorted(stratum):
            found = [values.get((prompt, config), []) for prompt in prompts]
            counts = [len(one) for one in found]
            if any(counts):
                columns[stratum, config] = ([sum(one) for one in found], counts)
    even = {place: sum(counts) for place, (_, counts) in columns.items() if len({*counts}) == 1}
    return Sums(columns, even)


def multiplicities(rows: Sequence[Row], draws: int, seed: int) -> Iterator[Mapping[Stratum, Sequence[int]]]:
    """How often each prompt is drawn, draw by draw."""
    if draws < 1:
        raise UsageError(f"draws={draws!r}: give a whole number from 1 on, such as {DRAWS}")
    chance = random.Random(seed)  # noqa: S311  # no secret
    strata = {stratum: len(prompts) for stratum, prompts in strata_of(rows).items()}
    places = {stratum: range(size) for stratum, size in strata.items()}
    for _ in range(draws):
        drawn: dict[Stratum, Sequence[int]] = {}
        for stratum, size in strata.items():
            counts = Counter(chance.choices(places[stratum], k=size))
            drawn[stratum] = [counts[place] for place in places[stratum]]
        yield drawn


def once(rows: Sequence[Row]) -> Mapping[Stratum, Sequence[int]]:
    """Each prompt once: the sample itself."""
    return {stratum: [1] * len(prompts) for stratum, prompts in strata_of(rows).items()}


def percentile(values: Sequence[float]) -> Interval | None:
    """The middle 95 % of draws; None where there are none."""
    if not values:
        return None
    ordered = sorted(values)
    last = len(ordered) - 1
    return ordered[int(TAIL * last)], ordered[-1 - int(TAIL * last)]
