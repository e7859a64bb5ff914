"""`cosa eval compare` for its readers: a sentence for each measure, in the terminal and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cosa_guard.evals.report import plots
from cosa_guard.evals.report.page import page, table, text
from cosa_guard.evals.report.view import MEASURES, judge_words, plain
from cosa_guard.evals.rows import Manifest
from cosa_sdk.errors import UsageError
from cosa_sdk.score import Comparison

__all__ = ["Side", "lines", "must_match", "render", "render_all", "verdict"]

_METHOD: Final = """<h2>How it was compared</h2>
<p>Each prompt is compared with itself: prompts are drawn again with all their rows of both systems together, and the
interval is that of the difference. A difference is real if its interval leaves out 0 and the systems differ on enough
prompts. Several measures are looked at: one of twenty may seem real by chance. Where a judge could not be read on
enough rows, nothing is compared.</p>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the systems that are compared."""

    run: str
    """Where the run is kept, or another name for it."""
    system: str
    manifest: Manifest

    @property
    def name(self) -> str:
        """As sentences call it: run and system."""
        return f"{self.run}:{self.system}" if self.run else self.system

    @property
    def circular(self) -> str:
        """Why its figures may not be quoted; empty where they may."""
        facts = next((one for one in self.manifest.systems if one.name == self.system), None)
        return "" if facts is None or not facts.circular else facts.why_circular or "shares a model with the judge"


def must_match(first: Side, second: Side) -> None:
    """Check that figures of one kind are compared.

    Raises:
        UsageError: the runs are of other suites, or were scored by other judges.
    """
    one, other = first.manifest, second.manifest
    if one.suite_digest != other.suite_digest:
        raise UsageError(
            f"{first.name} was tried on suite {one.suite!r} ({one.suite_digest[:12]}), {second.name} on "
            f"{other.suite!r} ({other.suite_digest[:12]}): compare runs of one suite"
        )
    if one.judge != other.judge:
        raise UsageError(
            f"{first.name} was scored by {one.judge!r}, {second.name} by {other.judge!r}: compare runs of one judge"
        )


def verdict(comparison: Comparison) -> str:
    """What came out, in one sentence."""
    if comparison.inconclusive:
        return "Inconclusive: too many rows could not be read."
    real = [MEASURES[one.measure].title for one in comparison.differences if one.real]
    if not real:
        return "No difference is real, as far as these prompts tell."
    return f"Real: {', '.join(real)}."


def lines(comparison: Comparison, first: Side, second: Side) -> list[str]:
    """For a terminal or a plain file: what was compared, a sentence for each measure, and the verdict."""
    manifest = first.manifest
    found = [
        f"{plain(first.name)} and {plain(second.name)} on {comparison.n} rows of {plain(manifest.suite)}.",
        f"Judge {plain(manifest.judge)}: {plain(judge_words(manifest))}.",
    ]
    found += comparison.says(plain(first.name), plain(second.name))
    if not comparison.inconclusive:
        found.append(verdict(comparison))
    return found + [plain(one) for one in _cautions(first, second)]


def _cautions(first: Side, second: Side) -> list[str]:
    found = [
        f"{side.name} is circular ({side.circular}): its figures may not be quoted."
        for side in (first, second)
        if side.circular
    ]
    one, other = first.manifest, second.manifest
    differing = [name for name in ("sampling", "seed") if getattr(one, name) != getattr(other, name)]
    if differing:
        found.append(f"The runs differ in {' and '.join(differing)}: that may be the difference.")
    return found


def render(comparison: Comparison, first: Side, second: Side) -> str:
    """The page of one comparison."""
    return render_all([(comparison, first, second)])


def render_all(several: Sequence[tuple[Comparison, Side, Side]]) -> str:
    """The page of some comparisons, one below the other.

    Raises:
        UsageError: there are none.
    """
    if not several:
        raise UsageError("no comparison to show: give at least one")
    alone = len(several) == 1
    _, first, second = several[0]
    title = f"{first.name} and {second.name}" if alone else f"{len(several)} comparisons"
    parts = []
    for one in several:
        if not alone:
            parts.append(f"<h2>{text(one[1].name)} and {text(one[2].name)}</h2>")
        parts += _one(*one)
    return page(title, [*parts, _METHOD], style=plots.STYLE)


def _one(comparison: Comparison, first: Side, second: Side) -> list[str]:
    manifest = first.manifest
    said = "".join(f"<li>{text(one)}</li>" for one in comparison.says(first.name, second.name))
    cautions = "".join(f'<p class="warn">{text(one)}</p>' for one in _cautions(first, second))
    rates = " and ".join(f"{rate:.1%}" for rate in comparison.valid_rates)
    shown = "" if comparison.inconclusive else plots.differences(comparison.differences) + _figures(comparison)
    return [
        f"<p><b>{text(verdict(comparison))}</b></p>{cautions}",
        f"<p>Suite {text(manifest.suite)}, digest {text(manifest.suite_digest[:12])}.</p>",
        f"<p>{comparison.n} rows of each, of which {rates} could be read.</p>",
        f"<p>Judge {text(manifest.judge)}: {text(judge_words(manifest))}.</p>",
        f"<ul>{said}</ul>{shown}",
    ]


def _figures(comparison: Comparison) -> str:
    rows = [
        [
            MEASURES[one.measure].title,
            "real" if one.real else "may be chance",
            f"{one.first:.3f}",
            f"{one.second:.3f}",
            f"{one.difference:+.3f}",
            f"{one.ci[0]:+.3f} to {one.ci[1]:+.3f}",
            str(one.differing),
        ]
        for one in comparison.differences
    ]
    heads = ("measure", "", "first", "second", "first − second", "95 % interval", "prompts that differ")
    return table("Negative: the first has less.", heads, rows, words=2)
