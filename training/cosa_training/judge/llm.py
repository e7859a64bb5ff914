"""The dear baseline: a language model's yes/no log-odds, zero-shot, on a sample of the folds.

    python -m cosa_training.judge.llm --data FOLDER --model FILE.gguf --to FILE.json

The sample is balanced (as many risky as harmless prompts of each fold), and the encoder's out-of-fold answers on the
same rows stand beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from cosa_guard import backends
from cosa_guard.judges.model import ModelJudge
from cosa_guard.verdicts import Case
from cosa_sdk.config import SafetyConfig
from cosa_training.judge.calibrate import answers_of
from cosa_training.judge.fit import slices
from cosa_training.judge.folds import FOLDS
from cosa_training.judge.sources import load

__all__ = ["main"]


def main() -> None:
    """Run it; progress goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--answers", type=Path, default=Path(__file__).parent / "data" / "answers")
    parser.add_argument("--each", type=int, default=20, help="risky and harmless prompts of each fold")
    parser.add_argument("--to", type=Path, required=True)
    chosen = parser.parse_args()
    rows, out, folds = answers_of(load(chosen.data), chosen.answers)
    rng = random.Random(0)  # noqa: S311
    config = SafetyConfig(name="forbid-everything", purpose="general assistant", default="forbid")
    judge = ModelJudge(backends.make(f"local:{chosen.model}"))
    at = slices()["prompt"]
    gold, ours, theirs, where = [], [], [], []
    began = time.monotonic()
    for number, fold in enumerate(FOLDS):
        mine = [i for i, row in enumerate(rows) if folds[i] == number and row.head == "prompt" and row.clean]
        for risky in (True, False):
            pool = [i for i in mine if rows[i].any_risk is risky]
            for i in rng.sample(pool, min(chosen.each, len(pool))):
                verdict = judge.judge(Case(config=config, stage="input", text=rows[i].text[:2000]))
                gold.append(risky)
                where.append(number)
                ours.append(float(np.logaddexp.reduce(out[i, at])))
                theirs.append(float(verdict.score or 0.0))
        print(f"{fold.name}: {len(gold)} prompts, {time.monotonic() - began:.0f} s", file=sys.stderr)
    y = np.array(gold)

    def score(said: list[float]) -> dict[str, object]:
        values = np.array(said)
        by = {}
        for number, fold in enumerate(FOLDS):
            here = np.array(where) == number
            if 0 < y[here].sum() < here.sum():
                by[fold.name] = round(float(roc_auc_score(y[here], values[here])), 3)
        return {"pooled": round(float(roc_auc_score(y, values)), 3), "by_fold": by}

    found = {
        "model": chosen.model.stem,
        "n": len(gold),
        "seconds_per_prompt": round((time.monotonic() - began) / len(gold), 2),
        "llm": score(theirs),
        "encoder": score(ours),
    }
    chosen.to.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
