"""Two builds of the judge beside each other, on rows that neither was trained on.

    python -m cosa_training.judge.compare ONE OTHER --data FOLDER

Each is a folder with `encoder.onnx`, `fast.onnx` and `vocabulary.txt`. The rows are those of the split `dev`, whose
sources training knows: the figures flatter both, their difference does not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cosa_guard.judges.embedded.tiers import HEADS, Tier, logsumexp
from cosa_guard.judges.embedded.wordpiece import WordPiece
from cosa_training.judge.cells import auroc, table
from cosa_training.judge.fit import encode
from cosa_training.judge.sources import RISKS, Row, load
from cosa_training.judge.vocabulary import read

__all__ = ["compared", "main"]

_MOST = 1_500
"""Rows of a head."""


def _answers(folder: Path, tier: str, rows: Sequence[Row]) -> np.ndarray:
    tokenizer = WordPiece(read((folder / "vocabulary.txt").read_text("utf-8")))
    network = Tier((folder / f"{tier}.onnx").read_bytes())
    return np.asarray(network.read([encode(tokenizer, row.text, row.prompt) for row in rows]))


def compared(one: Path, other: Path, rows: Sequence[Row]) -> str:
    """A table: AUROC of each measure under both builds, their difference, and how alike their logits are."""
    body = []
    for tier in ("encoder", "fast"):
        for head in ("prompt", "text", "response"):
            mine = [row for row in rows if row.head == head and row.clean and row.risks is not None][:_MOST]
            if not mine:
                continue
            both = [_answers(folder, tier, mine) for folder in (one, other)]
            shown = np.array([bool(row.any_risk) for row in mine], dtype=bool)
            measures = [("any risk", shown, [logsumexp(out[:, HEADS[head]]) for out in both])]
            for k, risk in enumerate(RISKS):
                gold = np.array([risk in (row.risks or ()) for row in mine], dtype=bool)
                measures.append((risk, gold, [out[:, HEADS[head]][:, k] for out in both]))
            if head == "response":
                known = [n for n, row in enumerate(mine) if row.refused is not None]
                gold = np.array([bool(mine[n].refused) for n in known], dtype=bool)
                measures.append(("refused", gold, [out[known, HEADS["reply"].start] for out in both]))
            for name, gold, scores in measures:
                first, second = (auroc(gold, score) for score in scores)
                if first is None or second is None:
                    continue
                alike = float(np.corrcoef(scores[0], scores[1])[0, 1])
                cells = [f"{first:.3f}", f"{second:.3f}", f"{second - first:+.3f}", f"{alike:.3f}"]
                body.append([tier, head, name, str(len(gold)), *cells])
    return table(["tier", "head", "measure", "rows", "one", "other", "difference", "correlation"], body)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled data")
    chosen = parser.parse_args()
    rows = [row for row in load(chosen.data) if row.split == "dev"]
    print(compared(chosen.one, chosen.other, rows))


if __name__ == "__main__":
    main()
