"""Granite Guardian with criteria of one's own: the compiled policy is the criterion, the answer a score tag.

Source: model card of ibm-granite/granite-guardian-4.1-8b (no-think mode, bring your own criteria). Sent are the
conversation as role messages and a last user message with the `<guardian>` block.
"""

from __future__ import annotations

import re

from cosa_guard.judges.calibration import Calibration
from cosa_guard.judges.guard_models.base import Asking, Question, misread
from cosa_guard.judges.guard_models.policies import PolicyFormat, ruling
from cosa_guard.judges.guard_models.prompts import Marks, asked, context, filled, policy
from cosa_guard.messages import Message
from cosa_guard.verdicts import Case

__all__ = ["GraniteGuardian"]

_MARKS = Marks(sections=("guardian", "think", "no-think", "score"), roles=("### Criteria", "### Scoring Schema"))
_SCORE = re.compile(r"(?:<think>\s*</think>\s*)?<score>\s*(yes|no)\s*</score>")


class GraniteGuardian(PolicyFormat):
    """The format of Granite Guardian 4.1."""

    __slots__ = ()
    id = "granite-guardian/1"

    def ask(self, case: Case, calibration: Calibration) -> Asking:  # noqa: ARG002  # it has no score
        """One question: does the last text meet the criterion of breaking the policy?"""
        if case.stage == "input":
            role, turns = "user", [Message("user", asked(case, _MARKS))]
        else:
            turns = [Message(turn.role, _MARKS.inert(turn.content)) for turn in context(case)]
            role, turns = "assistant", [*turns, Message("assistant", _MARKS.inert(case.text))]
        block = filled("granite-guardian.1.txt", policy=policy(case.config), role=role)
        answer = str((yield Question(messages=(*turns, Message("user", block)), max_tokens=48)))
        match = _SCORE.fullmatch(answer.strip())
        if not match:
            raise misread(self.id, answer, "'<score>yes</score>' or '<score>no</score>'")
        return ruling(case, violates=match.group(1) == "yes", said=f"breaks the policy: {match.group(1)}")
