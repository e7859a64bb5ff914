"""Measures of a judge: pure functions on sequences, in time n log n, and each with its definition.

Labels are booleans, True for what the judge should find. Scores are numbers of any scale where only their order
counts, and probabilities where a function says so. A measure that the data cannot give is None, never 0: the area under
a curve without positives is not small, it is unknown.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from cosa_sdk.errors import UsageError

__all__ = [
    "Z95",
    "Bin",
    "Interval",
    "Operating",
    "Rates",
    "auroc",
    "auroc_with_interval",
    "average_precision",
    "brier",
    "cohen_kappa",
    "expected_calibration_error",
    "precision_recall_f1",
    "rates_at_flag_rate",
    "reliability_bins",
    "roc_points",
    "wilson",
]

Z95 = 1.959963984540054
"""Standard normal quantile of 0.975: intervals hold in 95 of 100 repetitions."""

Interval = tuple[float, float]
"""Lower and upper end."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Precision, recall and F1; None where nothing was flagged, or nothing was there to find."""

    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class Bin:
    """Texts of nearly equal probability, for a reliability plot."""

    low: float
    """Smallest probability in the bin,"""
    high: float
    """and the largest."""
    n: int
    """Texts."""
    confidence: float
    """Mean probability that was given."""
    frequency: float
    """Share of the texts that are positive: what the confidence should be."""
    ci: Interval
    """Wilson interval of the frequency."""


@dataclass(frozen=True, slots=True)
class Operating:
    """What happens where a threshold is set so that few negatives are flagged."""

    threshold: float
    """Flag what scores above it (not at it); minus infinity flags everything."""
    flag_rate: float
    """Share of the negatives that are flagged: at most what was asked for."""
    recall: float
    """Share of the positives that are flagged."""


def _checked(scores: Sequence[float], labels: Sequence[bool], *, probabilities: bool = False) -> None:
    if len(scores) != len(labels):
        raise UsageError(f"{len(scores)} scores and {len(labels)} labels: give one label for each score")
    for place, score in enumerate(scores):
        if not math.isfinite(score):
            raise UsageError(f"scores[{place}] is {score!r}; give finite numbers, and leave out rows without a score")
        if probabilities and not 0.0 <= score <= 1.0:
            raise UsageError(f"scores[{place}] is {score!r}; give probabilities, from 0 to 1")


def _split(scores: Sequence[float], labels: Sequence[bool]) -> tuple[list[float], list[float]]:
    """Scores of the positives and of the negatives."""
    positives = [score for score, label in zip(scores, labels, strict=True) if label]
    negatives = [score for score, label in zip(scores, labels, strict=True) if not label]
    return positives, negatives


def _midranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for place in order[start:end]:
            ranks[place] = (start + 1 + end) / 2
        start = end
    return ranks


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def auroc(scores: Sequence[float], labels: Sequence[bool]) -> float | None:
    """Area under the ROC curve: the chance that a random positive scores above a random negative, ties counted half.

    It is the Mann-Whitney U statistic divided by the number of pairs (Hanley and McNeil, Radiology 143, 1982). None if
    there is no positive or no negative.

    Raises:
        UsageError: the lengths differ, or a score is not finite.
    """
    _checked(scores, labels)
    positives, negatives = _split(scores, labels)
    if not positives or not negatives:
        return None
    ranks = _midranks([*positives, *negatives])
    count = len(positives)
    return (math.fsum(ranks[:count]) - count * (count + 1) / 2) / (count * len(negatives))


def auroc_with_interval(scores: Sequence[float], labels: Sequence[bool]) -> tuple[float, Interval] | None:
    """AUROC and its 95 % interval after DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988).

    The variance is var(V10)/m + var(V01)/n, where V10 of a positive is the share of the n negatives below it, and V01
    of a negative the share of the m positives above it, ties counted half; computed by ranks after Sun and Xu (IEEE
    Signal Processing Letters 21, 2014). The interval is area ± 1.96 standard errors, cut to 0..1.

    Where the classes are apart completely that variance is 0, which would claim certainty. The open end is then the
    Wilson bound of min(m, n) right answers out of as many: our choice, on the careful side. None if a class has fewer
    than two members.

    Raises:
        UsageError: the lengths differ, or a score is not finite.
    """
    _checked(scores, labels)
    positives, negatives = _split(scores, labels)
    m, n = len(positives), len(negatives)
    if min(m, n) < 2:  # noqa: PLR2004  # one value has no variance
        return None
    both = _midranks([*positives, *negatives])
    below = [(rank - own) / n for rank, own in zip(both[:m], _midranks(positives), strict=True)]
    above = [1 - (rank - own) / m for rank, own in zip(both[m:], _midranks(negatives), strict=True)]
    area = math.fsum(below) / m
    if min(below) == 1.0:
        return 1.0, (wilson(min(m, n), min(m, n))[0], 1.0)
    if max(below) == 0.0:
        return 0.0, (0.0, wilson(0, min(m, n))[1])
    reach = Z95 * math.sqrt(_variance(below) / m + _variance(above) / n)
    return area, (max(0.0, area - reach), min(1.0, area + reach))


