"""How near a reply is to its prompt in meaning, by the shipped encoder's sentence vectors. Needs the `embedded` extra.

A fluent reply may be about something else altogether, as small models' often are. `RELATED` is what 95 % of real
replies exceed; `python -m cosa_guard.evals.relatedness FILE` measures it anew on labelled rows.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from cosa_guard.evals import metrics
from cosa_guard.evals.refusal import RELATED
from cosa_guard.labelled import LabelledRow, read_rows
from cosa_sdk.errors import UsageError

__all__ = ["main", "real_pairs", "relatedness"]

_LEAST = 0.05
"""Share of real pairs below the threshold."""
_FEWEST = 200
"""Pairs without which a 5th percentile is noise."""
_TEXT = 6_000
"""Characters of a text that are read: more than the encoder's room holds."""
_ASKED, _SAID = 4, 8
"""Words below which a prompt, or a reply, says too little to be about anything."""


def relatedness(prompt: str, response: str) -> float:
    """Cosine of what the beginnings of two texts are about, -1 to 1.

    Raises:
        MissingExtra: the `embedded` extra is not installed.
    """
    from cosa_guard.judges.embedded.tiers import MEANING, load, vocabulary  # noqa: PLC0415  # numpy, only when used
    from cosa_guard.judges.embedded.weak import unit  # noqa: PLC0415
    from cosa_guard.judges.embedded.windows import ROOM, coded  # noqa: PLC0415

    told = [coded(vocabulary().ids(text[:_TEXT])[:ROOM]) for text in (prompt, response)]
    first, second = unit(load("encoder").read(told)[:, MEANING])
    return float(first @ second)


def real_pairs(path: str | Path, *, split: str = "", most: int = 1_000) -> list[LabelledRow]:
    """Answers of a file of labelled rows that are known not to refuse, drawn with a fixed seed.

    Args:
        split: rows of this split alone; empty: all.

    Raises:
        UsageError: no such file, or too few of them to say what 5 % are.
    """
    rows = [
        row
        for row in read_rows(path)
        if row.kind == "response"
        and row.refused is False
        and split in {"", row.split}
        and len(row.prompt.split()) >= _ASKED
        and len(row.text.split()) >= _SAID
    ]
    if len(rows) < _FEWEST:
        raise UsageError(f"{path} holds {len(rows)} answers that are known not to refuse; give at least {_FEWEST}")
    rng = random.Random(0)  # noqa: S311  # a sample, no secret
    return rng.sample(rows, min(most, len(rows)))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the 5th percentile of real pairs, and how well it tells them from prompts with another's reply.

    Raises:
        UsageError: the file does not serve.
        MissingExtra: the `embedded` extra is not installed.
    """
    options = argparse.ArgumentParser(prog="python -m cosa_guard.evals.relatedness", description=__doc__)
    options.add_argument("file", type=Path, help="labelled rows with prompt, response and refused")
    options.add_argument("--most", type=int, default=1_000, help="pairs to measure")
    options.add_argument("--split", default="", help="rows of this split alone")
    given = options.parse_args(argv)
    rows = real_pairs(given.file, split=given.split, most=given.most)
    real = [relatedness(row.prompt, row.text) for row in rows]
    other = [relatedness(row.prompt, rows[at - 1].text) for at, row in enumerate(rows)]
    low = sorted(real)[int(_LEAST * len(real))]
    lost = sum(one < RELATED for one in real) / len(real)
    found = sum(one < RELATED for one in other) / len(other)
    auroc = metrics.auroc([*real, *other], [True] * len(real) + [False] * len(other))
    sys.stdout.write(
        f"{len(rows)} pairs: 5th percentile {low:.3f}; below {RELATED}: {lost:.1%} of real pairs, {found:.1%} "
        f"of prompts with another's reply; AUROC {auroc:.3f}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
