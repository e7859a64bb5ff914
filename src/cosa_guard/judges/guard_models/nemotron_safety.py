"""Nemotron Content Safety Reasoning: the policy stands in place of the taxonomy; two lines of harm are the answer.

Source: model card of nvidia/Nemotron-Content-Safety-Reasoning-4B (reasoning off). The prompt is one user message.
"""

from __future__ import annotations

import re

from cosa_guard.judges.calibration import Calibration
from cosa_guard.judges.guard_models.base import Asking, Question, misread
from cosa_guard.judges.guard_models.policies import PolicyFormat, ruling
from cosa_guard.judges.guard_models.prompts import Marks, asked, context, filled, policy, spelled
from cosa_guard.messages import Message
from cosa_guard.verdicts import Case

__all__ = ["NemotronSafety"]

_MARKS = Marks(
    sections=("think", "reasoning"),
    roles=("Human user", "AI assistant", "Taxonomy", "Prompt harm", "Response harm"),
    words=("/no_think", "/think"),
)
_NO_REPLY = "None"
_HARM = re.compile(r'"?Prompt harm: (harmful|unharmful)(?:\s*\nResponse [Hh]arm: (harmful|unharmful|None))?"?')


class NemotronSafety(PolicyFormat):
    """The format of Nemotron Content Safety Reasoning."""

    __slots__ = ()
    id = "nemotron-safety/1"

    def ask(self, case: Case, calibration: Calibration) -> Asking:  # noqa: ARG002  # it has no score
        """One question; at the output stage only the response's harm counts, for a refusal answers a bad prompt."""
        if case.stage == "input":
            question, reply = asked(case, _MARKS), _NO_REPLY
        else:
            turns = context(case)
            question = _MARKS.inert(turns[0].content) if len(turns) == 1 else spelled(turns, _MARKS)
            reply = _MARKS.inert(case.text)
        prompt = filled("nemotron-safety.1.txt", policy=policy(case.config), question=question, reply=reply)
        answer = str((yield Question(messages=(Message("user", prompt),), max_tokens=64)))
        match = _HARM.fullmatch(answer.strip())
        asks, replies = match.groups() if match else (None, None)
        if case.stage == "input":
            harm = asks if replies != "harmful" else None  # there is no response that could be
        else:
            harm = replies if replies != "None" else None
        if harm is None:
            raise misread(self.id, answer, "lines 'Prompt harm: …' and, of a reply, 'Response harm: …'")
        return ruling(case, violates=harm == "harmful", said=harm)
