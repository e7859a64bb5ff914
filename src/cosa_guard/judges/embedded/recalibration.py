"""A calibration for one user's texts, from 50 to 200 rows of their own.

Rankings travel between sources, thresholds do not. So the logits stay, and a slope and an intercept are fitted anew for
'any risk' of each head that the rows cover; the risks share its correction, because so few rows cannot settle eight.
Fitted by Newton's method with a pull towards the calibration that the rows were read with, which a handful of them
cannot overrule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from cosa_guard.judges.embedded import calibrated
from cosa_guard.labelled import LabelledRow
from cosa_sdk.errors import UsageError

if TYPE_CHECKING:
    from cosa_guard.judges.embedded.judge import Reading

__all__ = ["fitted", "head_of", "recalibrated"]

_FEWEST = 15
"""Rows of each class that a head needs."""
_PULL = 2.0
"""Weight of no correction, in rows."""
_STEPS = 100
"""Most steps of Newton's method,"""
_HALVES = 60
"""most halvings of one of them, after which rounding is all that is left of it,"""
_SETTLED = 1e-10
"""and the size of a step that ends it."""
_FLATTEST = 0.05
"""Least slope: rankings are never turned round."""
_FLAGGED = 0.5
_BINS = 10
Pair = tuple[LabelledRow, "Reading"]


def head_of(row: LabelledRow) -> str:
    """The head that reads a row."""
    return "text" if row.kind == "response" and not row.prompt else row.kind


@dataclass(frozen=True, slots=True)
class _Rows:
    """What a correction is fitted to."""

    logits: Sequence[float]
    gold: Sequence[bool]

    def loss(self, slope: float, intercept: float) -> float:
        """Log loss of the rows, in nats, plus the pull; convex in slope and intercept."""
        margins = ((slope * z + intercept) * (1 if y else -1) for z, y in zip(self.logits, self.gold, strict=True))
        rows = math.fsum(max(0.0, -margin) + math.log1p(math.exp(-abs(margin))) for margin in margins)
        return rows + _PULL * ((slope - 1.0) ** 2 + intercept**2)

    def step(self, slope: float, intercept: float) -> tuple[float, float]:
        """Newton's step in slope and intercept; where it would leave the least slope behind, it ends there."""
        ga, gb = 2 * _PULL * (slope - 1.0), 2 * _PULL * intercept
        aa, ab, bb = 2 * _PULL, 0.0, 2 * _PULL
        for z, y in zip(self.logits, self.gold, strict=True):
            p = calibrated.sigmoid(slope * z + intercept)
            weight = p * (1 - p)
            ga += (p - y) * z
            gb += p - y
            aa += weight * z * z
            ab += weight * z
            bb += weight
        size = aa * bb - ab * ab
        da, db = (ab * gb - bb * ga) / size, (ab * ga - aa * gb) / size
        room = slope - _FLATTEST
        if -da <= room:
            return da, db
        if room > _SETTLED:
            return -room, db * room / -da
        return -room, -gb / bb  # the slope stays there: the best intercept for it


def fitted(logits: Sequence[float], gold: Sequence[bool]) -> tuple[float, float]:
    """Slope and intercept that correct calibrated log-odds, pulled towards 1 and 0.

    The minimum of the log loss plus `_PULL` times the squared distance from no correction, among slopes of at least
    `_FLATTEST`. A whole step of Newton's method overshoots where rows are certain and wrong, so it is halved until the
    loss does not rise; the loss is convex, so that ends at its minimum.
    """
    rows = _Rows(logits, gold)
    slope, intercept = 1.0, 0.0
    loss = rows.loss(slope, intercept)
    for _ in range(_STEPS):
        da, db = rows.step(slope, intercept)
        for _ in range(_HALVES):
            reached = rows.loss(max(_FLATTEST, slope + da), intercept + db)
            if reached <= loss:
                break
            da, db = da / 2, db / 2
        else:
            break
        slope, intercept, loss = max(_FLATTEST, slope + da), intercept + db, reached
        if abs(da) + abs(db) < _SETTLED:
            break
    return slope, intercept


