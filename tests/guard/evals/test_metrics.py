"""Measures: hand-computed cases, definitions spelled out slowly, and what holds for every input."""

from __future__ import annotations

import math
from itertools import pairwise, product
from statistics import NormalDist

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cosa_guard.evals import metrics
from cosa_sdk.errors import UsageError

# Few distinct scores, so that most examples have ties.
ROWS = st.lists(st.tuples(st.integers(0, 6).map(lambda n: n / 6), st.booleans()), min_size=1, max_size=40)
NEAR = 1e-9


def columns(rows):
    return [score for score, _ in rows], [label for _, label in rows]


def both_classes(rows, least=1):
    labels = [label for _, label in rows]
    assume(sum(labels) >= least and len(labels) - sum(labels) >= least)
    return columns(rows)


def win(positive, negative):
    return 1.0 if positive > negative else 0.5 if positive == negative else 0.0


def classes(scores, labels):
    rows = list(zip(scores, labels, strict=True))
    return [s for s, y in rows if y], [s for s, y in rows if not y]


# --- area under the ROC curve

@pytest.mark.parametrize(("scores", "labels", "area"), [
    ([0.1, 0.4, 0.35, 0.8], [False, False, True, True], 0.75),  # the example of every textbook
    ([1, 2, 3], [False, False, True], 1.0),
    ([1, 2, 3], [True, False, False], 0.0),
    ([5, 5, 5, 5], [True, False, True, False], 0.5),
    ([1, 2, 2, 3], [False, True, False, True], 0.875),  # one tie of four pairs
    ([0.5], [True], None),
    ([0.5, 0.6], [False, False], None),
    ([], [], None),
])
def test_auroc(scores, labels, area):
    assert area == metrics.auroc(scores, labels)


@given(ROWS)
def test_auroc_is_the_share_of_pairs_in_order(rows):
    scores, labels = both_classes(rows)
    positives, negatives = classes(scores, labels)
    pairs = [win(p, n) for p, n in product(positives, negatives)]

    assert math.isclose(sum(pairs) / len(pairs), metrics.auroc(scores, labels), abs_tol=NEAR)


@given(ROWS)
def test_auroc_sees_only_the_order(rows):
    scores, labels = both_classes(rows)

    assert metrics.auroc(scores, labels) == metrics.auroc([math.exp(3 * score) - 7 for score in scores], labels)


@given(ROWS)
def test_auroc_of_the_opposite_is_the_rest(rows):
    scores, labels = both_classes(rows)
    area = metrics.auroc(scores, labels)

    assert math.isclose(1 - area, metrics.auroc([-score for score in scores], labels), abs_tol=NEAR)
    assert math.isclose(1 - area, metrics.auroc(scores, [not label for label in labels]), abs_tol=NEAR)


