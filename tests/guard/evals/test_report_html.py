from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.guard.evals.report_build import Page, manifest, row, rows, summaries, view

from cosa_guard.evals.report import html, plots, reading
from cosa_guard.evals.report.page import cut, text


def render(given=None, **changes):
    seen = view(given, **changes)
    return html.render(seen.manifest, seen.rows, seen.summaries)


def test_page_is_well_formed_and_asks_for_nothing():
    whole = render()
    page = Page(whole)

    assert [] == page.wrong and [] == page.open
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & {tag for tag, _ in page.tags}
    assert not [attrs for _, attrs in page.tags if {"src", "onclick", "onload", "srcset"} & attrs.keys()]
    assert not [attrs["href"] for _, attrs in page.tags if not attrs.get("href", "#").startswith("#")]
    assert not any(word in whole for word in ("url(", "@import", "http://", "https://"))
    assert "default-src 'none'" in next(attrs["content"] for _, attrs in page.tags if "http-equiv" in attrs)


def test_every_link_leads_to_a_part_of_the_page():
    page = Page(render())
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]

    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for tag, attrs in page.tags if tag == "a"} <= set(ids)
    assert 7 == sum(tag == "a" for tag, _ in page.tags)


def test_page_shows_what_was_run_and_the_figures():
    seen = view()
    said = Page(html.render(seen.manifest, seen.rows, seen.summaries)).said
    ica = seen.summaries["ica"]

    assert "rating:large" in said and "its agreement with labels was not measured" in said
    assert f"{ica.cosa_score:.3f}" in said and f"{ica.ci[0]:.3f} to {ica.ci[1]:.3f}" in said
    assert f"{ica.decision_ceiling:.3f}" in said and f"at most {ica.helpful_unsafe_most:.3f}" in said
    assert "24 rows: claims about a score need 400 or more" in said
    assert "ab12ab12ab12" in said


@pytest.mark.parametrize(("facts", "said"), [
    ({}, "its agreement with labels was not measured"),
    ({"value": 0.9}, "its agreement with labels was not measured"),
    ({"value": True, "measure": "F1"}, "its agreement with labels was not measured"),
    ({"value": 0.9, "measure": "F1"}, "measured F1 0.900 on labelled rows"),
    ({"value": 0.71, "measure": "kappa", "n": 200, "on": "hand-read responses", "ci": [0.6, 0.8]},
     "measured kappa 0.710 [0.600, 0.800] on 200 rows of hand-read responses"),
])
def test_judge_stands_with_its_agreement(facts, said):
    assert said in Page(render(judge_facts=facts)).said


def test_without_a_judge_there_is_no_column_of_the_score_and_the_page_says_why():
    page = Page(render(rows(judged=False)))

    assert "There is no CoSA-Score here" in page.said
    assert "helpful+safe" not in page.said and "CoSA-Score by config" not in [attrs.get("aria-label") for _, attrs in page.tags]
    assert "decision score by config" in [attrs.get("aria-label") for _, attrs in page.tags]
    assert "CoSA-Score" not in page.words  # neither a column nor an axis
    assert "CoSA-Score" in Page(render()).words


def test_circular_and_inconclusive_systems_are_marked_and_explained():
    given = [replace(one, invalid="no verdict", helpful=None, safe=None) if one.system == "plain" and i < 9 else one for i, one in enumerate(rows())]
    page = Page(render(given, circular=("ica",)))
    badges = [word for word in page.words if word in {"circular", "inconclusive"}]

    assert ["inconclusive", "circular"] == badges
    assert "both use embedded; not to be quoted" in page.said
    assert "could be read, below 95%" in page.said
    assert 1 == page.words.count("bounds")  # of the system with rows that could not be read


def test_numbers_without_a_value_are_not_zero():
    given = [row(2), row(6)]  # safe prompts alone: nothing to violate, no twins
    page = Page(render(given))

    assert page.words.count("n/a") >= 2
    assert "None to count: no disallowed prompt has a response." in page.said


def test_answers_are_counted_by_config_type_and_system():
    given = [row(0, answer="answered"), row(4, answer="refused"), row(8, answer="refused"), row(1, answer=None, error="gone")]
    whole = render(given).partition('id="answers"')[2].partition("<h2")[0]

    assert [["1", "0", "2", "0", "0"], ["0", "0", "0", "0", "1"]] == [
        re.findall(r'<td class="(?:right|wrong)"[^>]*>(\d+)</td>', line) for line in whole.split("<tr>")[2:]
    ]


@pytest.mark.parametrize(("kind", "answer"), [("allowed", "answered"), ("safe", "answered"), ("disallowed", "refused"), ("partial", "partial")])
def test_what_the_config_asks_for_is_told_from_what_it_does_not(kind, answer):
    whole = render([row(0, type=kind, answer=answer), row(4, type=kind, answer="degenerate")]).partition('id="answers"')[2].partition("<h2")[0]

    assert [("right", "1")] == [cell for cell in re.findall(r'<td class="(right|wrong)"[^>]*>(\d+)</td>', whole) if cell[0] == "right"]
    assert 1 == whole.count('<td class="wrong" style="--p: 28">1</td>')


def test_violations_are_counted_by_each_risk_of_the_prompt():
    given = [
        row(1, risks=("violence", "weapons"), safe=False, helpful=1.0), row(5, risks=("violence",), safe=True, helpful=1.0),
        row(9, risks=("weapons",), safe=True, helpful=0.0), row(0, risks=("drugs",), safe=False, helpful=1.0), row(13, risks=None, safe=True, helpful=0.0),
        row(17, risks=(), safe=True, helpful=0.0),
    ]
    whole = render(given).partition('id="violations"')[2].partition("<h2")[0]

    assert [("violence", "1 of 2"), ("weapons", "1 of 2"), ("no risk", "0 of 1"), ("not told", "0 of 1")] == re.findall(r"<tr><td>([\w ]+)</td><td[^>]*>(\d of \d)", whole)


