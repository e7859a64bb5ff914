"""Plots as SVG inside the page: each system has a number, a colour and a shape, and none of them is needed alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cosa_guard.evals.report.page import text
from cosa_guard.evals.report.view import MEASURES, View
from cosa_sdk.score import Difference, Interval

__all__ = ["STYLE", "by_config", "differences", "key", "legend", "mark", "scatter"]

_COLOURS: Final = 6
_LIGHT: Final = ("#2456c7", "#b3470a", "#1b7f4d", "#8a2fa8", "#8a6d00", "#b0214f")
_DARK: Final = ("#7aa5ff", "#ff9d5c", "#5fd39a", "#d59bf0", "#dcc04a", "#ff8fb0")
STYLE: Final = (
    f":root {{ {' '.join(f'--c{place}: {colour};' for place, colour in enumerate(_LIGHT))} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ "
    f"{' '.join(f'--c{place}: {colour};' for place, colour in enumerate(_DARK))} }} }}\n"
    + "\n".join(
        f".c{place} {{ fill: var(--c{place}); stroke: var(--c{place}); }} svg text.c{place} {{ stroke: none; "
        f"fill: var(--c{place}); }}"
        for place in range(_COLOURS)
    )
    + """
.whisker { stroke-width: 1.5; fill: none; } .shape { stroke: var(--page); stroke-width: 1; }
svg text.name { fill: var(--ink); font-weight: 600; } svg text.tag { font-size: 10px; font-weight: 600; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .9rem; }
.legend svg, td svg, th svg { width: 14px; height: 14px; vertical-align: -2px; }
"""
)
_WIDTH: Final = 420
_LEFT: Final = 30
_RIGHT: Final = 12
_LINE: Final = 15
"""Between the whiskers of two systems,"""
_HEAD: Final = 24
"""and for the name of a config above its own."""
_NAME: Final = 52
"""Characters of a config's name that fit a line of a plot."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where values lie in a drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        step = next((one for one in (0.05, 0.1, 0.2, 0.25) if (self.high - self.low) / one <= 6), 0.5)  # noqa: PLR2004
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(number * step, 2) for number in range(first, last + 1)]


def mark(place: int, x: float, y: float, told: str = "") -> str:
    """The mark of a system: its shape and colour, and what it says when pointed at."""
    title = f"<title>{text(told)}</title>" if told else ""
    kind = f'class="shape c{place % _COLOURS}"'
    shape = (place + place // _COLOURS) % 4
    if shape == 0:
        return f'<circle {kind} cx="{x}" cy="{y}" r="5">{title}</circle>'
    if shape == 1:
        return f'<rect {kind} x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9">{title}</rect>'
    corners: list[tuple[float, float]] = [(0, -6), (6, 0), (0, 6), (-6, 0)]
    if shape == 2:  # noqa: PLR2004  # the third of four
        corners = [(0, -6), (5.5, 4.5), (-5.5, 4.5)]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon {kind} points="{points}">{title}</polygon>'


def key(place: int) -> str:
    """The mark alone, for a line of text."""
    return f'<svg viewBox="0 0 14 14" aria-hidden="true">{mark(place, 7, 7)}</svg>'


def legend(view: View) -> str:
    """Which mark is whose."""
    items = "".join(
        f"<li>{key(place)} {place + 1} <bdi>{text(name)}</bdi></li>" for place, name in enumerate(view.systems)
    )
    return f'<ul class="legend">{items}</ul>'


def by_config(view: View) -> str:
    """The score of each system under each config, with intervals: CoSA-Score, or the decision score without a judge."""
    measure = MEASURES["cosa_score" if view.judged else "decision_score"]
    found: dict[tuple[str, int], tuple[float, Interval | None]] = {}
    for place, name in enumerate(view.systems):
        for config, cell in view.summaries[name].by_config.items():
            value = cell.cosa_score if view.judged else cell.decision_score
            if value is not None:
                found[config, place] = value, cell.ci if view.judged else cell.decision_ci
    configs = list(dict.fromkeys((*view.configs, *(config for config, _ in found))))
    bottom = len(configs) * (_HEAD + _LINE * len(view.systems)) + 6
    across = _Scale(
        *_limits([value for value, _ in found.values()], [ci for _, ci in found.values() if ci]), _LEFT, _WIDTH - _RIGHT
    )
    marks = [_grid_across(across, bottom)]
    top = 0
    for config in configs:
        shown = config if len(config) <= _NAME else config[: _NAME - 1] + "…"
        marks.append(f'<text class="name" x="4" y="{top + 16}">{text(shown)}</text>')
        top += _HEAD
        for place, name in enumerate(view.systems):
            y = top + _LINE / 2 + place * _LINE
            marks.append(f'<text class="tag c{place % _COLOURS}" x="6" y="{y + 3.5}">{place + 1}</text>')
            if (config, place) in found:
                value, ci = found[config, place]
                marks.append(_whisker(across, place, y, value, ci, f"{name}, {config}"))
        top += _LINE * len(view.systems)
    return _figure(
        f"{measure.title} by config",
        bottom + 40,
        "".join(marks) + _axis(across((across.low + across.high) / 2), bottom + 34, measure.title),
        f"The {measure.title} of each system under each config, with 95 % intervals. On the dashed line: as good as "
        "refusing everything.",
    )


def _limits(values: Sequence[float], intervals: Sequence[Interval]) -> tuple[float, float]:
    low = min([0.0, *values, *(ci[0] for ci in intervals)])
    high = max([0.0, *values, *(ci[1] for ci in intervals)])
    low, high = math.floor(low * 10) / 10, math.ceil(high * 10) / 10
    return (low, high) if high > low else (0.0, 1.0)


def _grid_across(across: _Scale, bottom: float) -> str:
    parts = []
    for tick in across.ticks():
        kind = "even" if tick == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{across(tick)}" y1="4" x2="{across(tick)}" y2="{bottom}"/>')
        parts.append(f'<text x="{across(tick)}" y="{bottom + 15}" text-anchor="middle">{tick:g}</text>')
    return "".join(parts)


def _whisker(across: _Scale, place: int, y: float, value: float, ci: Interval | None, told: str) -> str:
    line = ""
    said = f"{told}: {value:.3f}"
    if ci is not None:
        said += f" [{ci[0]:.3f}, {ci[1]:.3f}]"
        line = (
            f'<line class="whisker c{place % _COLOURS}" x1="{across(ci[0])}" y1="{y}" x2="{across(ci[1])}" y2="{y}"/>'
        )
    return line + mark(place, across(value), y, said)


def _axis(x: float, y: float, name: str, *, turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x} {y})"' if turned else ""
    return f'<text x="{x}" y="{y}" text-anchor="middle"{turn}>{name}</text>'


