"""Platt scaling and operating points from out-of-fold answers, and the matching of rules in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cosa_training.judge.encoder import Encoder
from cosa_training.judge.fit import slices
from cosa_training.judge.folds import FOLDS
from cosa_training.judge.sources import RISKS, Row
from cosa_training.judge.train import Start

__all__ = ["answers_of", "calibrate", "even", "platt"]


@dataclass(frozen=True, slots=True)
class _Point:
    """What an operating point may get wrong, as means over sources."""

    flagged: float
    """Share of harmless rows in which something may be found."""
    missed: float
    """Share of the rows with a risk in which that risk may count as absent."""
    cleared: float
    """Share of the rows with any risk in which all may count as absent."""


_POINTS = {
    "balanced": _Point(0.08, 0.10, 0.20),
    "strict": _Point(0.15, 0.05, 0.10),
    "permissive": _Point(0.03, 0.20, 0.35),
}
_FEWEST = 50
_HIGHEST = 0.99
"""Threshold where even the highest answers flag too many."""
_PRIOR = 0.02
"""Share of ordinary texts that break a given rule in words."""
_FLOOR = {"floor.minors": 0.2, "floor.mass_harm": 0.2, "beside": 0.8}
"""Set by hand on the left-out prompts that the tables tell of: low, for the words make it bearable. `beside`: weight of
violence and other, as which abuse of children and mass harm without a weapon show."""


def answers_of(rows: Sequence[Row], folder: Path, system: str = "encoder") -> tuple[list[Row], np.ndarray, list[int]]:
    """Out-of-fold outputs, with the rows that they are about and the number of the fold.

    Raises:
        SystemExit: a fold, or a row that it should hold, is missing.
    """
    by_key = {(row.id, row.head): row for row in rows}
    mine = [{(row.id, row.head) for row in fold.held(rows)} for fold in FOLDS]
    found: list[Row] = []
    parts: list[np.ndarray] = []
    folds: list[int] = []
    for number in range(len(FOLDS)):
        for path in sorted(folder.glob(f"{number}.*.npz")):
            with np.load(path, allow_pickle=False) as kept:
                if system not in kept.files:
                    continue
                told = [(str(i), str(h)) for i, h in zip(kept["ids"], kept["heads"], strict=True)]
                if missing := mine[number] - set(told):
                    raise SystemExit(f"{path} lacks {len(missing)} rows of the data: remove it and run measure again")
                asked = [by_key[key] if key in mine[number] else None for key in told]
                here = [i for i, row in enumerate(asked) if row is not None]
                found += [row for row in asked if row is not None]
                parts.append(kept[system][here].astype(np.float32))
                folds += [number] * len(here)
    if set(folds) != set(range(len(FOLDS))):
        raise SystemExit(
            f"{folder} lacks out-of-fold answers of {system!r}: run python -m cosa_training.judge.measure first"
        )
    return found, np.concatenate(parts), folds


def platt(logit: np.ndarray, gold: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Slope and intercept; without enough rows of both classes, one and nought."""
    if min(gold.sum(), (~gold).sum()) < _FEWEST:
        return 1.0, 0.0
    fitted = LogisticRegression(C=100.0).fit(logit[:, None], gold, sample_weight=weight)
    return float(max(fitted.coef_[0, 0], 0.05)), float(fitted.intercept_[0])


def even(rows: Sequence[Row]) -> np.ndarray:
    """Weights under which a source counts by the square root of its size."""
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[row.source] = sizes.get(row.source, 0) + 1
    return np.array([sizes[row.source] ** -0.5 for row in rows])


def _by_source(p: np.ndarray, rows: Sequence[Row]) -> list[np.ndarray]:
    sources = sorted({row.source for row in rows})
    groups = [p[[i for i, row in enumerate(rows) if row.source == source]] for source in sources]
    return [group for group in groups if len(group) >= _FEWEST] or [p]


def _high(p: np.ndarray, rows: Sequence[Row], share: float) -> float:
    """The probability that a given share of harmless rows reaches, as a mean over sources."""
    groups = _by_source(p, rows)
    grid = np.quantile(p, np.linspace(0.5, 1.0, 501))
    flagged = np.array([np.mean([(group >= t).mean() for group in groups]) for t in grid])
    kept = grid[flagged <= share]
    return float(np.clip(kept[0] if len(kept) else _HIGHEST, 0.02, _HIGHEST))


def _low(p: np.ndarray, rows: Sequence[Row], share: float, high: float) -> float:
    """The probability under which a given share of the rows that show the risk falls; never above `high`."""
    if len(p) < _FEWEST:
        return high / 2
    groups = _by_source(p, rows)
    grid = np.quantile(p, np.linspace(0.0, 0.5, 251))
    missed = np.array([np.mean([(group < t).mean() for group in groups]) for t in grid])
    return float(min(grid[int(np.flatnonzero(missed <= share)[-1])], high))


