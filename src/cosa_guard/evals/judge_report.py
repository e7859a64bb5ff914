"""A judge's validation as one HTML file: tables with intervals, two plots, and the worst mistakes to read.

The page is complete in itself. It asks the network for nothing, and its content policy forbids it to.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from cosa_guard.evals import metrics
from cosa_guard.evals.judging import FEWEST, Cell, Judged, Validation
from cosa_guard.evals.report.page import SHOWN, cut, page, ranged, share, table, text

__all__ = ["MISTAKES", "SHOWN", "render", "worst_mistakes"]

MISTAKES = 20
"""Mistakes shown of each kind."""
_POINTS = 400
"""Most points of a curve: more are not seen."""

_STYLE = """
.curve { fill: none; stroke: var(--mark); stroke-width: 2; } .bar { stroke: var(--mark); stroke-width: 1.5; }
.dot { fill: var(--mark); stroke: var(--page); stroke-width: 1.5; }
.ring { fill: var(--page); stroke: var(--mark); stroke-width: 2.5; }
"""
_LEFT, _TOP, _SIDE = 46, 12, 280
"""Where the plots' unit square lies, in units of the drawing."""


def render(result: Validation, *, made: str = "") -> str:
    """The page.

    Args:
        made: when the judge was measured, in words for people.
    """
    return page(
        f"Judge {result.judge} on {result.file or 'labelled rows'}",
        [
            _summary(result, made),
            _risk_table(result),
            _plots(result),
            _source_table(result),
            _mistakes(result),
            _method(result),
            _LIMITS,
        ],
        style=_STYLE,
    )


def worst_mistakes(result: Validation) -> tuple[list[Judged], list[Judged]]:
    """False positives, the surest first, and false negatives, the most missed first: at most 20 of each.

    A false positive is a harmless row that was flagged, a false negative a harmful one that was not. Rows without a
    score come last; rows that the judge failed on are neither.
    """
    told = [one for one in result.judged if one.error is None]
    alarms = [one for one in told if one.flagged and one.row.harmful is False]
    missed = [one for one in told if not one.flagged and one.row.harmful is True]
    alarms.sort(key=lambda one: -1.0 if one.score is None else one.score, reverse=True)
    missed.sort(key=lambda one: 2.0 if one.score is None else one.score)
    return alarms[:MISTAKES], missed[:MISTAKES]


def _counted(value: float | None, successes: int | None, n: int | None) -> str:
    return ranged(value, None if successes is None or not n else metrics.wilson(successes, n))


def _summary(result: Validation, made: str) -> str:
    cell = result.any_risk
    parts = [
        f"{len(result.judged)} rows",
        f"any risk: AUROC {ranged(cell.auroc, cell.ci)}, AP {share(cell.ap)}, F1 {share(cell.f1)}",
        f"macro over risks: AUROC {share(result.macro['auroc'])}, F1 {share(result.macro['f1'])}",
        f"{result.flag_rate:.1%} of rows flagged",
        f"{result.ms_per_text:.2f} ms a text",
    ]
    lines = [f"<p>{'; '.join(parts)}.</p>"]
    if result.errors:
        said = cut(result.errors[0].error or "")
        lines.append(
            f'<p class="warn">The judge failed on {len(result.errors)} rows, which count as not flagged. '
            f"The first time: {said}</p>"
        )
    point = f"operating point {text(result.operating_point)}; " if result.operating_point else ""
    by = f"cosa {text(metadata.version('cosa'))}" + (f", {text(made)}" if made else "")
    lines.append(f'<p class="soft">{point}{by}; config {result.config[:12]}.</p>')
    return "".join(lines)


def _cells(cell: Cell) -> list[str]:
    return [
        str(cell.n),
        str(cell.positives),
        ranged(cell.auroc, cell.ci),
        share(cell.ap),
        _counted(cell.precision, cell.hits, cell.flagged),
        _counted(cell.recall, cell.hits, cell.positives),
        share(cell.f1),
        share(cell.kappa),
        share(cell.false_flag_rate),
        share(cell.ece),
    ]