def _thresholds(scores: Sequence[float], labels: Sequence[bool]) -> Iterator[tuple[float, int, int]]:
    """For every distinct score, downwards: it, and the positives and negatives that score at least as much."""
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    hits = 0
    for flagged, at in enumerate(order, 1):
        hits += bool(labels[at])
        if flagged == len(order) or scores[order[flagged]] != scores[at]:
            yield scores[at], hits, flagged - hits


def average_precision(scores: Sequence[float], labels: Sequence[bool]) -> float | None:
    """Area under the precision-recall curve as a sum of steps: Σ (R_k - R_(k-1)) P_k over falling thresholds.

    Equal scores are one threshold, and nothing is interpolated, which would flatter (Davis and Goadrich, ICML 2006).
    Guessing gives the share of positives, not 0.5. None if there is no positive.

    Raises:
        UsageError: the lengths differ, or a score is not finite.
    """
    _checked(scores, labels)
    positives = sum(map(bool, labels))
    if not positives:
        return None
    area, before = 0.0, 0
    for _, hits, false_alarms in _thresholds(scores, labels):
        area += (hits - before) / positives * hits / (hits + false_alarms)
        before = hits
    return area


def roc_points(scores: Sequence[float], labels: Sequence[bool]) -> list[tuple[float, float]]:
    """The ROC curve: (share of negatives flagged, share of positives flagged), from (0, 0) to (1, 1).

    One point for every distinct score; empty if a class is empty. The area under it by trapezes is `auroc`.

    Raises:
        UsageError: the lengths differ, or a score is not finite.
    """
    _checked(scores, labels)
    positives = sum(map(bool, labels))
    negatives = len(labels) - positives
    if not positives or not negatives:
        return []
    counted = _thresholds(scores, labels)
    return [(0.0, 0.0), *((false_alarms / negatives, hits / positives) for _, hits, false_alarms in counted)]


def rates_at_flag_rate(scores: Sequence[float], labels: Sequence[bool], flag_rate: float) -> Operating | None:
    """The lowest threshold that flags at most this share of the negatives, and the recall there.

    Equal scores are flagged together or not at all, so the share reached may be smaller than the one asked for. None
    if a class is empty.

    Raises:
        UsageError: the share is not from 0 to 1, the lengths differ, or a score is not finite.
    """
    if not 0.0 <= flag_rate <= 1.0:
        raise UsageError(f"flag_rate is {flag_rate!r}; give a share from 0 to 1, such as 0.05")
    _checked(scores, labels)
    positives, negatives = _split(scores, labels)
    if not positives or not negatives:
        return None
    negatives.sort(reverse=True)
    allowed = math.floor(flag_rate * len(negatives) + 1e-9)  # 0.29 * 100 is 28.999…
    threshold = negatives[allowed] if allowed < len(negatives) else -math.inf
    return Operating(
        threshold=threshold,
        flag_rate=sum(score > threshold for score in negatives) / len(negatives),
        recall=sum(score > threshold for score in positives) / len(positives),
    )


def precision_recall_f1(*, hits: int, false_alarms: int, misses: int) -> Rates:
    """Precision hits/(hits + false alarms), recall hits/(hits + misses), and their harmonic mean F1.

    F1 is 2 hits/(2 hits + false alarms + misses) (van Rijsbergen, Information Retrieval, 1979), so it is 0 where
    positives exist and nothing is flagged, though precision is unknown there.

    Raises:
        UsageError: a count is negative.
    """
    for name, count in (("hits", hits), ("false_alarms", false_alarms), ("misses", misses)):
        if count < 0:
            raise UsageError(f"{name} is {count}; give a count, from 0 on")
    flagged, positives = hits + false_alarms, hits + misses
    return Rates(
        precision=hits / flagged if flagged else None,
        recall=hits / positives if positives else None,
        f1=2 * hits / (flagged + positives) if flagged + positives else None,
    )


