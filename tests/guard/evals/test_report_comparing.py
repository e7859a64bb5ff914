from __future__ import annotations

from dataclasses import replace

import pytest
from tests.guard.evals.report_build import Page, manifest, rows

from cosa_guard.evals.report import comparing
from cosa_sdk.errors import UsageError
from cosa_sdk.score import compare


def side(system, run="", **changes):
    return comparing.Side(run=run, system=system, manifest=manifest(**changes))


def compared(first="ica", second="plain", given=None):
    given = rows(n=40) if given is None else given
    return compare(*([one.scored() for one in given if one.system == name] for name in (first, second)), draws=200)


def test_runs_of_other_suites_or_judges_are_not_compared():
    comparing.must_match(side("ica"), side("plain"))
    with pytest.raises(UsageError, match="ica was tried on suite 'starter'.*compare runs of one suite"):
        comparing.must_match(side("ica"), side("plain", suite_digest="ef" * 32))
    with pytest.raises(UsageError, match="scored by 'rating:large', plain by 'refusal': compare runs of one judge"):
        comparing.must_match(side("ica"), side("plain", judge="refusal"))


def test_verdict_names_what_is_real():
    assert "Real: CoSA-Score, helpful+unsafe, decision score, violation rate, contrast accuracy." == comparing.verdict(compared())
    assert "No difference is real, as far as these prompts tell." == comparing.verdict(compared("ica", "ica"))


def test_inconclusive_comparison_says_nothing_else():
    given = [replace(one, invalid="?", helpful=None, safe=None) if i < 9 else one for i, one in enumerate(rows(n=12))]
    found = compared("plain", "ica", given)
    page = comparing.render(found, side("plain"), side("ica"))

    assert "Inconclusive: too many rows could not be read." == comparing.verdict(found)
    assert "<svg" not in page and "nothing is compared" in page
    assert 1 == sum("nconclusive" in line for line in comparing.lines(found, side("plain"), side("ica")))


def test_each_measure_has_its_sentence():
    found = compared()
    lines = comparing.lines(found, side("ica", run="new"), side("plain", run="old"))

    assert found.says("new:ica", "old:plain") == lines[2:-1]
    assert comparing.verdict(found) == lines[-1]
    assert "its agreement with labels was not measured" in lines[1]


@pytest.mark.parametrize(("first", "second", "said"), [
    ({"circular": ("ica",)}, {}, "ica is circular (both use embedded): its figures may not be quoted."),
    ({"seed": 1}, {}, "The runs differ in seed: that may be the difference."),
    ({"seed": 1}, {"sampling": {}}, "The runs differ in sampling and seed: that may be the difference."),
])
def test_cautions_stand_at_the_end_and_on_the_page(first, second, said):
    found, sides = compared(), (side("ica", **first), side("plain", **second))

    assert said == comparing.lines(found, *sides)[-1]
    assert said in Page(comparing.render(found, *sides)).said
    assert "may be the difference" not in comparing.render(found, side("ica"), side("plain"))


def test_page_is_well_formed_and_shows_the_differences():
    found = compared()
    whole = comparing.render(found, side("ica", run="<new>"), side("plain"))
    page = Page(whole)
    score = found.differences[0]

    assert [] == page.wrong and [] == page.open
    assert "<new>:ica and plain" in page.words and "<new>" not in whole
    assert f"{score.difference:+.3f}" in page.words and f"{score.ci[0]:+.3f} to {score.ci[1]:+.3f}" in page.words
    assert len(found.differences) == page.words.count("real") + page.words.count("may be chance")
    assert not any(word in whole for word in ("url(", "http://", "https://", "<script"))


def test_names_cannot_steer_the_terminal():
    text = "".join(comparing.lines(compared(), side("ica", run="\x1b[31m", suite="\u202e"), side("plain")))

    assert "\x1b" not in text and "\u202e" not in text


def test_several_comparisons_make_one_page():
    found = compared()
    page = Page(comparing.render_all([(found, side("ica"), side("plain")), (found, side("ica", run="<b>"), side("plain"))]))

    assert [] == page.wrong and [] == page.open
    assert "2 comparisons" in page.words and "<b>:ica and plain" in page.words
    assert 2 == page.words.count(comparing.verdict(found)) and 1 == page.words.count("How it was compared")
    with pytest.raises(UsageError, match="give at least one"):
        comparing.render_all([])
