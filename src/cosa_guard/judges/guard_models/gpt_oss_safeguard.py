"""gpt-oss-safeguard: the policy is the system message, the content the user message, the answer the JSON we ask for.

Source: model card of openai/gpt-oss-safeguard-20b and -120b and the user guide for gpt-oss-safeguard (2025-10-29). The
server renders harmony and keeps the reasoning apart; an answer with reasoning in it is not read.
"""

from __future__ import annotations

import json

from cosa_guard.judges.calibration import Calibration
from cosa_guard.judges.guard_models.base import Asking, Question, misread
from cosa_guard.judges.guard_models.policies import PolicyFormat, ruling
from cosa_guard.judges.guard_models.prompts import Marks, asked, context, filled, policy, spelled
from cosa_guard.judges.model import once
from cosa_guard.messages import Message
from cosa_guard.verdicts import Case

__all__ = ["GptOssSafeguard"]

_MARKS = Marks(sections=("conversation", "content"))
_EXPECTED = 'one JSON object {"violation": 0 or 1, "rationale": "…"}'


class GptOssSafeguard(PolicyFormat):
    """The format of gpt-oss-safeguard."""

    __slots__ = ()
    id = "gpt-oss-safeguard/1"

    def ask(self, case: Case, calibration: Calibration) -> Asking:  # noqa: ARG002  # it has no score
        """One question, answered after reasoning: hence the many tokens."""
        if case.stage == "input":
            subject, before = "what the user asks for in the content", ""
            content = asked(case, _MARKS)
        else:
            subject, content = "the assistant's reply in the content", _MARKS.inert(case.text)
            lines = spelled(context(case), _MARKS)
            before = f"<conversation>\n{lines}\n</conversation>\n" if lines else ""
        system = filled("gpt-oss-safeguard.1.txt", policy=policy(case.config), subject=subject)
        user = f"{before}<content>\n{content}\n</content>"
        answer = str((yield Question(messages=(Message("system", system), Message("user", user)), max_tokens=2048)))
        violation, rationale = _label(answer)
        return ruling(case, violates=violation, said=rationale or f"violation {int(violation)}")


def _label(answer: str) -> tuple[bool, str]:
    try:
        parsed = json.loads(answer, object_pairs_hook=once)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, dict) and parsed.keys() <= {"violation", "rationale"}:
        violation, rationale = parsed.get("violation"), parsed.get("rationale", "")
        if type(violation) is int and violation in {0, 1} and isinstance(rationale, str):
            return violation == 1, rationale[:200]
    raise misread(GptOssSafeguard.id, answer, _EXPECTED)
