"""Leave-one-source-out: every fold leaves out a risky source, a harmless one and a source of responses, all at once.

What a fold's models say about the left-out rows is kept ('out of fold'): the tables, the calibration and the operating
points come from it alone, because a random tenth of the same sources predicts nothing about a new one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from cosa_training.judge.sources import Row

__all__ = ["FOLDS", "Fold"]


@dataclass(frozen=True, slots=True)
class Fold:
    """Sources that stay out of training together."""

    name: str
    out: frozenset[str]

    def train(self, rows: Sequence[Row]) -> list[Row]:
        """What may be learnt from: no row of the left-out sources, nor one that reads like one of them."""
        groups = {row.group for row in rows if row.source in self.out}
        return [row for row in rows if row.source not in self.out and row.group not in groups and row.split == "train"]

    def held(self, rows: Sequence[Row]) -> list[Row]:
        """What is measured on: rows of the left-out sources whose words no training row has (canned refusals do)."""
        taught = {(row.head, _words(row.text)) for row in self.train(rows)}
        return [row for row in rows if row.source in self.out and (row.head, _words(row.text)) not in taught]


@cache
def _words(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.lower())


FOLDS = (
    Fold("catqa + phtest", frozenset({"catqa", "dangerousqa", "phtest", "gptfuzz-labeled", "cosa-texts"})),
    Fold(
        "do-not-answer + coconot",
        frozenset({"do-not-answer", "coconot", "coconot-pairs", "fake-alignment", "refusal-direction"}),
    ),
    Fold("harmfulqa + certified", frozenset({"harmfulqa", "certified-llm-safety", "hh-rlhf", "polyguard"})),
    Fold(
        "written contrast",
        frozenset({"cosa-contrast", "cosa-contrast2", "cosa-responses", "cosa-responses2", "latent-jailbreak"}),
    ),
    Fold(
        "xsafety + everyday",
        frozenset(
            {"xsafety-en", "dolly", "self-instruct-seed", "wildchat", "diasafety", "cosa-plain", "cosa-languages"}
        ),
    ),
    Fold("wildguard", frozenset({"wildguard", "cosa-responses3"})),
)
"""The sixth leaves out the largest source of prompts, risky and harmless together."""
