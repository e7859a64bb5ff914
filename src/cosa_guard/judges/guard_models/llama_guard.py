"""Llama Guard 3 and 4: 14 fixed hazard categories, answered as `safe`, or `unsafe` and a line of codes.

Source: model cards of Llama Guard 3 (1B, 8B) and Llama Guard 4 (12B), https://github.com/meta-llama/PurpleLlama. Both
have the same categories and the same text around the conversation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cosa_guard.judges.calibration import Calibration
from cosa_guard.judges.guard_models.base import Asking, Question, Reading, misread
from cosa_guard.judges.guard_models.categories import categories, coverage, evidence
from cosa_guard.judges.guard_models.prompts import Marks, asked, context, filled
from cosa_guard.messages import Message
from cosa_guard.verdicts import Case
from cosa_sdk.config import SafetyConfig

__all__ = ["LlamaGuard"]

_TABLE = "llama-guard-3"
_MARKS = Marks(
    sections=("BEGIN CONVERSATION", "END CONVERSATION", "BEGIN UNSAFE CONTENT", "END UNSAFE CONTENT"),
    roles=("User", "Agent"),
)
_UNSAFE = re.compile(r"unsafe[ \t]*\n\s*(S\d{1,2}(?:[ \t]*,[ \t]*S\d{1,2})*)")
_NO_QUESTION = "(no message)"


@dataclass(frozen=True, slots=True)
class LlamaGuard:
    """The format of Llama Guard.

    Args:
        version: 3 or 4.
        template: `server`: the conversation is sent as role messages, and the model's own chat template writes the
            task around it, as in vLLM, llama-server, Ollama and hosted endpoints. `card`: one user message with the
            task of the model card, for a backend whose chat template is a plain one.
    """

    version: Literal[3, 4] = 3
    template: Literal["server", "card"] = "server"
    scored = False

    @property
    def name(self) -> str:
        """Model version and prompt version."""
        return f"llama-guard-{self.version}/1" + ("" if self.template == "server" else "-card")

    def covers(self, config: SafetyConfig) -> frozenset[str]:
        """All risks of the taxonomy and the floor; no rules in words, no guideline."""
        return coverage(_TABLE) & config.elements

    def ask(self, case: Case, calibration: Calibration) -> Asking:  # noqa: ARG002  # it has no score
        """One question: is the last message safe?"""
        messages = _as_card(case) if self.template == "card" else _as_roles(case)
        answer = yield Question(messages=messages, max_tokens=64)
        codes = _codes(self.name, str(answer))
        named = {category.partition(" ")[0]: category for category in categories(_TABLE)}
        flagged = [named[code] for code in codes]
        said = ", ".join(flagged) or "safe"
        return Reading(evidence=evidence(_TABLE, case.config, flagged), reason=said)


def _as_roles(case: Case) -> tuple[Message, ...]:
    """Alternating roles, the user's first: the model's template refuses anything else."""
    if case.stage == "input":
        return (Message("user", asked(case, _MARKS)),)
    turns = [Message(turn.role, _MARKS.inert(turn.content)) for turn in context(case)]
    if not turns or turns[0].role != "user":
        turns.insert(0, Message("user", _NO_QUESTION))
    if turns[-1].role != "user":
        turns.append(Message("user", _NO_QUESTION))
    return (*turns, Message("assistant", _MARKS.inert(case.text)))


def _as_card(case: Case) -> tuple[Message, ...]:
    shown = {"user": "User", "assistant": "Agent"}
    lines = [f"{shown[turn.role]}: {turn.content}" for turn in _as_roles(case)]
    role = "User" if case.stage == "input" else "Agent"
    return (Message("user", filled("llama-guard.1.txt", role=role, conversation="\n\n".join(lines))),)


def _codes(name: str, answer: str) -> list[str]:
    """The codes of the violated categories; none for `safe`."""
    text = answer.strip()
    if text == "safe":
        return []
    match = _UNSAFE.fullmatch(text)
    codes = re.findall(r"S\d+", match.group(1)) if match else []
    known = {category.partition(" ")[0] for category in categories(_TABLE)}
    if not codes or not known.issuperset(codes):
        raise misread(name, answer, "'safe', or 'unsafe' and a line of category codes S1 to S14")
    return list(dict.fromkeys(codes))
