"""A run in the terminal: a line for each system, intervals below the figures, and what may not be claimed of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cosa_guard.evals.report.view import Measure, View, judge_words, plain
from cosa_guard.evals.rows import Manifest
from cosa_sdk.score import Interval, Summary

__all__ = ["CIRCULAR", "INCONCLUSIVE", "grid", "notes", "show"]

CIRCULAR: Final = "*"
"""Stands behind the name of a system whose figures may not be quoted,"""
INCONCLUSIVE: Final = "?"
"""and of one of which too many rows could not be read."""
_WIDE: Final = 120
"""Columns of a terminal from which on there is room for full names."""


def show(manifest: Manifest, summaries: Mapping[str, Summary], console: Console | None = None) -> None:
    """Print the table and its notes.

    Args:
        console: standard output by default; its width decides what is shown.
    """
    view = View(manifest=manifest, rows=(), summaries=summaries)
    out = console or Console()
    out.print(grid(view, width=out.width))
    for line in notes(view):
        # Not wrapped where the output is a file: whoever reads that may search it for whole lines.
        out.print(Text(line), soft_wrap=not out.is_terminal)


def grid(view: View, *, width: int = 80) -> Table:
    """The table, for a terminal that has `width` columns."""
    wide = width >= _WIDE
    found = Table(box=SIMPLE_HEAD if wide else None, padding=(0, 1) if wide else (0, 1, 0, 0), pad_edge=False)
    found.add_column("system", overflow="fold", min_width=12)
    if wide:
        found.add_column("rows", justify="right")
        found.add_column("valid", justify="right")
    for measure in view.measures:
        title = measure.title.replace("+", "+\n").replace(" ", "\n")  # two short lines, beside figures that have two
        found.add_column(title if wide else measure.short, justify="right", no_wrap=True)
    for name in view.systems:
        summary = view.summaries[name]
        cells = [Text(plain(name) + _marks(view, name))]
        if wide:
            cells += [Text(str(summary.n)), Text(f"{summary.valid_rate:.1%}")]
        found.add_row(*cells, *(_cell(measure, summary, wide=wide) for measure in view.measures))
    return found


def notes(view: View) -> list[str]:
    """What has to stand beside the figures, a line each."""
    manifest = view.manifest
    lines = [
        f"Suite {plain(manifest.suite)} ({manifest.suite_digest[:12]}), {manifest.items} items.",
        f"Judge {plain(manifest.judge)}: {plain(judge_words(manifest))}.",
        "Below each figure: its 95 % interval.",
    ]
    if not view.judged:
        lines.append(
            "No CoSA-Score: it needs a judge of help and safety (--judge). The decision score knows refusals only."
        )
    lines += _lines_of_policies(view)
    if any(view.circular(name) for name in view.systems):
        lines.append(f"{CIRCULAR} circular: not to be quoted.")
    if any(view.summaries[name].inconclusive for name in view.systems):
        lines.append(f"{INCONCLUSIVE} inconclusive: too many rows could not be read.")
    said: dict[str, list[str]] = defaultdict(list)
    for name in view.systems:
        for one in view.against(name):
            said[one].append(plain(name))
    for one, names in said.items():
        lines.append(f"{'all systems' if len(names) == len(view.systems) else ', '.join(names)}: {plain(one)}.")
    return lines


def _lines_of_policies(view: View) -> list[str]:
    found: dict[str, None] = {}
    for summary in view.summaries.values():
        never, random = (summary.decision_lines.get(one) for one in ("never", "random"))
        if never is not None and random is not None and summary.decision_ceiling is not None:
            found[
                f"Decision score: at most {summary.decision_ceiling:.3f}; never refusing has {never:.3f}, always "
                f"refusing 0.000, refusing by chance {random:.3f}."
            ] = None
    return list(found)


def _marks(view: View, name: str) -> str:
    marks = CIRCULAR * bool(view.circular(name)) + INCONCLUSIVE * view.summaries[name].inconclusive
    return f" {marks}" if marks else ""


def _cell(measure: Measure, summary: Summary, *, wide: bool) -> Text:
    value, ci = measure.value(summary), measure.ci(summary)
    if value is None:
        return Text("n/a", style="dim")
    cell = Text(f"{value:.3f}")
    if ci is not None:
        cell.append(f"\n{_within(ci, wide=wide)}", style="dim")
    return cell


def _within(ci: Interval, *, wide: bool) -> str:
    low, high = (f"{round(bound, 2) + 0.0:.2f}" for bound in ci)  # no -0.00
    if wide:
        return f"{low} to {high}" if "-" in low + high else f"{low}–{high}"
    # 0.28 as .28: two more measures fit a line.
    short = [one.replace("0.", ".", 1) for one in (low, high)]
    return "–".join(short)
