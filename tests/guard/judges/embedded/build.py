"""What tests of the embedded judge share: calibrations in plain numbers, and networks that say what a test says."""

from __future__ import annotations

import json
from functools import partial

import numpy as np

from cosa_guard.judges.embedded.judge import RISKS, Embedded
from cosa_guard.judges.embedded.tiers import HEADS
from cosa_guard.verdicts import Case
from cosa_sdk import SafetyConfig

FORBID = SafetyConfig(name="forbid", rules=[{"risk": risk, "stance": "forbid"} for risk in RISKS])
READERS = ("prompt", "text", "response")
MEANINGS = 4


def raw(**changes):
    """A calibration that changes nothing: probabilities are the sigmoid of logits, unsure from 0.3 to 0.5."""
    risks = {"any": [0.0, 1.0]} | {risk: [0.3, 0.5] for risk in RISKS}
    points = {"balanced": risks, "strict": {"any": [0.0, 1.0]} | {risk: [0.1, 0.2] for risk in RISKS}, "permissive": {"any": [0.0, 1.0]} | {risk: [0.6, 0.9] for risk in RISKS}}
    return {
        "format": "cosa-embedded-calibration-1",
        "name": "plain",
        "data": "nothing",
        "slopes": {
            **{head: {risk: [1, 0] for risk in (*RISKS, "any")} for head in READERS},
            "reply": {"refused": [1, 0], "addressed": [1, 0]},
        },
        "points": {point: dict.fromkeys(READERS, one) for point, one in points.items()},
        "floor": {"floor.minors": 0.25, "floor.mass_harm": 0.35, "beside": 0.4},
        "weak": {"slope": 10, "intercept": -5, "found": 0.9, "absent": 0.1},
        "sure": dict.fromkeys(READERS, -99),
        **changes,
    }


def written(path, content=None):
    path.write_text(json.dumps(raw() if content is None else content), "utf-8")
    return path


class Told:
    """A network that gives logits by risk: a mapping, or a function of the ids it reads. -9 where nothing is told."""

    def __init__(self, logits, *, replies=(0.0, 0.0)):
        self.logits, self.replies, self.read_rows = logits, replies, []

    def read(self, rows):
        self.read_rows += rows
        out = np.full((len(rows), 26 + MEANINGS), -9.0, dtype=np.float32)
        for number, (ids, _) in enumerate(rows):
            said = self.logits(ids) if callable(self.logits) else self.logits
            for head in READERS:
                for risk, logit in said.items():
                    out[number, HEADS[head].start + RISKS.index(risk)] = logit
            out[number, HEADS["reply"]] = self.replies
            out[number, 26:] = 1.0
        return out


def told(file, encoder, *, fast=None, point="balanced", **options):
    """The judge with a plain calibration, over networks that say what they are told."""
    judge = Embedded(f"{file}#{point}")
    judge._encoder = Told(encoder, **options)
    judge._fast = Told(encoder if fast is None else fast)
    return judge


def case(text, *turns, config=FORBID, stage="input"):
    return Case(config=config, stage=stage, text=text, turns=turns)


output = partial(case, stage="output")