def wilson(successes: int, n: int, z: float = Z95) -> Interval:
    """Wilson's score interval of a share: the p that `successes` of `n` do not contradict (JASA 22, 1927).

    Sensible at 0 and at n, where the textbook interval has no width. Of no trials at all, 0 to 1.

    Raises:
        UsageError: `successes` is not from 0 to `n`.
    """
    if not 0 <= successes <= n:
        raise UsageError(f"{successes} successes of {n}: give a count from 0 to n")
    if not n:
        return 0.0, 1.0
    share, square = successes / n, z * z
    middle = (share + square / (2 * n)) / (1 + square / n)
    reach = z / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, middle - reach)  # exact, where rounding leaves 1e-18
    high = 1.0 if successes == n else min(1.0, middle + reach)
    return low, high


def brier(probabilities: Sequence[float], labels: Sequence[bool]) -> float | None:
    """Mean squared difference of probability and truth (Brier, Monthly Weather Review 78, 1950): 0 is perfect.

    Always saying 0.5 gives 0.25. None without rows.

    Raises:
        UsageError: the lengths differ, or a value is not from 0 to 1.
    """
    _checked(probabilities, labels, probabilities=True)
    if not labels:
        return None
    return math.fsum((p - bool(label)) ** 2 for p, label in zip(probabilities, labels, strict=True)) / len(labels)


def reliability_bins(probabilities: Sequence[float], labels: Sequence[bool], bins: int = 10) -> list[Bin]:
    """Rows sorted by probability and cut into at most `bins` parts of nearly equal size, lowest first.

    Equal probabilities stay together, so the order of the rows does not matter; where many are equal there are fewer
    parts. Equal mass (Nguyen and O'Connor, EMNLP 2015) and not equal width, because a judge of rare things gives nearly
    all its probabilities near 0.

    Raises:
        UsageError: `bins` is below 1, the lengths differ, or a value is not from 0 to 1.
    """
    if bins < 1:
        raise UsageError(f"bins is {bins}; give a number from 1 on")
    _checked(probabilities, labels, probabilities=True)
    rows = sorted(zip(probabilities, map(bool, labels), strict=True))
    found: list[Bin] = []
    start = 0
    for number in range(1, bins + 1):
        end = number * len(rows) // bins
        if end <= start:
            continue
        while end < len(rows) and rows[end][0] == rows[end - 1][0]:
            end += 1
        part, n = rows[start:end], end - start
        positives = sum(label for _, label in part)
        mean = math.fsum(p for p, _ in part) / n
        found.append(Bin(part[0][0], part[-1][0], n, mean, positives / n, wilson(positives, n)))
        start = end
    return found


def expected_calibration_error(probabilities: Sequence[float], labels: Sequence[bool], bins: int = 10) -> float | None:
    """Mean over equal-mass bins of |confidence - frequency|, weighted by rows (Naeini et al., AAAI 2015).

    0 is calibrated. A finite sample never shows 0: with n rows, up to about 1/√n of it is chance. None without rows.

    Raises:
        UsageError: as `reliability_bins`.
    """
    found = reliability_bins(probabilities, labels, bins)
    if not found:
        return None
    return math.fsum(part.n * abs(part.confidence - part.frequency) for part in found) / len(labels)


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Agreement of two raters beyond chance: (observed - expected)/(1 - expected) (Cohen, EPM 20, 1960).

    1 is agreement, 0 is what chance gives. None without rows, or where both say the same one thing throughout.

    Raises:
        UsageError: the lengths differ.
    """
    if len(first) != len(second):
        raise UsageError(f"{len(first)} and {len(second)} ratings: give one of each rater for each row")
    n = len(first)
    ours, theirs = Counter(first), Counter(second)
    expected = sum(count * theirs[rating] for rating, count in ours.items())  # times n squared: exact in integers
    if expected == n * n:
        return None
    agreed = sum(one == other for one, other in zip(first, second, strict=True))
    return (agreed * n - expected) / (n * n - expected)