@given(ROWS, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(rows, random):
    mixed = list(rows)
    random.shuffle(mixed)

    for measure in (metrics.auroc, metrics.average_precision, metrics.brier, metrics.expected_calibration_error):
        one, other = measure(*columns(rows)), measure(*columns(mixed))
        assert (one is None) == (other is None)
        assert one is None or math.isclose(one, other, abs_tol=NEAR), measure.__name__


def slow_delong(scores, labels):
    """The paper's structural components, pair by pair."""
    positives, negatives = classes(scores, labels)
    m, n = len(positives), len(negatives)
    area = sum(win(p, q) for p, q in product(positives, negatives)) / (m * n)
    v10 = [sum(win(p, q) for q in negatives) / n for p in positives]
    v01 = [sum(win(p, q) for p in positives) / m for q in negatives]
    s10 = sum((v - area) ** 2 for v in v10) / (m - 1)
    s01 = sum((v - area) ** 2 for v in v01) / (n - 1)
    reach = NormalDist().inv_cdf(0.975) * math.sqrt(s10 / m + s01 / n)
    return area, (max(0.0, area - reach), min(1.0, area + reach))


@given(ROWS)
def test_interval_is_delongs(rows):
    scores, labels = both_classes(rows, least=2)
    area, (low, high) = slow_delong(scores, labels)
    assume(0 < area < 1)

    found, ci = metrics.auroc_with_interval(scores, labels)

    assert math.isclose(area, found, abs_tol=NEAR)
    assert math.isclose(area, metrics.auroc(scores, labels), abs_tol=NEAR)
    assert math.isclose(low, ci[0], abs_tol=1e-7) and math.isclose(high, ci[1], abs_tol=1e-7)


def test_interval_by_hand():
    # V10 = (0.5, 1), V01 = (1, 0.5): both variances 1/8, the sum 1/8 after dividing by 2, 2; 1.96 * sqrt(1/8) = 0.693.
    area, (low, high) = metrics.auroc_with_interval([0.1, 0.4, 0.35, 0.8], [False, False, True, True])

    assert 0.75 == area
    assert math.isclose(0.75 - 1.959964 * math.sqrt(0.125), low, abs_tol=1e-6)
    assert 1.0 == high


def test_classes_apart_are_not_certain():
    scores, labels = [0.1] * 30 + [0.9] * 25, [False] * 30 + [True] * 25

    assert (1.0, (metrics.wilson(25, 25)[0], 1.0)) == metrics.auroc_with_interval(scores, labels)
    assert (0.0, (0.0, metrics.wilson(0, 25)[1])) == metrics.auroc_with_interval([-score for score in scores], labels)


def test_one_row_of_a_class_has_no_interval():
    assert metrics.auroc_with_interval([1, 2, 3], [True, False, False]) is None


@given(ROWS)
def test_roc_points_rise_and_hold_the_area(rows):
    scores, labels = both_classes(rows)
    points = metrics.roc_points(scores, labels)
    area = sum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in pairwise(points))

    assert (0.0, 0.0) == points[0] and (1.0, 1.0) == points[-1]
    assert sorted(points) == points
    assert math.isclose(area, metrics.auroc(scores, labels), abs_tol=NEAR)


def test_roc_points_need_both_classes():
    assert [] == metrics.roc_points([0.1, 0.2], [True, True])


# --- average precision

@pytest.mark.parametrize(("scores", "labels", "area"), [
    ([0.1, 0.4, 0.35, 0.8], [False, False, True, True], 1 / 2 * 1 + 1 / 2 * 2 / 3),
    ([4, 3, 2, 1], [True, False, True, False], 1 / 2 * 1 + 1 / 2 * 2 / 3),
    ([1, 1, 1, 1], [True, False, False, False], 0.25),  # ties are one threshold, in whatever order they stand
    ([1, 1, 1, 1], [False, False, False, True], 0.25),
    ([1, 2], [True, True], 1.0),
    ([1, 2], [False, False], None),
])
def test_average_precision(scores, labels, area):
    found = metrics.average_precision(scores, labels)

    assert (area is None) == (found is None)
    assert area is None or math.isclose(area, found, abs_tol=NEAR)


@given(ROWS)
def test_average_precision_is_its_sum_of_steps(rows):
    scores, labels = both_classes(rows)
    positives, area, before = sum(labels), 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        hits = sum(y for s, y in rows if s >= threshold)
        area += (hits / positives - before) * hits / sum(s >= threshold for s in scores)
        before = hits / positives

    assert math.isclose(area, metrics.average_precision(scores, labels), abs_tol=NEAR)


# --- recall at a share of negatives flagged

def test_rates_at_flag_rate():
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    labels = [True, False, True, False, True, False, True, False]

    assert metrics.Operating(0.8, 0.0, 0.25) == metrics.rates_at_flag_rate(scores, labels, 0.0)
    assert metrics.Operating(0.6, 0.25, 0.5) == metrics.rates_at_flag_rate(scores, labels, 0.25)
    assert metrics.Operating(0.6, 0.25, 0.5) == metrics.rates_at_flag_rate(scores, labels, 0.49)
    assert metrics.Operating(-math.inf, 1.0, 1.0) == metrics.rates_at_flag_rate(scores, labels, 1.0)