def _figure(name: str, height: float, inside: str, caption: str) -> str:
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{name}">{inside}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def scatter(view: View) -> str:
    """What systems give against what it costs: helpful+safe and helpful+unsafe; without a judge, refusals."""
    if view.judged:
        names = ("helpful_unsafe", "helpful_safe")
        caption = "Up is helpful and within the config, right is helpful and against it: the upper left is best."
    else:
        names = ("over_refusal", "violation_rate")
        caption = "Up is disallowed prompts answered, right is allowed prompts refused: the lower left is best."
    bottom, top, left = 330, 10, 46
    across, up = _Scale(0, 1, left, _WIDTH - _RIGHT), _Scale(0, 1, bottom, top)
    x_of, y_of = (MEASURES[name] for name in names)
    marks = [_square(across, up)]
    for place, name in enumerate(view.systems):
        summary = view.summaries[name]
        x, y = x_of.value(summary), y_of.value(summary)
        if x is None or y is None:
            continue
        cis: Mapping[str, Interval | None] = {"x": x_of.ci(summary), "y": y_of.ci(summary)}
        marks.append(_cross(across, up, place, (x, y), cis))
        marks.append(mark(place, across(x), up(y), f"{name}: {x_of.title} {x:.3f}, {y_of.title} {y:.3f}"))
        marks.append(f'<text class="tag c{place % _COLOURS}" x="{across(x) + 7}" y="{up(y) - 6}">{place + 1}</text>')
    marks.append(_axis((left + _WIDTH - _RIGHT) / 2, bottom + 34, x_of.title))
    marks.append(_axis(12, (top + bottom) / 2, y_of.title, turned=True))
    return _figure(
        f"{y_of.title} against {x_of.title}", bottom + 40, "".join(marks), f"{caption} Lines: 95 % intervals."
    )


def _square(across: _Scale, up: _Scale) -> str:
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = across(tick), up(tick)
        parts.append(f'<line class="grid" x1="{x}" y1="{up.start}" x2="{x}" y2="{up.end}"/>')
        parts.append(f'<line class="grid" x1="{across.start}" y1="{y}" x2="{across.end}" y2="{y}"/>')
        parts.append(f'<text x="{x}" y="{up.start + 15}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{across.start - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    return "".join(parts)


def _cross(across: _Scale, up: _Scale, place: int, at: tuple[float, float], cis: Mapping[str, Interval | None]) -> str:
    kind = f'class="whisker c{place % _COLOURS}"'
    x, y = across(at[0]), up(at[1])
    parts = []
    if (ci := cis["x"]) is not None:
        parts.append(f'<line {kind} x1="{across(ci[0])}" y1="{y}" x2="{across(ci[1])}" y2="{y}"/>')
    if (ci := cis["y"]) is not None:
        parts.append(f'<line {kind} x1="{x}" y1="{up(ci[0])}" x2="{x}" y2="{up(ci[1])}"/>')
    return "".join(parts)


def differences(found: Sequence[Difference]) -> str:
    """What one system has more than another, measure by measure, with intervals."""
    if not found:
        return ""
    across = _Scale(*_limits([one.difference for one in found], [one.ci for one in found]), _LEFT, _WIDTH - _RIGHT)
    bottom = len(found) * (_HEAD + _LINE) + 6
    marks = [_grid_across(across, bottom)]
    for place, one in enumerate(found):
        top = place * (_HEAD + _LINE)
        marks.append(f'<text class="name" x="4" y="{top + 16}">{MEASURES[one.measure].title}</text>')
        marks.append(
            _whisker(across, 0 if one.real else 1, top + _HEAD + _LINE / 2, one.difference, one.ci, one.measure)
        )
    marks.append(_axis(across((across.low + across.high) / 2), bottom + 34, "first − second"))
    return _figure(
        "differences",
        bottom + 40,
        "".join(marks),
        "Differences with 95 % intervals. Circles are real, squares may be chance. On the dashed line: no difference.",
    )