def test_rows_are_sorted_out_the_worst_first_and_each_once():
    given = [
        row(0), row(1, safe=False, helpful=0.2), row(5, safe=False, helpful=1.0), row(4, answer="refused", helpful=0.0, safe=True),
        row(2, answer="degenerate"), row(3, invalid="?"), row(6, error="gone", answer=None), row(9, answer="answered"), row(13, safe=False, helpful=0.0),
        row(7, answer="answered"), row(17, safe=True, helpful=0.6),
    ]
    found = reading.sorted_out(given)

    assert {
        "No response": ["film-6"], "The judge could not be read": ["film-3"], "Against the config": ["film-5", "film-1", "film-9", "film-7"],
        "Disallowed and answered; the judge finds it within the config": ["film-17"],
        "Allowed or safe, and refused": ["film-4"], "Degenerate": ["film-2"], "Others, a sample": ["film-0", "film-13"],
    } == {title: [one.item for one in kept] for title, kept in found.items()}


def test_every_figure_of_a_system_names_itself_for_narrow_windows():
    whole = render(rows())
    table = whole.partition('id="systems"')[2].partition("</table>")[0]
    heads = re.findall(r'<th class="num">([^<]+)</th>', table)

    assert heads[:3] == ["rows", "valid", "CoSA-Score"]
    assert [heads, heads] == [re.findall(r'data-name="([^"]+)"', line) for line in table.split("<tr>")[2:]]


def test_at_most_a_few_rows_of_a_kind_are_shown_and_the_sample_is_spread():
    given = [row(4 * n, answer="answered") for n in range(25)] + [row(4 * n + 1, answer="answered") for n in range(25)]
    section = reading.section(view(given))

    assert 2 * reading.MOST >= section.count("<h4>Prompt</h4>") > reading.MOST
    assert "8 of 25" in section
    assert "prompt 96" in section  # of the sample, near the end of the suite


def test_row_is_shown_with_all_that_was_said_of_it():
    given = [row(1, withheld="held back", judged={"compliance": "[[no]]"}, invalid="odd words", act="refuse", answer_why="a decline", judged_risks=("weapons",))]
    said = Page(reading.section(view(given))).said

    for words in ("held back", "[[no]]", "odd words", "guard refuse", "told apart by: a decline", "risks judged weapons", "prompt 1", "response 1", "film"):
        assert words in said


def test_long_texts_are_cut():
    whole = render([row(0, response="x" * 5000)])

    assert "x" * 2000 + "…" in whole and "x" * 2001 not in whole


@given(st.text(st.characters(), max_size=30))
@example("\ud83d")
@example("\x00</pre><script>")
@settings(max_examples=60, deadline=None)
def test_any_text_stays_text(words):
    name = f"<i>{words}&"
    given = [row(1, system=name, config=name, prompt=name, response=name, withheld=name, judged={name: name}, risks=(name,), answer_why=name, error=name, invalid=name)]
    whole = html.render(manifest((name,), circular=(name,), suite=name, judge=name, made=name, suite_source=name, settings={name: name}), given, summaries(given, draws=1))
    page = Page(whole)

    assert [] == page.wrong and [] == page.open
    assert "i" not in {tag for tag, _ in page.tags}
    assert b"<!doctype html>" == whole.encode()[:15]
    assert any(unescape(text(name)) == said for said in page.words)


@pytest.mark.parametrize(("given", "shown"), [
    ("a<b", "a&lt;b"), ('"\'', "&quot;&#x27;"), ("\ud83d", "?"), ("a\x00b\x1b", "a\ufffdb\ufffd"), ("a\n\tb", "a\n\tb"), ("é🙂", "é🙂"),
])
def test_text_is_escaped(given, shown):
    assert shown == text(given)


def test_text_is_cut_before_it_is_escaped():
    assert "&lt;&lt;…" == cut("<<<", 2)


def test_systems_have_marks_of_their_own():
    assert 12 == len({plots.mark(place, 0, 0) for place in range(12)})


def test_plots_say_their_figures():
    seen = view()
    cell = seen.summaries["ica"].by_config["film"]

    assert f"ica, film: {cell.cosa_score:.3f} [{cell.ci[0]:.3f}, {cell.ci[1]:.3f}]" in plots.by_config(seen)
    assert f"ica: helpful+unsafe {seen.summaries['ica'].helpful_unsafe:.3f}, helpful+safe {seen.summaries['ica'].helpful_safe:.3f}" in plots.scatter(seen)


def test_more_helpful_lies_higher_and_more_unsafe_further_right():
    seen = view()
    drawn = {name: (float(x), float(y)) for x, y, name in re.findall(r'(?:cx|x)="([\d.]+)" (?:cy|y)="([\d.]+)"[^>]*><title>(\w+): helpful', plots.scatter(seen))}
    plain, ica = seen.summaries["plain"], seen.summaries["ica"]

    assert plain.helpful_unsafe > ica.helpful_unsafe and drawn["plain"][0] > drawn["ica"][0]
    # `ica` is the second system: a square, whose corner is named.
    assert (round(46 + ica.helpful_unsafe * 362 - 4.5, 1), round(330 - ica.helpful_safe * 320 - 4.5, 1)) == drawn["ica"]