def calibrate(rows: Sequence[Row], folder: Path, begin: Start, encoder: Encoder, data: Path) -> dict[str, Any]:
    """The contents of `calibration.json`."""
    held, out, folds = answers_of(rows, folder)
    at = slices()
    slopes: dict[str, dict[str, list[float]]] = {}
    points: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in _POINTS}
    told: dict[str, float] = {}
    for head in ("prompt", "text", "response"):
        index = [i for i, row in enumerate(held) if row.head == head and row.clean and row.risks is not None]
        mine = [held[i] for i in index]
        z, weight = out[index][:, at[head]], even(mine)
        gold = np.array([[risk in (row.risks or ()) for risk in RISKS] for row in mine])
        shown = np.array([row.any_risk for row in mine], dtype=bool)
        whole = np.logaddexp.reduce(z, axis=1)
        slopes[head] = {risk: list(platt(z[:, k], gold[:, k], weight)) for k, risk in enumerate(RISKS)}
        slopes[head]["any"] = list(platt(whole, shown, weight))
        told[head] = _over_folds(whole, shown, [folds[i] for i in index])
        p = {k: _sigmoid(slopes[head][k], z[:, n]) for n, k in enumerate(RISKS)} | {
            "any": _sigmoid(slopes[head]["any"], whole)
        }
        for name, point in _POINTS.items():
            points[name][head] = _bounds(p, mine, point)
    slopes["reply"] = _replies(held, out)
    return {
        "format": "cosa-embedded-calibration-1",
        "name": "shipped",
        "data": "sources left out of training",
        "measured": "AUROC of any risk on unseen sources, mean of folds: "
        + ", ".join(f"{head} {v:.2f}" for head, v in told.items()),
        "slopes": _rounded(slopes),
        "points": points,
        "floor": _FLOOR,
        "weak": _weak(begin, encoder, data),
        "sure": _sure(rows, folder, slopes, {head: bounds["any"][0] for head, bounds in points["strict"].items()}),
    }


def _over_folds(score: np.ndarray, shown: np.ndarray, folds: Sequence[int]) -> float:
    """Mean AUROC of the folds that hold both classes: answers of different models are not on one scale."""
    where = np.array(folds)
    both = [n for n in set(folds) if _FEWEST <= shown[where == n].sum() <= (where == n).sum() - _FEWEST]
    return float(np.mean([roc_auc_score(shown[where == n], score[where == n]) for n in both])) if both else math.nan


def _sigmoid(line: Sequence[float], logit: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-(line[0] * logit + line[1]))))


def _shows(row: Row, risk: str) -> bool:
    return risk in (row.risks or ())


def _bounds(p: dict[str, np.ndarray], rows: Sequence[Row], point: _Point) -> dict[str, list[float]]:
    """Thresholds of one head at one operating point, from calibrated probabilities on unseen sources."""

    def among(name: str, keep: Callable[[Row], bool]) -> tuple[np.ndarray, list[Row]]:
        here = [i for i, row in enumerate(rows) if keep(row)]
        return p[name][here], [rows[i] for i in here]

    found = {}
    for risk in RISKS:
        # Eight risks may each flag what 'any risk' does not: together they should flag half of the share.
        high = _high(*among(risk, lambda row: not row.any_risk), point.flagged / 16)
        low = _low(*among(risk, partial(_shows, risk=risk)), point.missed, high)
        found[risk] = [round(low, 4), round(high, 4)]
    high = _high(*among("any", lambda row: not row.any_risk), point.flagged / 2)
    low = _low(*among("any", lambda row: bool(row.any_risk)), point.cleared, high)
    return found | {"any": [round(low, 4), round(high, 4)]}


def _replies(held: Sequence[Row], out: np.ndarray) -> dict[str, list[float]]:
    at, found = slices()["reply"].start, {}
    for k, name in enumerate(("refused", "addressed")):
        index = [i for i, row in enumerate(held) if getattr(row, name) is not None and row.clean]
        gold = np.array([getattr(held[i], name) for i in index], dtype=bool)
        found[name] = list(platt(out[index, at + k], gold, even([held[i] for i in index])))
    return found


def _weak(begin: Start, encoder: Encoder, data: Path) -> dict[str, float]:
    """How far cosine tells texts that break a rule from texts about other rules, on texts that nobody trained on."""
    from cosa_training.judge.weak import matched_pairs  # noqa: PLC0415

    cosine, gold = matched_pairs(begin, encoder, data)
    share = gold.mean()  # of the pairs; weighted to what is usual, for the result is shown as a probability
    slope, intercept = platt(cosine, gold, np.where(gold, _PRIOR / share, (1 - _PRIOR) / (1 - share)))
    p = 1 / (1 + np.exp(-(slope * cosine + intercept)))
    return {
        "slope": round(slope, 4),
        "intercept": round(intercept, 4),
        # One match in ten may be wrong where one text in fifty breaks the rule; one breach in fifty may be ruled out.
        "found": round(_precise(p, gold), 4),
        "absent": round(float(np.quantile(p[gold], 0.02)), 4),
        "auroc": round(float(roc_auc_score(gold, cosine)), 4),
    }


def _precise(p: np.ndarray, gold: np.ndarray) -> float:
    """The least probability from which nine matches in ten are right; above all where none is."""
    for t in np.unique(p):
        right, wrong = (p[gold] >= t).mean() * _PRIOR, (p[~gold] >= t).mean() * (1 - _PRIOR)
        if right >= 9 * wrong and right:
            return float(t)
    return 1.01


def _sure(
    rows: Sequence[Row], folder: Path, slopes: dict[str, dict[str, list[float]]], low: dict[str, float]
) -> dict[str, float]:
    """Static logit of any risk up to which one in two hundred is missed of the rows that the encoder does not clear.

    On unseen sources, from the folds' static tiers: on known ones the static tier looks far better than it is.
    """
    found = {}
    at = slices()
    held, slow, _ = answers_of(rows, folder)
    _, quick, _ = answers_of(rows, folder, "fast, distilled")
    for head in ("prompt", "text", "response"):
        mine = [i for i, row in enumerate(held) if row.head == head]
        p = _sigmoid(slopes[head]["any"], np.logaddexp.reduce(slow[mine][:, at[head]], axis=1))
        open_still = p >= low[head]
        static = np.logaddexp.reduce(quick[mine][:, at[head]], axis=1)
        found[head] = round(float(np.quantile(static[open_still], 0.005)), 3) if open_still.sum() >= _FEWEST else -99.0
    return found


def _rounded(slopes: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    return {head: {k: [round(v, 4) for v in pair] for k, pair in row.items()} for head, row in slopes.items()}