_HEADS = ("rows", "positive", "AUROC", "AP", "precision", "recall", "F1", "kappa", "false flags", "ECE")


def _risk_table(result: Validation) -> str:
    rows = [["any risk", *_cells(result.any_risk)]]
    rows += [[text(name), *_cells(cell)] for name, cell in (*result.risks.items(), *result.signs.items())]
    caption = f"95 % intervals in brackets; n/a: fewer than {FEWEST} rows with or without it, or nothing to measure."
    floor = result.floor
    told = (
        f"<p>Floor: {floor['n']} rows, recall {share(floor['recall'])}; flagged for anything "
        f"{share(floor['flagged'])}; floor ids found in other rows {share(floor['false_flag_rate'])}.</p>"
    )
    return "<h2>What it finds</h2>" + table(caption, ("", *_HEADS), rows) + told


def _source_table(result: Validation) -> str:
    rows = [[text(name), str(n), *_cells(cell)] for name, (n, cell) in result.by_source.items()]
    caption = "Any risk, by where the rows come from. A mean over sources hides the one that resembles your traffic."
    return "<h2>By source</h2>" + table(caption, ("source", "judged", *_HEADS), rows)


def _x(value: float) -> float:
    return round(_LEFT + value * _SIDE, 1)


def _y(value: float) -> float:
    return round(_TOP + (1 - value) * _SIDE, 1)


def _plot(name: str, across: str, up: str, marks: str, caption: str) -> str:
    grid = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        grid.append(f'<line class="grid" x1="{_x(tick)}" y1="{_y(0)}" x2="{_x(tick)}" y2="{_y(1)}"/>')
        grid.append(f'<line class="grid" x1="{_x(0)}" y1="{_y(tick)}" x2="{_x(1)}" y2="{_y(tick)}"/>')
        grid.append(f'<text x="{_x(tick)}" y="{_y(0) + 15}" text-anchor="middle">{tick:g}</text>')
        grid.append(f'<text x="{_LEFT - 6}" y="{_y(tick) + 4}" text-anchor="end">{tick:g}</text>')
    middle = _y(0.5)
    return (
        f'<figure><svg viewBox="0 0 {_LEFT + _SIDE + 14} {_TOP + _SIDE + 40}" role="img" aria-label="{name}">'
        f"{''.join(grid)}"
        f'<line class="even" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>{marks}'
        f'<text x="{_x(0.5)}" y="{_y(0) + 33}" text-anchor="middle">{across}</text>'
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{up}</text>'
        f"</svg><figcaption>{caption}</figcaption></figure>"
    )


def _plots(result: Validation) -> str:
    scores, labels = result.any_risk_scores()
    if result.any_risk.auroc is None:
        return f"<p>No plots: they need probabilities for {FEWEST} harmful and {FEWEST} harmless rows.</p>"
    return f'<h2>Any risk</h2><div class="plots">{_roc(result, scores, labels)}{_reliability(scores, labels)}</div>'


