"""The folds, run: out-of-fold answers of the encoder and of every baseline. `tables.py` makes tables of them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from cosa_training.judge.encoder import Encoder
from cosa_training.judge.fit import logits, meanings, slices
from cosa_training.judge.folds import FOLDS, Fold
from cosa_training.judge.sources import RISKS, Row, load
from cosa_training.judge.train import ENCODER, Start, all_about, start, train_encoder, train_fast

__all__ = ["main", "out_of_fold"]

_LINEAR_ROWS = 10_000
"""Rows that a logistic regression of a baseline is fitted on: more changed nothing."""
_WIDTH = 26
FOLD = replace(ENCODER, epochs=1.25, most_of_a_source=3_000)
"""The recipe, shortened: half of the largest source in an epoch and five eighths of the epochs, for there are six."""


_Features = Callable[[Sequence[Row]], Any]


def _joined(row: Row) -> str:
    return f"{row.prompt} ||| {row.text}" if row.head == "response" else row.text


def _linear(train: Sequence[Row], held: Sequence[Row], features: _Features) -> np.ndarray:
    """One logistic regression an output, head by head."""
    at = slices()
    out: np.ndarray = np.full((len(held), _WIDTH), -6.0, dtype=np.float32)
    for head in ("prompt", "text", "response"):
        mine = [row for row in train if row.head == head and row.risks is not None]
        mine = mine[:: -(-len(mine) // _LINEAR_ROWS)] if mine else []
        asked = [i for i, row in enumerate(held) if row.head == head]
        if not mine or not asked:
            continue
        made = features([*mine, *(held[i] for i in asked)])
        x, seen = made[: len(mine)], made[len(mine) :]
        weights = np.array([row.weight for row in mine])
        jobs = [(at[head].start + k, [risk in row.risks if row.risks is not None else None for row in mine])
                for k, risk in enumerate(RISKS)]  # fmt: skip
        if head == "response":
            jobs.append((at["reply"].start, [row.refused for row in mine]))
        for column, gold in jobs:
            known = [i for i, value in enumerate(gold) if value is not None]
            y = np.array([bool(gold[i]) for i in known])
            if 5 <= y.sum() <= len(y) - 5:
                fitted = LogisticRegression(max_iter=300, C=3.0).fit(x[known], y, sample_weight=weights[known])
                out[asked, column] = fitted.decision_function(seen)
    return out


def _tfidf(rows: Sequence[Row]) -> Any:
    return TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit_transform(
        [_joined(row) for row in rows]
    )


def frozen(begin: Start, model: Encoder) -> _Features:
    """Sentence vectors of the untrained encoder, each row once."""
    vectors: dict[int, np.ndarray] = {}

    def found(rows: Sequence[Row]) -> Any:
        new = [row for row in rows if id(row) not in vectors]
        vectors.update(zip(map(id, new), meanings(model, begin.tokenizer, [_joined(row) for row in new]), strict=True))
        return np.stack([vectors[id(row)] for row in rows]) * 8.0

    return found


def run_fold(
    fold: Fold, rows: Sequence[Row], begin: Start, about: np.ndarray, only: str, vectors: _Features
) -> dict[str, np.ndarray]:
    """Answers about the left-out rows, by system."""
    train, held = fold.train(rows), fold.held(rows)
    place = {id(row): number for number, row in enumerate(rows)}
    if only == "encoder":
        model = train_encoder(begin, train, about[[place[id(row)] for row in train]], FOLD, name=fold.name)
        fast = train_fast(begin, model, train)
        return {
            "encoder": logits(model, begin.tokenizer, held)[:, :_WIDTH],
            "fast, distilled": logits(fast, begin.tokenizer, held),
        }
    fast = train_fast(begin, None, train)
    return {
        "TF-IDF + LR": _linear(train, held, _tfidf),
        "frozen MiniLM + LR": _linear(train, held, vectors),
        "fast, labels only": logits(fast, begin.tokenizer, held),
    }


def out_of_fold(
    data: Path, to: Path, folds: Sequence[int], only: str, *, cache: Path | None = None, seed: int = 0
) -> None:
    """Run some folds; each leaves `<number>.<only>.npz` behind and is skipped when that is there."""
    rows = load(data, seed=seed)
    begin = start(rows)
    about = all_about(begin, rows, cache) if only == "encoder" else np.zeros((len(rows), 1))
    to.mkdir(parents=True, exist_ok=True)
    vectors = frozen(begin, begin.encoder())
    for number in folds:
        kept = to / f"{number}.{only}.npz"
        if kept.exists():
            continue
        began = time.monotonic()
        made = run_fold(FOLDS[number], rows, begin, about, only, vectors)
        held = FOLDS[number].held(rows)
        partial = kept.with_suffix(".part")
        columns: dict[str, Any] = {system: answers.astype(np.float16) for system, answers in made.items()}
        ids, heads = np.array([row.id for row in held]), np.array([row.head for row in held])
        with partial.open("wb") as file:
            np.savez_compressed(file, ids=ids, heads=heads, **columns)
        partial.rename(kept)
        seconds = time.monotonic() - began
        print(f"fold {FOLDS[number].name}: {only}, {len(held)} rows, {seconds:.0f} s", file=sys.stderr)


def main() -> None:
    """`python -m cosa_training.judge.measure --data PATH --to FOLDER`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled data")
    parser.add_argument("--to", type=Path, required=True, help="where out-of-fold answers are kept")
    parser.add_argument("--folds", default=",".join(map(str, range(len(FOLDS)))))
    parser.add_argument("--only", choices=["encoder", "baselines"], default="encoder")
    parser.add_argument("--cache", type=Path, help="folder for what runs can share")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    out_of_fold(chosen.data, chosen.to, [int(n) for n in chosen.folds.split(",")], chosen.only, cache=chosen.cache)


if __name__ == "__main__":
    main()