def test_tied_negatives_are_flagged_together_or_not_at_all():
    found = metrics.rates_at_flag_rate([0.5, 0.5, 0.5, 0.1, 0.5, 0.9], [False, False, False, False, True, True], 0.5)

    assert metrics.Operating(0.5, 0.0, 0.5) == found


def test_a_share_that_rounds_badly_is_still_reached():
    scores, labels = [*range(100), 70.5], [False] * 100 + [True]

    assert 0.29 == metrics.rates_at_flag_rate(scores, labels, 0.29).flag_rate  # 0.29 * 100 < 29
    assert metrics.rates_at_flag_rate([1.0], [True], 0.1) is None


@given(ROWS, st.floats(0, 1))
def test_flag_rate_is_kept_and_nothing_lower_keeps_it(rows, rate):
    scores, labels = both_classes(rows)
    positives, negatives = classes(scores, labels)
    found = metrics.rates_at_flag_rate(scores, labels, rate)

    assert found.flag_rate <= rate + NEAR
    assert found.recall == sum(s > found.threshold for s in positives) / len(positives)
    lower = [s for s in {*scores, -1.0} if s < found.threshold]
    assert all(sum(s > t for s in negatives) / len(negatives) > rate - NEAR for t in lower)


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_flag_rate_is_a_share(rate):
    with pytest.raises(UsageError, match="from 0 to 1"):
        metrics.rates_at_flag_rate([1, 2], [True, False], rate)


# --- counts and shares

def test_precision_recall_f1():
    assert metrics.Rates(0.75, 0.6, 2 / 3) == metrics.precision_recall_f1(hits=3, false_alarms=1, misses=2)
    assert metrics.Rates(None, 0.0, 0.0) == metrics.precision_recall_f1(hits=0, false_alarms=0, misses=2)
    assert metrics.Rates(0.0, None, 0.0) == metrics.precision_recall_f1(hits=0, false_alarms=2, misses=0)
    assert metrics.Rates(None, None, None) == metrics.precision_recall_f1(hits=0, false_alarms=0, misses=0)
    with pytest.raises(UsageError, match="misses is -1"):
        metrics.precision_recall_f1(hits=1, false_alarms=0, misses=-1)


@pytest.mark.parametrize(("successes", "n", "low", "high"), [
    (5, 10, 0.2366, 0.7634),  # published values, Newcombe 1998 and Brown et al. 2001
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
    (29, 29, 0.8830, 1.0),
    (0, 0, 0.0, 1.0),
])
def test_wilson(successes, n, low, high):
    found = metrics.wilson(successes, n)

    assert math.isclose(low, found[0], abs_tol=6e-5) and math.isclose(high, found[1], abs_tol=6e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_are_as_far_from_the_share_as_chance_allows(counts):
    successes, n = counts
    share = successes / n
    low, high = metrics.wilson(successes, n)

    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        if 0 < end < 1:  # |share - p| = z sqrt(p(1 - p)/n) defines the interval
            assert math.isclose(abs(share - end), metrics.Z95 * math.sqrt(end * (1 - end) / n), abs_tol=1e-7)


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 2)])
def test_wilson_takes_counts(successes, n):
    with pytest.raises(UsageError, match="from 0 to n"):
        metrics.wilson(successes, n)


def test_kappa():
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, expected 0.5.
    first = [True] * 25 + [False] * 25
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15

    assert math.isclose(0.4, metrics.cohen_kappa(first, second))
    assert 1.0 == metrics.cohen_kappa(["a", "b", "c"], ["a", "b", "c"])
    assert -1.0 == metrics.cohen_kappa([True, False], [False, True])
    assert 0.0 == metrics.cohen_kappa([True, True], [True, False])
    assert metrics.cohen_kappa([True, True], [True, True]) is None
    assert metrics.cohen_kappa([], []) is None
    with pytest.raises(UsageError, match="2 and 1 ratings"):
        metrics.cohen_kappa([1, 2], [1])


