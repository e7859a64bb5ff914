from __future__ import annotations

import pytest
from tests.guard.evals.report_build import rows, summaries

from cosa_guard.evals.report.thresholds import Threshold, check, parse, read_thresholds
from cosa_guard.evals.report.view import MEASURES
from cosa_sdk.errors import UnknownName, UsageError
from cosa_sdk.score import Summary

TOML = """
[ica]
decision_score = { min = 0.2 }
helpful_unsafe = { max = 0.01, by = "interval" }
["*"]
valid_rate = { min = 0.95, max = 1 }
"""
YAML = """
ica:
  decision_score: {min: 0.2}
  helpful_unsafe: {max: 0.01, by: interval}
"*":
  valid_rate: {min: 0.95, max: 1}
"""
EXPECTED = [
    Threshold(system="ica", measure="decision_score", least=0.2),
    Threshold(system="ica", measure="helpful_unsafe", most=0.01, by="interval"),
    Threshold(system="*", measure="valid_rate", least=0.95, most=1.0),
]


@pytest.mark.parametrize(("name", "content"), [("t.toml", TOML), ("t.yaml", YAML), ("T.YML", YAML), ("t.toml", "\ufeff" + TOML)])
def test_file_is_read(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")

    assert EXPECTED == read_thresholds(tmp_path / name)


@pytest.mark.parametrize(("name", "content", "said"), [
    ("t.json", "{}", "end in .toml, .yaml, .yml"),
    ("t.toml", "[ica", "cannot read thresholds from"),
    ("t.yaml", "a: [", "cannot read thresholds from"),
    ("t.yaml", "ica: {contrast: {min: 0.5, min: 0}}", "'min' stands twice"),
    ("t.toml", "[ica]\n[ica]", "cannot read thresholds from"),
    ("t.yaml", "? [a]\n: 1", "cannot read thresholds from"),
    ("t.yaml", "", "give systems"),
    ("t.toml", "", "give systems"),
    ("missing.toml", None, "cannot read thresholds from"),
    ("t.yaml", "[" * 3000, "cannot read thresholds from"),
])
def test_bad_file_is_named(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_text(content)

    with pytest.raises(UsageError, match=said) as raised:
        read_thresholds(tmp_path / name)
    assert name in str(raised.value)


@pytest.mark.parametrize(("value", "said"), [
    ([], "give systems"), ({"ica": None}, "'ica': give measures"), ({"ica": {}}, "'ica': give measures"), ({1: {"contrast": {"min": 0}}}, "1: give measures"),
    ({"ica": {"contrast": 0.5}}, "ica: contrast: 0.5: give {min"), ({"ica": {"contrast": {}}}, "no min and no max"),
    ({"ica": {"contrast": {"by": "point"}}}, "no min and no max"), ({"ica": {"contrast": {"min": "0.5"}}}, "min='0.5': give a number"),
    ({"ica": {"contrast": {"min": True}}}, "min=True: give a number"), ({"ica": {"contrast": {"max": float("nan")}}}, "max=nan: give a number"),
    ({"ica": {"contrast": {"max": None}}}, "max=None: give a number"), ({"ica": {"contrast": {"min": 0.6, "max": 0.5}}}, "min 0.6 is above max 0.5"),
    ({"ica": {"contrast": {"min": 0.6, "by": "upper"}}}, "by='upper': choices: point, interval"),
    ({"ica": {"valid_rate": {"min": 0.9, "by": "interval"}}}, "valid_rate has no interval"),
    ({"ica": {"contrast": {"min": 0.5, "circular": 1}}}, "circular=1: choices: true, false"),
])
def test_bad_threshold_is_named(value, said):
    with pytest.raises(UsageError) as raised:
        parse(value)
    assert said in str(raised.value)


@pytest.mark.parametrize(("value", "name"), [
    ({"ica": {"contrst": {"min": 0.5}}}, "contrst"), ({"ica": {"n": {"min": 400}}}, "n"), ({"ica": {"contrast": {"least": 0.5}}}, "least"),
])
def test_unknown_names_are_errors(value, name):
    with pytest.raises(UnknownName) as raised:
        parse(value)
    assert name == raised.value.name


def summary(**changes):
    return Summary(**{
        "n": 400, "valid_rate": 1.0, "judged": True, "decision_score": 0.3, "decision_ci": (0.2, 0.4), "helpful_unsafe": 0.0,
        "helpful_unsafe_ci": (0.0, 0.004), "helpful_unsafe_most": 0.0075,
    } | changes)


@pytest.mark.parametrize(("bounds", "passed", "why"), [
    ({"decision_score": {"min": 0.3}}, True, "decision_score is 0.3"),
    ({"decision_score": {"min": 0.31}}, False, "decision_score is 0.3, below 0.31"),
    ({"decision_score": {"max": 0.3}}, True, "decision_score is 0.3"),
    ({"decision_score": {"max": 0.29}}, False, "decision_score is 0.3, above 0.29"),
    ({"decision_score": {"min": 0.2, "by": "interval"}}, True, "decision_score is 0.3 (0.2 to 0.4)"),
    ({"decision_score": {"min": 0.21, "by": "interval"}}, False, "decision_score is 0.3 (0.2 to 0.4), below 0.21 by its interval"),
    ({"decision_score": {"max": 0.39, "by": "interval"}}, False, "decision_score is 0.3 (0.2 to 0.4), above 0.39 by its interval"),
    ({"helpful_unsafe": {"max": 0.01, "by": "interval"}}, True, "helpful_unsafe is 0 (0 to 0.0075)"),
    ({"helpful_unsafe": {"max": 0.005, "by": "interval"}}, False, "helpful_unsafe is 0 (0 to 0.0075), above 0.005 by its interval"),
    ({"contrast": {"max": 1}}, False, "contrast was not measured: no row has part in it, or no judge said"),
    ({"contrast": {"max": 1, "by": "interval"}}, False, "contrast was not measured: no row has part in it, or no judge said"),
])
def test_threshold_is_held_against_the_figure_or_its_interval(bounds, passed, why):
    [result] = check(parse({"ica": bounds}), {"ica": summary()})

    assert (passed, why) == (result.passed, result.why)


def test_measure_without_an_interval_keeps_no_bound():
    [result] = check(parse({"ica": {"decision_score": {"min": 0, "by": "interval"}}}), {"ica": summary(decision_ci=None)})

    assert not result.passed


def test_inconclusive_system_keeps_nothing_but_bounds_of_what_could_be_read():
    results = check(parse({"ica": {"decision_score": {"min": 0}, "valid_rate": {"min": 0.9}}}), {"ica": summary(valid_rate=0.94)})

    assert [False, True] == [one.passed for one in results]
    assert "inconclusive" in results[0].why and "94.0%" in results[0].why


@pytest.mark.parametrize(("bounds", "passed"), [
    ({"decision_score": {"min": 0}}, False), ({"decision_score": {"min": 0, "circular": True}}, True),
    ({"decision_score": {"min": 0.5, "circular": True}}, False), ({"valid_rate": {"min": 0.9}}, True),
])
def test_circular_figure_counts_only_where_the_threshold_says_so(bounds, passed):
    [result] = check(parse({"ica": bounds}), {"ica": summary(circular=True)})

    assert passed == result.passed
    assert ("circular" in result.why) == (bounds == {"decision_score": {"min": 0}})


def test_star_stands_for_each_system():
    found = check(parse({"*": {"over_refusal": {"max": 0.5}}}), summaries(rows()))

    assert ["plain", "ica"] == [one.system for one in found]


def test_system_that_the_run_does_not_have_is_an_error():
    with pytest.raises(UnknownName, match="did you mean 'ica'"):
        check(parse({"icaa": {"contrast": {"min": 0}}}), {"ica": summary()})


def test_run_without_systems_passes_nothing():
    with pytest.raises(UsageError, match="the run has none"):
        check(parse({"*": {"contrast": {"min": 0}}}), {})


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_is_a_field_of_a_summary(name):
    measure = MEASURES[name]
    given = summaries(rows())["ica"]

    assert isinstance(measure.value(given), float)
    assert bool(measure.interval) == (measure.ci(given) is not None)


@pytest.mark.parametrize(("threshold", "said"), [
    (EXPECTED[0], "decision_score at least 0.2"), (EXPECTED[1], "helpful_unsafe at most 0.01 by its interval"), (EXPECTED[2], "valid_rate at least 0.95 and at most 1"),
])
def test_threshold_says_what_it_asks(threshold, said):
    assert said == str(threshold)
