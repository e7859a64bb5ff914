"""Timing two or more things in turn, so that a drifting machine drifts for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def interleaved(arms: dict[str, Callable[[], object]], *, rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each call of each arm, the arms taking turns (A B C A B C …)."""
    for _ in range(warmup):
        for call in arms.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, call in arms.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def median(seconds: list[float]) -> float:
    return statistics.median(seconds)


def added(seconds: dict[str, list[float]], arm: str, baseline: str) -> float:
    """Median over rounds of arm minus baseline, in seconds: each pair ran side by side."""
    return statistics.median(a - b for a, b in zip(seconds[arm], seconds[baseline], strict=True))


def ratio(seconds: dict[str, list[float]], arm: str, baseline: str) -> float:
    """Median over rounds of arm ÷ baseline."""
    return statistics.median(a / b for a, b in zip(seconds[arm], seconds[baseline], strict=True))


def row(label: str, *cells: object) -> None:
    print(f"{label:<44}" + "".join(f"{cell!s:>18}" for cell in cells))
