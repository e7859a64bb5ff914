"""ShieldGemma: one yes-or-no question for each of four harms, with a score in the first token's probabilities.

Source: model card of google/shieldgemma-2b, -9b and -27b, https://ai.google.dev/gemma/docs/shieldgemma/model_card. The
prompt is one user message; serve the model with a plain Gemma chat template, for the one in its tokenizer wants the
guideline as an argument that no chat API passes on. Backends show turn marks in a message as text (`openai_http` puts a
space into them), so the model reads them as words, where its card has control tokens: calibrate it before you trust it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from cosa_guard.judges.calibration import Calibration
from cosa_guard.judges.guard_models.base import Answer, Asking, Question, Reading, misread
from cosa_guard.judges.guard_models.categories import coverage, evidence
from cosa_guard.judges.guard_models.prompts import Marks, asked, context, filled, spelled, template
from cosa_guard.judges.model import ruled, yes_probability
from cosa_guard.messages import Message
from cosa_guard.verdicts import Case
from cosa_sdk.config import SafetyConfig
from cosa_sdk.taxonomy import from_external

__all__ = ["ShieldGemma"]

_TABLE = "shieldgemma"
_MARKS = Marks(roles=("Human Question", "Chatbot Response"))


@dataclass(frozen=True, slots=True)
class ShieldGemma:
    """The format of ShieldGemma."""

    name = "shieldgemma/1"
    scored = True

    def covers(self, config: SafetyConfig) -> frozenset[str]:
        """Four of the risks. Not the floor, and not `other`, of which it knows little."""
        return coverage(_TABLE) & config.elements

    def ask(self, case: Case, calibration: Calibration) -> Asking:
        """Four questions, one guideline each, as the model was trained."""
        found, unsure, scores = [], [], {}
        for category, guideline in json.loads(template("shieldgemma-guidelines.1.json")).items():
            messages = (Message("user", _prompt(case, guideline[case.stage])),)
            answer = yield Question(messages=messages, max_tokens=8, stop=("\n",))
            scores[category], breaks = _read(answer, calibration)
            if breaks is None:
                unsure.append(category)
            elif breaks:
                found.append(category)
        risks: dict[str, float] = {}
        for category, p in scores.items():
            ours = from_external(_TABLE, category)
            if len(ours) == 1:
                risks[ours[0]] = max(p, risks.get(ours[0], 0.0))
        said = ", ".join(f"{category} {p:.2f}" for category, p in scores.items())
        return Reading(
            evidence=evidence(_TABLE, case.config, found, unsure=unsure),
            reason=f"{said}; {calibration}",
            risks=risks,
        )


def _prompt(case: Case, guideline: str) -> str:
    if case.stage == "input":
        return filled("shieldgemma-input.1.txt", question=asked(case, _MARKS), guideline=guideline)
    turns = context(case)
    question = _MARKS.inert(turns[0].content) if len(turns) == 1 else spelled(turns, _MARKS)
    reply = _MARKS.inert(case.text)
    return filled("shieldgemma-output.1.txt", question=question, reply=reply, guideline=guideline)


def _read(answer: Answer, calibration: Calibration) -> tuple[float, bool | None]:
    """Probability of Yes (of a written answer 0 or 1), and what it comes to."""
    if isinstance(answer, Mapping):
        probability = yes_probability(answer)
        return probability, ruled(probability, answer, calibration)
    word = answer.strip().removesuffix(".")
    if word not in {"Yes", "No"}:
        raise misread(ShieldGemma.name, answer, "'Yes' or 'No'")
    return float(word == "Yes"), calibration.decide(float(word == "Yes"))
