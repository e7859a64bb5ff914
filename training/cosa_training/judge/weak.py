"""Pairs of a rule in words and a text, to calibrate how far likeness of meaning tells whether the rule is at stake."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np

from cosa_training.judge.encoder import Encoder
from cosa_training.judge.fit import logits
from cosa_training.judge.sources import Row
from cosa_training.judge.train import Start

__all__ = ["matched_pairs"]

_TEXTS = 1_500
_OTHERS = 4


def matched_pairs(begin: Start, encoder: Encoder, data: Path, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of rule and text, and whether the text breaks that rule.

    Each text that breaks a rule is paired with its own rule and with four others, drawn at random.
    """
    rng = random.Random(seed)  # noqa: S311
    with gzip.open(data / "texts_labelled.jsonl.gz", "rt", encoding="utf-8") as lines:
        raws = [raw for raw in map(json.loads, lines) if not raw["safe"] and raw["split"] == "dev"]
    rng.shuffle(raws)
    raws = raws[:_TEXTS]
    rules = sorted({raw["rule"] for raw in raws})
    where = {rule: number for number, rule in enumerate(rules)}

    def vectors(texts: list[str]) -> np.ndarray:
        rows = [Row(str(i), "", "text", text) for i, text in enumerate(texts)]
        found = logits(encoder, begin.tokenizer, rows)[:, 26:]
        return found / (np.linalg.norm(found, axis=1, keepdims=True) + 1e-9)

    told, asked = vectors(rules), vectors([raw["text"] for raw in raws])
    cosine, gold = [], []
    for number, raw in enumerate(raws):
        own = where[raw["rule"]]
        for rule in [own, *rng.sample([r for r in range(len(rules)) if r != own], _OTHERS)]:
            cosine.append(float(told[rule] @ asked[number]))
            gold.append(rule == own)
    return np.array(cosine), np.array(gold)
