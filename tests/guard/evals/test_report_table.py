from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from tests.guard.evals.report_build import manifest, rows, summaries, view

from cosa_guard.evals.report import table


def shown(given=None, *, width=80, terminal=False, **changes):
    seen = view(given, **changes)
    out = io.StringIO()
    table.show(seen.manifest, seen.summaries, Console(file=out, width=width, force_terminal=terminal))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_table_fits_its_width(width):
    given = rows(systems=("plain", "ica", "ica-5shot over a long name", "adapter:cosalign+guard"))
    lines = shown(given, width=width, circular=("ica",)).partition("Suite ")[0].splitlines()

    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)


def test_each_measure_stands_with_its_interval():
    seen = view()
    ica = seen.summaries["ica"]
    wide, narrow = shown(width=140), shown()

    assert f"{ica.cosa_score:.3f}" in wide and f"{ica.cosa_score:.3f}" in narrow
    assert f"{ica.ci[0]:.2f}–{ica.ci[1]:.2f}" in wide
    assert f"{ica.ci[0]:.2f}–{ica.ci[1]:.2f}".replace("0.", ".") in narrow


@pytest.mark.parametrize(("ci", "wide", "narrow"), [
    ((0.284, 0.413), "0.28–0.41", ".28–.41"), ((-0.2, 0.1), "-0.20 to 0.10", "-.20–.10"), ((0.9, 1.0), "0.90–1.00", ".90–1.00"), ((-0.001, 0.1), "0.00–0.10", ".00–.10"),
])
def test_intervals_are_told_apart_from_minus_signs(ci, wide, narrow):
    assert wide == table._within(ci, wide=True)
    assert narrow == table._within(ci, wide=False)


def test_without_a_terminal_the_table_is_plain_text():
    assert "\x1b" not in shown()
    assert "\x1b" in shown(terminal=True)


def test_names_cannot_steer_the_terminal():
    given = rows(systems=("a\x1b[31mb",))
    text = shown(given, suite="[bold]s\nt[/bold]", judge="\u202ej")

    assert "\x1b" not in text and "\u202e" not in text
    assert "[bold]s\\nt[/bold]" in text
    assert "a\\x1b[31mb" in text


def test_without_a_judge_only_decisions_are_shown_and_why():
    text = shown(rows(judged=False))

    assert "CoSA " not in text and "h+s" not in text
    assert "No CoSA-Score: it needs a judge of help and safety" in text


def test_systems_are_marked_and_marks_are_explained():
    given = [replace(one, invalid="?", helpful=None, safe=None) if one.system == "plain" and i < 9 else one for i, one in enumerate(rows())]
    text = shown(given, circular=("ica",))

    assert "plain ?" in text and "ica *" in text
    assert "* circular: not to be quoted." in text and "? inconclusive" in text
    assert "both use embedded" in text


def test_marks_are_explained_only_where_they_stand():
    text = shown()

    assert "circular" not in text and "inconclusive" not in text


def test_claims_that_hold_for_all_are_said_once():
    lines = table.notes(view())

    assert 1 == sum("claims about a score need 400" in line for line in lines)
    assert "all systems: 24 rows: claims about a score need 400 or more." in lines


def test_lines_of_constant_policies_stand_below():
    never = view().summaries["ica"].decision_lines["never"]

    assert f"never refusing has {never:.3f}, always refusing 0.000" in shown()


def test_systems_stand_in_the_order_of_the_run():
    given = rows()
    seen = manifest(("ica", "plain"))
    out = io.StringIO()
    table.show(seen, summaries(given), Console(file=out, width=80))

    assert out.getvalue().index("ica ") < out.getvalue().index("plain ")
