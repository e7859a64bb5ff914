"""How far a model may be believed as a judge: measured, kept as data, never a number in code.

A calibration file names the model, the labelled data and what was measured on it. From it come two thresholds: above
`high` a text is called a violation, below `low` compliant, and in between the judge says that it does not know. A
model that cannot tell the two apart has no thresholds, and is always undecided.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from cosa_guard.verdicts import Stage

__all__ = ["UNCALIBRATED", "Calibration", "calibration_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was measured of one model as a judge of one stage."""

    low: float | None
    """Compliant at or below this probability of a breach; None when no threshold was good enough."""
    high: float | None
    """A violation at or above it."""
    data: str = ""
    """Name of the labelled data."""
    n: int = 0
    auroc: float | None = None
    auroc_ci: tuple[float, float] | None = None
    right: float | None = None
    """Of the held-out texts: the share decided rightly,"""
    wrong: float | None = None
    """wrongly,"""
    undecided: float | None = None
    """and not at all."""

    def decide(self, probability: float) -> bool | None:
        """True for a violation, False for compliant, None for not sure enough."""
        if self.high is not None and probability >= self.high:
            return True
        return False if self.low is not None and probability <= self.low else None

    def __str__(self) -> str:
        if not self.n or self.auroc is None or self.auroc_ci is None:
            return "accuracy not measured"
        low, high = self.auroc_ci
        told = f"AUROC {self.auroc:.2f} [{low:.2f}, {high:.2f}] on {self.n} {self.data}"
        if self.right is None:
            return told
        shares = f"{self.right:.0%} right, {self.wrong:.0%} wrong, {self.undecided:.0%} undecided"
        return f"{told}; of the held-out half {shares}"


UNCALIBRATED = Calibration(low=0.5, high=0.5)
"""Nobody has measured this model: the likelier one of its answers stands, and reports say that it was not measured."""


@lru_cache(maxsize=64)
def calibration_for(model: str, stage: Stage) -> Calibration:
    """The shipped calibration of a model, by the stem of its file name."""
    file = resources.files("cosa_guard.judges").joinpath("calibrations").joinpath(f"{model.lower()}.json")
    if not file.is_file():
        return UNCALIBRATED
    stages: dict[str, dict[str, Any]] = json.loads(file.read_text("utf-8"))["stages"]
    if stage not in stages:
        return UNCALIBRATED
    row = dict(stages[stage])
    if row.get("auroc_ci"):
        row["auroc_ci"] = tuple(row["auroc_ci"])
    return Calibration(**row)
