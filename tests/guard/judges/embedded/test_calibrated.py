"""Calibration files: what is shipped is whole, and what is broken is named."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.guard.judges.embedded.build import READERS, raw, written

from cosa_guard.judges.embedded.calibrated import POINTS, load, read, shipped, sigmoid
from cosa_guard.judges.embedded.judge import RISKS
from cosa_sdk.errors import UsageError

FINITE = st.floats(-1e6, 1e6)


def changed(path, value):
    """A calibration with one part replaced, or removed where the value is None."""
    content = json.loads(json.dumps(raw()))
    *way, last = path
    inner = content
    for key in way:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return content


# --- what is shipped

@pytest.mark.parametrize("point", [None, *POINTS])
def test_the_shipped_file_is_valid_at_every_point(point):
    found = load(point)

    assert (point or "balanced") == found.point
    assert "shipped" == found.name
    assert {*READERS} == set(found.thresholds) == set(found.sure)
    assert {*READERS, "reply"} == set(found.slopes)
    for head in READERS:
        assert {*RISKS, "any"} == set(found.thresholds[head])
        assert all(0.0 <= bounds.low <= bounds.high <= 1.0 for bounds in found.thresholds[head].values())
    assert all(0.0 < threshold < 1.0 for threshold in found.floor.values())
    assert {"floor.minors", "floor.mass_harm", "beside"} == set(found.floor)


def test_strict_flags_what_balanced_flags_and_balanced_what_permissive_flags():
    strict, balanced, permissive = (load(point).thresholds for point in ("strict", "balanced", "permissive"))

    for head in READERS:
        for risk in RISKS:
            highs = [point[head][risk].high for point in (strict, balanced, permissive)]
            assert sorted(highs) == highs


def test_what_people_read_names_data_and_point(plain):
    assert "accuracy not measured (nothing); operating point strict" == str(load(f"{plain}#strict"))
    assert "AUROC 0.9 (nothing); operating point balanced" == str(read(raw(measured="AUROC 0.9"), "balanced", "x"))


# --- probabilities

@given(FINITE, FINITE, st.sampled_from(READERS), st.sampled_from([*RISKS, "any"]))
def test_a_higher_logit_is_never_less_likely(one, other, head, name):
    known = load(None)
    low, high = sorted([one, other])

    assert 0.0 <= known.probability(head, name, low) <= known.probability(head, name, high) <= 1.0


@given(FINITE)
def test_sigmoid(z):
    assert abs(sigmoid(z) + sigmoid(-z) - 1.0) < 1e-12
    assert 0.5 == sigmoid(0.0)


def test_slope_and_intercept():
    known = read(changed(["slopes", "text", "drugs"], [2, -1]), "balanced", "x")

    assert sigmoid(5.0) == known.probability("text", "drugs", 3.0)
    assert sigmoid(3.0) == known.probability("text", "weapons", 3.0)


# --- files

@pytest.mark.parametrize("point", POINTS)
def test_a_file_at_a_point(plain, point):
    found = load(f"{plain}#{point}")

    assert ("plain", point) == (found.name, found.point)
    assert raw()["points"][point]["text"]["drugs"] == [found.thresholds["text"]["drugs"].low, found.thresholds["text"]["drugs"].high]


def test_a_file_without_a_point_is_balanced(plain):
    assert load(f"{plain}#balanced") == load(str(plain)) == load(f"{plain}#")


def test_a_file_may_have_the_mark_in_its_name(tmp_path):
    path = written(tmp_path / "run#7.json")

    assert "balanced" == load(str(path)).point
    assert "strict" == load(f"{path}#strict").point


@pytest.mark.parametrize("argument", ["nonsense", "", "Balanced", "strict ", "#strict", "no-such.json", "no-such.json#strict", ".", "x" * 5_000, "a\0b"])
def test_neither_a_point_nor_a_file(argument):
    with pytest.raises(UsageError, match="balanced, strict, permissive.*cosa judge calibrate"):
        load(argument)


def test_an_unknown_point_of_a_file(plain):
    with pytest.raises(UsageError, match="no operating point 'sharp'; choices: balanced, strict, permissive") as caught:
        load(f"{plain}#sharp")

    assert str(plain) in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"not json", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json(tmp_path, data):
    path = tmp_path / "c.json"
    path.write_bytes(data)

    with pytest.raises(UsageError, match="not a calibration file") as caught:
        load(str(path))

    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [None, 5, [], {}, "x", {"format": "cosa-embedded-calibration-2"}, {"format": None}, {"points": {}}])
def test_another_file(tmp_path, content):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content), "utf-8")

    with pytest.raises(UsageError, match="is no calibration of the embedded judge; make one with `cosa judge calibrate`"):
        load(str(path))


@pytest.mark.parametrize(("path", "value"), [
    *(([key], None) for key in ("name", "data", "slopes", "points", "floor", "weak", "sure")),
    *(([key], value) for key in ("slopes", "points", "floor", "weak", "sure") for value in (5, "x", [1])),
    (["slopes", "text"], None),
    (["slopes", "reply"], None),
    (["slopes", "reply", "refused"], None),
    (["slopes", "response", "any"], None),
    (["slopes", "prompt", "drugs"], None),
    (["slopes", "prompt", "drugs"], 1),
    (["slopes", "prompt", "drugs"], [1, 2, 3]),
    (["slopes", "prompt", "drugs"], ["a", "b"]),
    (["slopes", "prompt", "drugs"], [float("nan"), 0]),
    (["slopes", "prompt", "drugs"], [1, float("inf")]),
    (["slopes", "prompt", "drugs"], [-1, 0]),
    (["slopes", "prompt", "drugs"], [0, 0]),
    (["slopes", "prompt", "any"], [0, 0]),
    (["slopes", "text", "any"], [-1, 0]),
    (["slopes", "reply", "refused"], [float("nan"), 0]),
    (["points", "balanced"], 5),
    (["points", "balanced", "text"], None),
    (["points", "balanced", "text", "sexual"], None),
    (["points", "balanced", "text", "sexual"], [0.5]),
    (["points", "balanced", "text", "sexual"], [0.5, 0.4]),
    (["points", "balanced", "text", "sexual"], [0.5, float("nan")]),
    (["floor", "floor.minors"], None),
    (["floor", "floor.minors"], "x"),
    (["floor", "beside"], None),
    (["weak", "found"], None),
    (["weak", "slope"], float("nan")),
    (["weak", "slope"], 0),
    (["weak", "slope"], -10),
    (["weak", "absent"], 0.95),
    (["weak", "found"], 0.05),
    (["tier"], "slow"),
    (["tier"], ["both"]),
    (["sure", "prompt"], None),
    (["sure", "prompt"], [1]),
    (["sure", "prompt"], 10**400),
])
def test_a_damaged_file(tmp_path, path, value):
    file = written(tmp_path / "c.json", changed(path, value))

    with pytest.raises(UsageError, match="c.json (is damaged|has no operating point)"):
        load(str(file))


@pytest.mark.parametrize(("written_down", "tier"), [({}, "both"), ({"tier": "both"}, "both"), ({"tier": "fast"}, "fast")])
def test_a_file_serves_the_tier_it_was_made_with(tmp_path, written_down, tier):
    file = written(tmp_path / "c.json", raw(**written_down))

    assert tier == load(str(file), tier=tier).tier
    other, names = ("fast" if tier == "both" else "both"), {"both": "embedded", "fast": "fast"}
    with pytest.raises(UsageError, match=f"made for the judge '{names[tier]}', not for '{names[other]}'.*cosa judge calibrate --judge {names[other]}"):
        load(f"{file}#strict", tier=other)


@pytest.mark.parametrize("point", [None, *POINTS])
def test_what_ships_serves_either(point):
    assert load(point, tier="fast") == load(point, tier="both")


def test_the_shipped_file_is_read_once():
    assert shipped() is shipped()
