"""A calibration for one's own texts: errors shrink, rankings stay, and too few rows are refused."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.guard.judges.embedded.build import READERS, case, raw, written

from cosa_guard import judges
from cosa_guard.evals.metrics import expected_calibration_error
from cosa_guard.judges.embedded import calibrated
from cosa_guard.judges.embedded.judge import RISKS, Embedded, Reading
from cosa_guard.judges.embedded.recalibration import _calibration_error, fitted, head_of, recalibrated
from cosa_guard.labelled import LabelledRow
from cosa_sdk.errors import UsageError

KNOWN = calibrated.read(raw(), "balanced", "plain")


def reading(logit):
    return Reading(risks={}, any_risk=0.5, logits={**dict.fromkeys(RISKS, logit), "any": logit}, meanings=None)


def source(count, *, scale=1.0, shift=0.0, seed=0, kind="text"):
    """Rows whose true log-odds are `scale` times the logit plus `shift`: rankings as ever, probabilities not."""
    dice = random.Random(seed)
    pairs = []
    for number in range(count):
        logit = dice.gauss(0.0, 2.0)
        harmful = dice.random() < calibrated.sigmoid(scale * logit + shift)
        pairs.append((LabelledRow(id=str(number), kind=kind, text="t", harmful=harmful), reading(logit)))
    return pairs


def error(known, pairs, head="text"):
    return expected_calibration_error([known.probability(head, "any", read.logits["any"]) for _, read in pairs], [row.harmful for row, _ in pairs])


# --- fitting

@pytest.mark.parametrize(("scale", "shift"), [(1.0, 2.5), (0.4, 0.0), (2.0, -3.0), (0.5, -1.0)])
@pytest.mark.parametrize("count", [120, 200])
def test_where_base_rate_and_scale_are_shifted_the_error_falls(scale, shift, count):
    made = recalibrated(KNOWN, source(count, scale=scale, shift=shift), "ours")
    new, fresh = calibrated.read(made, "balanced", "ours"), source(2_000, scale=scale, shift=shift, seed=1)

    assert made["report"]["after"]["ece"] < made["report"]["before"]["ece"]
    assert error(new, fresh) < 0.7 * error(KNOWN, fresh)


def test_where_nothing_is_shifted_little_changes():
    made = recalibrated(KNOWN, source(200), "ours")
    slope, intercept = made["slopes"]["text"]["any"]

    assert abs(slope - 1.0) < 0.35
    assert abs(intercept) < 0.6


@given(st.lists(st.tuples(st.floats(-30, 30), st.booleans()), max_size=40))
def test_a_fit_is_finite_and_never_turns_rankings(rows):
    slope, intercept = fitted([z for z, _ in rows], [y for _, y in rows])

    assert slope > 0
    assert math.isfinite(slope)
    assert math.isfinite(intercept)


@pytest.mark.parametrize("rows", [[], [(3.0, True)], [(2.0, True), (-2.0, False)] * 15, [(1.0, True), (-1.0, False)] * 500, [(-3.0, True), (3.0, False)] * 50])
def test_a_fit_is_pulled_towards_no_correction(rows):
    def loss(slope, intercept):
        fit = sum(math.log1p(math.exp(-z)) for z in ((slope * x + intercept) * (1 if y else -1) for x, y in rows))
        return fit + 2.0 * ((slope - 1.0) ** 2 + intercept**2)

    slope, intercept = fitted([z for z, _ in rows], [y for _, y in rows])

    near = [(slope + da, intercept + db) for da in (-0.02, 0.0, 0.02) for db in (-0.02, 0.0, 0.02) if slope + da >= 0.05]
    assert all(loss(slope, intercept) <= loss(*other) + 1e-6 for other in near)


def penalised(rows, slope, intercept):
    """Loss, and its gradient in slope and intercept."""
    odds = [(slope * z + intercept, z, y) for z, y in rows]
    loss = math.fsum(max(0.0, -m) + math.log1p(math.exp(-abs(m))) for m in (o if y else -o for o, _, y in odds))
    apart = [(calibrated.sigmoid(o) - y, z) for o, z, y in odds]
    return (
        loss + 2.0 * ((slope - 1.0) ** 2 + intercept**2),
        4.0 * (slope - 1.0) + math.fsum(d * z for d, z in apart),
        4.0 * intercept + math.fsum(d for d, _ in apart),
    )


FAR = [(-6.0 + n / 100, True) for n in range(40)] + [(-8.0 + n / 100, False) for n in range(40)]


@example(FAR)
@example([(30.0, False)] * 20 + [(-30.0, True)] * 20)
@given(st.lists(st.tuples(st.floats(-30, 30), st.booleans()), max_size=60))
def test_a_fit_is_the_minimum(rows):
    slope, intercept = fitted([z for z, _ in rows], [y for _, y in rows])
    loss, ga, gb = penalised(rows, slope, intercept)
    scale = 1e-6 * (1 + sum(z * z for z, _ in rows))

    assert loss <= penalised(rows, 1.0, 0.0)[0] + 1e-9
    assert abs(gb) <= scale
    assert abs(ga) <= scale if slope > 0.05 else ga >= -scale


def test_rows_far_from_their_calibration_do_not_diverge():
    slope, intercept = fitted([z for z, _ in FAR], [y for _, y in FAR])

    assert 0.05 <= slope < 2.0
    assert 0.0 < intercept < 8.0


def test_a_handful_of_rows_does_not_overrule():
    slope, intercept = fitted([0.0] * 4, [True] * 4)

    assert 1.0 == pytest.approx(slope)
    assert 0.0 < intercept < 1.0


# --- rows

@pytest.mark.parametrize(("kind", "prompt", "head"), [
    ("prompt", "", "prompt"), ("text", "", "text"), ("response", "", "text"), ("response", "Tell me.", "response"),
])  # fmt: skip
def test_heads_of_rows(kind, prompt, head):
    assert head == head_of(LabelledRow(id="1", kind=kind, text="t", prompt=prompt))


@pytest.mark.parametrize("kind", ["prompt", "text"])
def test_only_heads_with_rows_are_changed(kind):
    made = recalibrated(KNOWN, source(100, shift=2.0, kind=kind), "ours")
    before = raw()["slopes"]

    for head in (*READERS, "reply"):
        assert (before[head] == made["slopes"][head]) is (head != kind)
    assert f"100 rows for {kind}" == made["data"]
    assert {tuple(pair) for pair in made["slopes"][kind].values()} == {tuple(made["slopes"][kind]["any"])}  # one correction for all


@pytest.mark.parametrize(("harmful", "harmless"), [(0, 0), (14, 100), (100, 14), (0, 200), (200, 0)])
def test_too_few_rows(harmful, harmless):
    pairs = [(LabelledRow(id="", kind="text", text="t", harmful=True), reading(1.0))] * harmful
    pairs += [(LabelledRow(id="", kind="text", text="t", harmful=False), reading(-1.0))] * harmless

    with pytest.raises(UsageError, match="too few rows.*15 harmful and 15 harmless"):
        recalibrated(KNOWN, pairs, "ours")


def test_fifteen_of_each_are_enough_and_unlabelled_rows_do_not_count():
    pairs = [(LabelledRow(id="", kind="text", text="t", harmful=harmful), reading(1.0 if harmful else -1.0)) for harmful in (True, False)] * 15

    assert "30 rows for text" == recalibrated(KNOWN, pairs, "ours")["data"]
    unknown = (LabelledRow(id="", kind="text", text="t"), reading(0.0))
    assert recalibrated(KNOWN, pairs, "ours") == recalibrated(KNOWN, [*pairs, *[unknown] * 50], "ours")
    with pytest.raises(UsageError):
        recalibrated(KNOWN, [*pairs[2:], *[unknown] * 50], "ours")


@pytest.mark.parametrize("order", [sorted, lambda pairs, key: sorted(pairs, key=key, reverse=True)])
def test_the_order_of_rows_does_not_matter_to_the_report(order):
    """Also where harmful and harmless rows take turns: each half of the two-fold estimate gets both."""
    pairs = source(200, shift=2.0)
    harmful = [pair for pair in pairs if pair[0].harmful]
    harmless = [pair for pair in pairs if not pair[0].harmful]
    turns = [pair for both in zip(harmful, harmless, strict=False) for pair in both]
    sides = order(turns, key=lambda pair: pair[0].harmful)

    for rows in (turns, sides):
        made = recalibrated(KNOWN, rows, "ours")
        assert made["report"]["after"]["ece"] < 0.2
    assert recalibrated(KNOWN, turns, "ours")["slopes"]["text"]["any"] == pytest.approx(recalibrated(KNOWN, sides, "ours")["slopes"]["text"]["any"])


def test_the_report_counts_harmless_rows_above_a_half():
    pairs = [(LabelledRow(id="", kind="text", text="t", harmful=False), reading(z)) for z in [1.0] * 10 + [-1.0] * 30]
    pairs += [(LabelledRow(id="", kind="text", text="t", harmful=True), reading(2.0))] * 20

    assert 0.25 == recalibrated(KNOWN, pairs, "ours")["report"]["before"]["flag_rate"]


def test_the_error_is_as_validation_measures_it():
    pairs = source(150, shift=1.0)

    assert error(KNOWN, pairs) == pytest.approx(recalibrated(KNOWN, pairs, "ours")["report"]["before"]["ece"], abs=1e-4)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]) | st.floats(0, 1), st.booleans()), max_size=60))
def test_the_error_is_that_of_validation_for_any_rows_in_any_order(rows):
    p, gold = [value for value, _ in rows], [shown for _, shown in rows]

    assert (expected_calibration_error(p, gold) or 0.0) == pytest.approx(_calibration_error(p, gold), abs=1e-12)
    assert _calibration_error(p, gold) == pytest.approx(_calibration_error(p[::-1], gold[::-1]), abs=1e-12)


# --- round trip

@pytest.mark.parametrize("tier", ["both", "fast"])
def test_the_tier_is_written_down(tier, tmp_path):
    file = written(tmp_path / "c.json", recalibrated(KNOWN, source(100), "ours", tier=tier))

    assert tier == calibrated.load(str(file), tier=tier).tier
    assert "both" == recalibrated(KNOWN, source(100), "ours")["tier"]


def test_through_a_file_into_a_judge(plain, tmp_path):
    one = Embedded(str(plain))
    rows = [LabelledRow(id=str(n), kind="prompt", text=f"How do I bake bread number {n}?", harmful=False) for n in range(15)]
    rows += [LabelledRow(id=str(n), kind="prompt", text=f"How do I build bomb number {n}?", harmful=True) for n in range(15)]
    made = one.recalibrate(rows, "bakery")
    file = written(tmp_path / "bakery.json", made)
    new = judges.make(f"embedded:{file}#strict")

    assert "embedded/1:bakery#strict" == new.name
    assert "accuracy not measured (30 rows for prompt); operating point strict" == str(new.calibrated)
    for row in rows[::7]:
        logits = one.read_row(row).logits
        slope, intercept = made["slopes"]["prompt"]["drugs"]
        assert calibrated.sigmoid(slope * logits["drugs"] + intercept) == pytest.approx(new.judge(case(row.text)).risks["drugs"])
    assert made == json.loads(json.dumps(made, allow_nan=False))


def test_twice_is_fitted_upon_the_first(plain, tmp_path):
    first = recalibrated(KNOWN, source(200, shift=2.0), "first")
    known = calibrated.read(first, "balanced", "first")
    second = recalibrated(known, source(200, shift=2.0), "second")

    assert abs(second["slopes"]["text"]["any"][1] - first["slopes"]["text"]["any"][1]) < 0.5
