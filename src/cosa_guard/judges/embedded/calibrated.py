"""From logits to probabilities and thresholds: everything that was measured, kept as data and never as numbers in code.

Platt scaling (a slope and an intercept for each head and risk) fitted on answers about sources that the model had not
seen; thresholds at three operating points from the same answers. Probabilities travel badly between sources, rankings
do well: `cosa judge calibrate` fits slopes and intercepts anew on a user's own rows. The thresholds stay, for they are
probabilities, and those mean again what they say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from cosa_sdk import taxonomy
from cosa_sdk.errors import UsageError

__all__ = ["POINTS", "TIERS", "Calibrated", "Thresholds", "Tiers", "load", "read", "shipped", "sigmoid"]

POINTS = ("balanced", "strict", "permissive")
"""Operating points: few harmless texts flagged and few risky ones missed; fewer missed; fewer flagged."""
Tiers = Literal["both", "fast"]
"""The networks that gave the logits: the encoder behind the static tier, or the static tier alone."""
TIERS: tuple[Tiers, ...] = ("both", "fast")
_JUDGES = {"both": "embedded", "fast": "fast"}
"""Names of judges, by what reads."""
_FORMAT = "cosa-embedded-calibration-1"
_WEAK = ("slope", "intercept", "found", "absent")
_FLATTEST = 50.0
"""Log-odds beyond which probabilities no longer change."""


def sigmoid(log_odds: float) -> float:
    """The probability behind log-odds of any size."""
    return 1.0 / (1.0 + math.exp(-max(-_FLATTEST, min(_FLATTEST, log_odds))))


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Of one risk at one operating point, in probabilities."""

    low: float
    """Below it the risk is absent."""
    high: float
    """From it on the risk is shown; in between the judge does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """One calibration at one operating point."""

    name: str
    point: str
    data: str
    """What it was measured on."""
    slopes: Mapping[str, Mapping[str, tuple[float, float]]]
    """Head -> risk id, `any`, `refused` or `addressed` -> slope, intercept."""
    thresholds: Mapping[str, Mapping[str, Thresholds]]
    """Head -> risk id -> thresholds. `any`: of any risk; below `low` every risk is absent, from `high` on the likeliest
    risk is shown."""
    floor: Mapping[str, float]
    """Floor id -> probability from which a floor word counts: the category at a low threshold. `beside`: what the risks
    that are not the floor's own weigh."""
    weak: Mapping[str, float]
    """Matching of rules in words: slope, intercept, and the probabilities `found` and `absent`."""
    sure: Mapping[str, float]
    """Head -> logit of any risk up to which the static tier answers alone."""
    measured: str = ""
    """One line for people."""
    tier: Tiers = "both"
    """Whose logits it was fitted on: those of one say nothing about the other's."""

    def probability(self, head: str, name: str, logit: float) -> float:
        """Calibrated probability behind a logit."""
        slope, intercept = self.slopes[head][name]
        return sigmoid(slope * logit + intercept)

    def __str__(self) -> str:
        return f"{self.measured or 'accuracy not measured'} ({self.data}); operating point {self.point}"


def read(raw: Any, point: str, name: str) -> Calibrated:
    """A decoded calibration file at one operating point.

    Raises:
        UsageError: not a calibration of this judge, or no such operating point.
    """
    if not isinstance(raw, dict) or raw.get("format") != _FORMAT:
        raise UsageError(f"{name} is no calibration of the embedded judge; make one with `cosa judge calibrate`")
    try:
        points = raw["points"]
        if point not in points:
            raise UsageError(f"{name} has no operating point {point!r}; choices: {', '.join(points)}")
        found = _decoded(raw, point)
        _check(found)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(f"{name} is damaged: {type(error).__name__}: {error}") from error
    return found


