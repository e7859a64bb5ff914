"""The dear baseline: a language model's yes/no log-odds, zero-shot, on a sample of the folds.

    python -m cosa_training.judge.llm --data FOLDER --model FILE.gguf --to FILE.json

The sample is balanced: as many risky as harmless prompts of each fold. `tables.py` puts the other systems' out-of-fold
answers on the same prompts beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cosa_guard import backends
from cosa_guard.judges.model import ModelJudge
from cosa_guard.verdicts import Case
from cosa_sdk.config import SafetyConfig
from cosa_training.judge.folds import FOLDS, Fold
from cosa_training.judge.sources import Row, load

__all__ = ["main", "sample"]

_LONGEST = 2_000
"""Characters of a prompt."""


def sample(fold: Fold, rows: Sequence[Row], each: int) -> list[Row]:
    """As many risky as harmless prompts of the left-out sources, the same ones for the same data."""
    rng = random.Random(0)  # noqa: S311  # a reproducible draw
    mine = [row for row in fold.held(rows) if row.head == "prompt" and row.clean]
    drawn: list[Row] = []
    for risky in (True, False):
        pool = [row for row in mine if row.any_risk is risky]
        drawn += rng.sample(pool, min(each, len(pool)))
    return drawn


def main() -> None:
    """Run it; progress goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--each", type=int, default=40, help="risky and harmless prompts of each fold")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "data" / "llm.json")
    chosen = parser.parse_args()
    rows = load(chosen.data)
    config = SafetyConfig(name="forbid-everything", purpose="general assistant", default="forbid")
    judge = ModelJudge(backends.make(f"local:{chosen.model}"))
    scores: dict[str, float] = {}
    began = time.monotonic()
    for fold in FOLDS:
        for row in sample(fold, rows, chosen.each):
            verdict = judge.judge(Case(config=config, stage="input", text=row.text[:_LONGEST]))
            scores[row.id] = round(float(verdict.score or 0.0), 4)
        print(f"{fold.name}: {len(scores)} prompts, {time.monotonic() - began:.0f} s", file=sys.stderr)
    seconds = (time.monotonic() - began) / len(scores)
    found = {"model": chosen.model.stem, "seconds_per_prompt": round(seconds, 2), "scores": scores}
    chosen.to.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