def _roc(result: Validation, scores: Sequence[float], labels: Sequence[bool]) -> str:
    points = metrics.roc_points(scores, labels)
    kept = [*points[:: max(1, len(points) // _POINTS)], points[-1]]
    marks = f'<polyline class="curve" points="{" ".join(f"{_x(x)},{_y(y)}" for x, y in kept)}"/>'
    cell = result.any_risk
    if cell.false_flag_rate is not None and cell.recall is not None:
        told = f"as it flags: {cell.false_flag_rate:.1%} of harmless, {cell.recall:.1%} of harmful texts"
        at = f'cx="{_x(cell.false_flag_rate)}" cy="{_y(cell.recall)}"'
        marks += f'<circle class="ring" {at} r="5"><title>{told}</title></circle>'
    reached = "; ".join(f"{at.recall:.1%} at {rate:g}" for rate, at in result.recall_at.items())
    return _plot(
        "recall against flagged harmless texts",
        "share of harmless texts flagged",
        "share of harmful texts flagged",
        marks,
        f"Every threshold on the any-risk score; the ring is the judge as it flags. Recall by share of harmless texts "
        f"flagged: {reached}.",
    )


def _reliability(scores: Sequence[float], labels: Sequence[bool]) -> str:
    marks = []
    for part in metrics.reliability_bins(scores, labels):
        x = _x(part.confidence)
        told = f"{part.n} texts: said {part.confidence:.3f}, were {part.frequency:.3f}"
        marks.append(f'<line class="bar" x1="{x}" y1="{_y(part.ci[0])}" x2="{x}" y2="{_y(part.ci[1])}"/>')
        marks.append(f'<circle class="dot" cx="{x}" cy="{_y(part.frequency)}" r="4.5"><title>{told}</title></circle>')
    return _plot(
        "reliability",
        "probability that the judge gives",
        "share that is harmful",
        "".join(marks),
        "Ten bins of equal size, with intervals. On the dashed line a probability means what it says; below it the "
        "probabilities are too high, above it too low.",
    )


def _mistakes(result: Validation) -> str:
    alarms, missed = worst_mistakes(result)
    head = "<h2>Mistakes</h2>"
    failed = sum(one.row.harmful is True for one in result.errors)
    if failed:  # nothing that could be read here, and missed all the same
        rows = sum(one.row.harmful is True for one in result.judged)
        head += f'<p class="warn">The judge failed on {failed} of {rows} harmful rows: they count as not flagged.</p>'
    if not alarms and not missed:
        told = "none of those that it read was missed" if failed else "every harmful one was"
        return f"{head}<p>None{' beside these' if failed else ''}: no harmless row was flagged, and {told}.</p>"
    return (
        f"{head}<details><summary>Show the worst mistakes. Content warning: offensive and harmful text."
        f"</summary>{_mistake_table('Harmless by its label, and flagged: the surest first.', alarms)}"
        f"{_mistake_table('Harmful by its label, and not flagged: the most missed first.', missed)}</details>"
    )


def _mistake_table(caption: str, rows: Sequence[Judged]) -> str:
    shown = []
    for one in rows:
        row = one.row
        shown_text = cut(row.text)
        if row.prompt:
            shown_text = f'<span class="soft">to: {cut(row.prompt)}</span><br>{shown_text}'
        labels = "unknown which" if row.risks is None else ", ".join(sorted(row.risks)) or "none"
        found = ", ".join(sorted(one.found)) or ("any" if one.flagged else "undecided" if one.undecided else "none")
        place = cut(" ".join(part for part in (row.source, row.id) if part))
        shown.append([shown_text, text(labels), text(found), place, share(one.score)])
    return table(caption, ("text", "label", "found", "row", "score"), shown, words=4)


def _method(result: Validation) -> str:
    skipped = ", ".join(f"{count} {text(reason)}" for reason, count in result.skipped.items()) or "none"
    undecided = sum(one.undecided for one in result.judged)
    return f"""<h2>How it was measured</h2>
<p>Each row was judged alone under a config that forbids every risk: prompts as input, responses as output
behind the prompt that they answer, texts as output alone. Precision, recall, F1, kappa and false flags (the
share of negatives flagged) are of the judge's own flags; AUROC, AP, ECE and the plots are of its probabilities.
Its any-risk score is the one it gives, else the largest of its risks. Intervals: DeLong for AUROC, Wilson for
shares. Macro means are plain means over risks with a value, without <i>other</i> and the floor. {undecided}
rows were left undecided, and count as not flagged. Rows of the file left out: {skipped}. Time is wall-clock,
one text at a time.</p>"""


_LIMITS = """<h2>What this does not tell</h2>
<p>How the judge does on your texts: rows of these sources are not your traffic, and a source that it was
trained on flatters it. Whether the labels are right: some mistakes above are theirs. How it does under attack:
nobody here tried to fool it. How it does under your config, with its allowed risks, conditions and terms.
Precision at your share of harmful texts: it falls as they become rarer; recall and false flags stay. Intervals
cover chance in drawing rows, not any of this.</p>"""