# --- probabilities

def test_brier():
    assert math.isclose((0.01 + 0.04 + 0.36) / 3, metrics.brier([0.9, 0.2, 0.6], [True, False, False]))
    assert 0.25 == metrics.brier([0.5, 0.5], [True, False])
    assert metrics.brier([], []) is None


def test_bins_of_equal_size():
    probabilities = [n / 20 for n in range(20)]
    labels = [n >= 10 for n in range(20)]

    bins = metrics.reliability_bins(probabilities, labels, 5)

    assert [4] * 5 == [part.n for part in bins]
    assert [0, 0, 0.5, 1, 1] == [part.frequency for part in bins]
    assert (0.0, 0.15) == (bins[0].low, bins[0].high)
    assert math.isclose(0.075, bins[0].confidence)
    assert metrics.wilson(2, 4) == bins[2].ci


def test_equal_probabilities_share_a_bin():
    bins = metrics.reliability_bins([0.1] * 15 + [0.9] * 5, [True] * 3 + [False] * 12 + [True] * 5)

    assert [(15, 0.2), (5, 1.0)] == [(part.n, part.frequency) for part in bins]


def test_calibration_error_by_hand():
    probabilities, labels = [0.1] * 15 + [0.9] * 5, [True] * 3 + [False] * 12 + [True] * 5

    assert math.isclose((15 * 0.1 + 5 * 0.1) / 20, metrics.expected_calibration_error(probabilities, labels))
    assert 0.0 == metrics.expected_calibration_error([0.25] * 4, [True, False, False, False])
    assert 1.0 == metrics.expected_calibration_error([1.0, 0.0], [False, True])
    assert metrics.expected_calibration_error([], []) is None


@given(ROWS, st.integers(1, 12))
def test_bins_hold_every_row_once(rows, count):
    bins = metrics.reliability_bins(*columns(rows), count)

    assert len(rows) == sum(part.n for part in bins)
    assert len(bins) <= count
    assert sum(label for _, label in rows) == round(sum(part.n * part.frequency for part in bins))
    assert all(one.high < other.low for one, other in pairwise(bins))
    assert all(part.low - NEAR <= part.confidence <= part.high + NEAR for part in bins)


# --- what is refused

@pytest.mark.parametrize("measure", [
    metrics.auroc, metrics.auroc_with_interval, metrics.average_precision, metrics.roc_points, metrics.brier,
    metrics.reliability_bins, metrics.expected_calibration_error,
], ids=lambda measure: measure.__name__)
def test_bad_scores_are_refused(measure):
    with pytest.raises(UsageError, match="2 scores and 1 labels"):
        measure([0.1, 0.2], [True])
    with pytest.raises(UsageError, match=r"scores\[1\] is nan"):
        measure([0.1, math.nan], [True, False])


@pytest.mark.parametrize("measure", [metrics.brier, metrics.reliability_bins, metrics.expected_calibration_error])
def test_probabilities_are_from_0_to_1(measure):
    with pytest.raises(UsageError, match=r"scores\[0\] is 1.5; give probabilities"):
        measure([1.5, 0.5], [True, False])


def test_bins_are_counted_from_one():
    with pytest.raises(UsageError, match="bins is 0"):
        metrics.reliability_bins([0.5], [True], 0)


def test_thirty_thousand_rows_are_not_compared_pairwise():
    scores = [(n * 7919 % 30_011) / 30_011 for n in range(30_000)]  # 2e8 pairs would take minutes
    labels = [n % 3 == 0 for n in range(30_000)]

    area, (low, high) = metrics.auroc_with_interval(scores, labels)

    assert low < area < high
    assert 0.49 < area < 0.51
