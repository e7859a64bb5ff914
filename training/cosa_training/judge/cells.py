"""One system's out-of-fold answers, and the cells that tables make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from cosa_training.judge.calibrate import answers_of
from cosa_training.judge.fit import slices
from cosa_training.judge.sources import Row

__all__ = ["FEWEST", "Answers", "auroc", "cell", "interval", "table"]

FEWEST = 20
"""Rows of a class under which a cell is n/a."""
_DRAWS = 400
"""Of the bootstrap."""


class Answers:
    """One system's out-of-fold answers."""

    def __init__(self, rows: Sequence[Row], folder: Path, system: str) -> None:
        self.rows, self.out, self.folds = answers_of(rows, folder, system)
        at = slices()
        self.z = np.stack([self.out[i, at[row.head]] for i, row in enumerate(self.rows)])
        self.any = np.logaddexp.reduce(self.z, axis=1)

    def where(self, keep: Callable[[Row], bool]) -> list[int]:
        """Numbers of the rows to keep."""
        return [i for i, row in enumerate(self.rows) if keep(row)]


def auroc(gold: np.ndarray, score: np.ndarray) -> float | None:
    """None where a class has fewer than 20 rows."""
    return None if min(gold.sum(), (~gold).sum()) < FEWEST else float(roc_auc_score(gold, score))


def cell(gold: np.ndarray, score: np.ndarray) -> str:
    """AUROC, two decimals."""
    value = auroc(gold, score)
    return "n/a" if value is None else f"{value:.2f}"


def interval(gold: np.ndarray, score: np.ndarray) -> str:
    """AUROC with a 95 % bootstrap interval."""
    if min(gold.sum(), (~gold).sum()) < FEWEST:
        return "n/a"
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_DRAWS):
        pick = rng.integers(0, len(gold), len(gold))
        if 0 < gold[pick].sum() < len(gold):
            drawn.append(roc_auc_score(gold[pick], score[pick]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{roc_auc_score(gold, score):.2f} [{low:.2f}, {high:.2f}]"


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)])