def _odds(known: calibrated.Calibrated, head: str, reading: Reading) -> float:
    slope, intercept = known.slopes[head]["any"]
    return slope * reading.logits["any"] + intercept


def _calibration_error(p: Sequence[float], gold: Sequence[bool]) -> float:
    """Mean over ten bins of nearly equal size of |mean probability - share of harmful rows|, weighted by rows.

    The arithmetic of `evals.metrics.expected_calibration_error`, which judges must not import: equal probabilities stay
    in one bin, so the order of the rows does not matter.
    """
    rows = sorted(zip(p, gold, strict=True), key=itemgetter(0))
    apart: list[float] = []
    start = 0
    for number in range(1, _BINS + 1):
        end = number * len(rows) // _BINS
        if end <= start:
            continue
        while end < len(rows) and rows[end][0] == rows[end - 1][0]:
            end += 1
        part = rows[start:end]
        apart.append(abs(math.fsum(value for value, _ in part) - sum(shown for _, shown in part)))
        start = end
    return math.fsum(apart) / max(1, len(rows))


def _report(odds: Sequence[float], gold: Sequence[bool]) -> dict[str, float]:
    """Expected calibration error, and the share of harmless rows above one half."""
    p = [calibrated.sigmoid(z) for z in odds]
    harmless = [value for value, shown in zip(p, gold, strict=True) if not shown]
    flagged = sum(value >= _FLAGGED for value in harmless) / max(1, len(harmless))
    return {"ece": round(_calibration_error(p, gold), 4), "flag_rate": round(flagged, 4)}


def _held_out(odds: Sequence[float], gold: Sequence[bool]) -> list[float]:
    """Corrected by what the other half of the rows taught: the honest 'after'. Each half gets half of each class."""
    seen = {True: 0, False: 0}
    halves = []
    for shown in gold:
        halves.append(seen[shown] % 2)
        seen[shown] += 1
    rows = list(zip(odds, gold, halves, strict=True))
    taught = [fitted([z for z, _, at in rows if at != half], [y for _, y, at in rows if at != half]) for half in (0, 1)]
    return [taught[half][0] * z + taught[half][1] for z, _, half in rows]


def recalibrated(
    known: calibrated.Calibrated, pairs: Sequence[Pair], name: str, tier: calibrated.Tiers = "both"
) -> dict[str, Any]:
    """The contents of a calibration file.

    Args:
        known: what the rows were read with.
        pairs: rows and what the networks said of them.
        name: of the new calibration.
        tier: whose logits the rows were read with; `calibrated.load` gives the file to no other.

    Raises:
        UsageError: no head has 15 harmful and 15 harmless rows.
    """
    raw = calibrated.shipped()
    new: dict[str, Any] = {key: raw[key] for key in ("format", "points", "floor", "weak", "sure")}
    slopes = {head: {k: list(pair) for k, pair in row.items()} for head, row in known.slopes.items()}
    counted: list[str] = []
    before: list[float] = []
    after: list[float] = []
    truth: list[bool] = []
    for head in ("prompt", "text", "response"):
        mine = [(_odds(known, head, read), bool(row.harmful)) for row, read in pairs
                if head_of(row) == head and row.harmful is not None]  # fmt: skip
        shown = sum(gold for _, gold in mine)
        if min(shown, len(mine) - shown) < _FEWEST:
            continue
        odds, gold = [z for z, _ in mine], [y for _, y in mine]
        slope, intercept = fitted(odds, gold)
        for k, (a, b) in known.slopes[head].items():
            slopes[head][k] = [slope * a, slope * b + intercept]
        counted.append(f"{len(mine)} rows for {head}")
        before += odds
        truth += gold
        after += _held_out(odds, gold)
    if not counted:
        raise UsageError(
            f"too few rows: a kind (prompts, texts, responses) needs {_FEWEST} harmful and {_FEWEST} harmless rows"
        )
    report = {"before": _report(before, truth), "after": _report(after, truth)}
    said = {"name": name, "tier": tier, "data": ", ".join(counted), "measured": ""}
    return new | said | {"slopes": slopes, "report": report}
