"""DynaGuard: rules and a transcript in, PASS or FAIL in an answer tag out.

Source: model cards of tomg-group-umd/DynaGuard-1.7B, -4B and -8B, https://github.com/montehoover/DynaGuard. The model
was trained on what agents say. At the input stage the rule is about the user instead: nobody measured that.
"""

from __future__ import annotations

import re

from cosa_guard.judges.calibration import Calibration
from cosa_guard.judges.guard_models.base import Asking, Question, misread
from cosa_guard.judges.guard_models.policies import PolicyFormat, ruling
from cosa_guard.judges.guard_models.prompts import Marks, asked, context, filled, policy, template
from cosa_guard.messages import Message
from cosa_guard.verdicts import Case

__all__ = ["DynaGuard"]

_MARKS = Marks(
    sections=("rules", "transcript", "think", "answer", "explanation"),
    roles=("User", "Agent"),
    words=("/no_think", "/think"),  # its base is Qwen 3
)
_INNER = r"(?:(?!</?(?:think|answer|explanation)>).)*"
_ANSWER = re.compile(
    rf"(?:<think>{_INNER}</think>\s*)?<answer>\s*(PASS|FAIL)\s*</answer>(?:\s*<explanation>{_INNER}</explanation>)?",
    re.DOTALL,
)


class DynaGuard(PolicyFormat):
    """The format of DynaGuard."""

    __slots__ = ()
    id = "dynaguard/1"

    def ask(self, case: Case, calibration: Calibration) -> Asking:  # noqa: ARG002  # it has no score
        """One question: were the rules kept?"""
        if case.stage == "input":
            subject, lines = "What the user asks for", [("User", asked(case, _MARKS))]
        else:
            subject = "Everything that the agent says in its last message"
            shown = {"user": "User", "assistant": "Agent"}
            lines = [(shown[turn.role], _MARKS.inert(turn.content)) for turn in context(case)]
            lines.append(("Agent", _MARKS.inert(case.text)))
        transcript = "\n".join(f"'{role}': {text}" for role, text in lines)
        rules = filled("dynaguard.1.txt", subject=subject, policy=policy(case.config), transcript=transcript)
        messages = (Message("system", template("dynaguard-system.1.txt")), Message("user", rules))
        answer = str((yield Question(messages=messages, max_tokens=1024)))
        match = _ANSWER.fullmatch(answer.strip())
        if not match:
            raise misread(self.id, answer, "'<answer>PASS</answer>' or '<answer>FAIL</answer>'")
        return ruling(case, violates=match.group(1) == "FAIL", said=match.group(1))