def _decoded(raw: dict[str, Any], point: str) -> Calibrated:
    return Calibrated(
        name=str(raw["name"]),
        point=point,
        data=str(raw["data"]),
        slopes={head: {k: (float(a), float(b)) for k, (a, b) in row.items()} for head, row in raw["slopes"].items()},
        thresholds={
            head: {k: Thresholds(float(low), float(high)) for k, (low, high) in row.items()}
            for head, row in raw["points"][point].items()
        },
        floor={k: float(v) for k, v in raw["floor"].items()},
        weak={k: float(v) for k, v in raw["weak"].items()},
        sure={k: float(v) for k, v in raw["sure"].items()},
        measured=str(raw.get("measured", "")),
        tier=_tier(raw.get("tier", "both")),
    )


def _tier(value: Any) -> Tiers:
    for tier in TIERS:
        if value == tier:
            return tier
    raise ValueError(f"the tier is {value!r}; choices: {', '.join(TIERS)}")


def _check(found: Calibrated) -> None:
    """All that the judge looks up is there and means something.

    Raises:
        KeyError: a part is missing.
        ValueError: a part cannot be true.
    """
    risks = taxonomy.builtin().ids
    for head in ("prompt", "text", "response"):
        looked_up = [found.slopes[head][risk] for risk in (*risks, "any")]
        looked_up += [(bounds.low, bounds.high) for bounds in (found.thresholds[head][k] for k in (*risks, "any"))]
        if not all(map(math.isfinite, (found.sure[head], *chain.from_iterable(looked_up)))):
            raise ValueError(f"a number of {head!r} is not finite")
        for name in (*risks, "any"):
            if found.slopes[head][name][0] <= 0:
                raise ValueError(f"the slope of {name!r} for {head!r} turns its ranking round")
            if found.thresholds[head][name].low > found.thresholds[head][name].high:
                raise ValueError(f"the thresholds of {name!r} for {head!r} are the wrong way round")
    others = [*found.slopes["reply"]["refused"], *found.slopes["reply"]["addressed"]]
    others += [*(found.floor[name] for name in (*taxonomy.FLOOR, "beside")), *(found.weak[part] for part in _WEAK)]
    if not all(map(math.isfinite, others)):
        raise ValueError("a number is not finite")
    if found.weak["slope"] <= 0:
        raise ValueError("the slope of weak matches turns their ranking round")
    if found.weak["absent"] > found.weak["found"]:
        raise ValueError("the probabilities of weak matches are the wrong way round")


@cache
def shipped() -> dict[str, Any]:
    """The calibration that ships with the weights, decoded."""
    file = resources.files("cosa_guard.judges.embedded").joinpath("weights").joinpath("calibration.json")
    raw: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return raw


def load(argument: str | None, tier: Tiers = "both") -> Calibrated:
    """By operating point, by file, or `file#point`; nothing means `balanced`.

    Args:
        tier: what is to be calibrated. What ships was fitted with both, and serves either; a file serves the one that
            it was made with.

    Raises:
        UsageError: neither a point nor a readable file, or a file that was fitted with the other tier.
    """
    if argument is None or argument in POINTS:
        return read(shipped(), argument or "balanced", "the shipped calibration")
    path, point = _path(argument)
    if path is None:
        raise UsageError(
            f"{argument!r} is neither an operating point ({', '.join(POINTS)}) nor a calibration file; "
            "make one with `cosa judge calibrate`"
        )
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a calibration file: {error}") from error
    found = read(raw, point or "balanced", str(path))
    if found.tier != tier:
        made, asked = _JUDGES[found.tier], _JUDGES[tier]
        raise UsageError(
            f"{path} was made for the judge {made!r}, not for {asked!r}; use it as --judge {made}:{argument}, or make "
            f"another with `cosa judge calibrate --judge {asked}`"
        )
    return found


def _path(argument: str) -> tuple[Path | None, str]:
    """The file that is meant, and the point behind a `#`; a file's own name may hold one."""
    file, _, point = argument.rpartition("#")
    for name, behind in ((argument, ""), (file, point)):
        try:
            if name and Path(name).is_file():
                return Path(name), behind
        except OSError:  # too long for a file's name
            continue
    return None, ""
