"""Thresholds from out-of-fold answers: what they promise about shares holds on the rows that set them."""

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("torch")
pytest.importorskip("sklearn")
from cosa_training.judge import calibrate as made  # noqa: E402
from cosa_training.judge.sources import RISKS, Row  # noqa: E402


def rows_of(source, count, risks=()):
    return [Row(f"{source}-{n}", source, "prompt", "A text.", risks=frozenset(risks)) for n in range(count)]


HARMLESS = rows_of("easy", 400) + rows_of("hard", 100)
RISKY = rows_of("one", 200, {"drugs"}) + rows_of("two", 100, {"violence"})
ROWS = HARMLESS + RISKY


def probabilities():
    """Each risk a little higher where it is, and higher altogether in the hard source."""
    rng = np.random.default_rng(0)
    lift = np.array([0.15 * (row.source == "hard") for row in ROWS])
    p = {risk: np.clip(rng.uniform(0, 0.6, len(ROWS)) + lift + [0.35 * (risk in row.risks) for row in ROWS], 0, 1) for risk in RISKS}
    return p | {"any": np.max(list(p.values()), axis=0)}


@pytest.mark.parametrize("flagged", [0.04, 0.2])
def test_few_harmless_rows_are_flagged_as_a_mean_over_sources(flagged):
    p = probabilities()
    bounds = made._bounds(p, ROWS, made._Point(flagged, 0.1, 0.2))
    found = np.any([p[name] >= bounds[name][1] for name in bounds], axis=0)
    sources = np.array([row.source for row in ROWS])
    shares = [found[sources == source].mean() for source in ("easy", "hard")]

    assert {*RISKS, "any"} == set(bounds)
    assert np.mean(shares) <= flagged + 0.005  # thresholds are rounded
    assert found[len(HARMLESS) :].mean() > np.mean(shares)


def test_few_risky_rows_count_as_clear_and_thresholds_never_cross():
    p = probabilities()
    bounds = made._bounds(p, ROWS, made._Point(0.1, 0.05, 0.25))
    risky = p["any"][len(HARMLESS) :]
    shares = [(risky[:200] < bounds["any"][0]).mean(), (risky[200:] < bounds["any"][0]).mean()]

    assert np.mean(shares) <= 0.26  # thresholds are rounded
    assert all(0 <= low <= high for low, high in bounds.values())


def test_platt_follows_the_shares_and_needs_rows():
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 2, 2000)
    gold = rng.random(2000) < 1 / (1 + np.exp(-(0.5 * logit - 1)))
    slope, intercept = made.platt(logit, gold, np.ones(2000))

    assert abs(slope - 0.5) < 0.15
    assert abs(intercept + 1) < 0.2
    assert made.platt(logit[:60], gold[:60] & False, np.ones(60)) == (1.0, 0.0)


def test_missing_answers_are_named(tmp_path):
    with pytest.raises(SystemExit, match=r"cosa_training\.judge\.measure"):
        made.answers_of(ROWS, tmp_path)
