"""A calibration for one user's texts, from 50 to 200 rows of their own.

Rankings travel between sources, thresholds do not. So the logits stay, and a slope and an intercept are fitted anew for
'any risk' of each head that the rows cover; the risks share its correction, because so few rows cannot settle eight.
Fitted by Newton's method with a pull towards the shipped calibration, which a handful of rows cannot overrule.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
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
"""Weight of the shipped calibration, in rows."""
_STEPS = 50
"""Most steps of Newton's method,"""
_SETTLED = 1e-8
"""and the size of a step that ends it."""
_SOME = 1e-6
"""Least curvature of a row: one that is certain still counts."""
_FLATTEST = 0.05
"""Least slope: rankings are never turned round."""
_FLAGGED = 0.5
_BINS = 10
Pair = tuple[LabelledRow, "Reading"]


def head_of(row: LabelledRow) -> str:
    """The head that reads a row."""
    return "text" if row.kind == "response" and not row.prompt else row.kind


def fitted(logits: Sequence[float], gold: Sequence[bool]) -> tuple[float, float]:
    """Slope and intercept that correct calibrated log-odds, pulled towards 1 and 0.

    The minimum of the log loss plus `_PULL` times the squared distance from no correction.
    """
    slope, intercept = 1.0, 0.0
    for _ in range(_STEPS):
        ga, gb = 2 * _PULL * (slope - 1.0), 2 * _PULL * intercept
        aa, ab, bb = 2 * _PULL, 0.0, 2 * _PULL
        for z, y in zip(logits, gold, strict=True):
            p = calibrated.sigmoid(slope * z + intercept)
            weight = max(p * (1 - p), _SOME)
            ga += (p - y) * z
            gb += p - y
            aa += weight * z * z
            ab += weight * z
            bb += weight
        step = aa * bb - ab * ab
        da, db = (bb * ga - ab * gb) / step, (aa * gb - ab * ga) / step
        slope, intercept = max(_FLATTEST, slope - da), intercept - db
        if abs(da) + abs(db) < _SETTLED:
            break
    return slope, intercept


def _odds(known: calibrated.Calibrated, head: str, reading: Reading) -> float:
    slope, intercept = known.slopes[head]["any"]
    return slope * reading.logits["any"] + intercept


def _calibration_error(p: Sequence[float], gold: Sequence[bool]) -> float:
    """Mean over ten bins of equal size of |mean probability - share of harmful rows|, as `cosa judge validate` does."""
    rows = sorted(zip(p, gold, strict=True))
    cuts = [number * len(rows) // _BINS for number in range(_BINS + 1)]
    return sum(abs(sum(value - shown for value, shown in rows[a:b])) for a, b in pairwise(cuts)) / max(1, len(rows))


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


def recalibrated(known: calibrated.Calibrated, pairs: Sequence[Pair], name: str) -> dict[str, Any]:
    """The contents of a calibration file.

    Args:
        known: what the rows were read with.
        pairs: rows and what the networks said of them.
        name: of the new calibration.

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
    return new | {"name": name, "data": ", ".join(counted), "slopes": slopes, "report": report, "measured": ""}
