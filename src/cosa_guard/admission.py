"""What happens before a model is asked: judging the caller's turns, and what the model is told. No I/O, no clock."""

from __future__ import annotations

from typing import Literal

from cosa_guard.conversation import Conversation
from cosa_guard.screening import Policy, on_record, screen
from cosa_guard.steps import Flow
from cosa_guard.verdicts import Case, Report, Ruling
from cosa_sdk.compile import feedback, partial_note
from cosa_sdk.decide import Evidence, decide

__all__ = ["Admission", "screen_input", "system_text"]

Admission = Literal["answer", "partial", "refuse"]


def screen_input(policy: Policy, conversation: Conversation, report: Report, request: str = "") -> Flow[Admission]:
    """Judge the caller's turns: answered whole, in part, or refused.

    Args:
        request: names the call on record.
    """
    config = policy.config
    report.dropped_turns = conversation.dropped
    if conversation.media and config.enforcement.media == "refuse":
        yield from _refuse_media(policy, conversation, report, request)
        return "refuse"
    case = Case(config=config, stage="input", text=conversation.text, turns=conversation.judged)
    ruling = yield from screen(policy, case, request)
    report.rulings.append(ruling)
    report.error = ruling.error
    if policy.allows(ruling):
        if ruling.outcome == "violates" and config.enforcement.input == "warn":
            report.act = "warn"
        return "answer"
    if ruling.decision.prompt_type == "partial" and not (ruling.decision.floor or policy.failed(ruling)):
        report.act = "partial"
        return "partial"
    return "refuse"


def _refuse_media(policy: Policy, conversation: Conversation, report: Report, request: str) -> Flow[None]:
    """Nobody can look, and that is a ruling too."""
    config = policy.config
    why = f"the message has parts no judge covers: {', '.join(conversation.media)}"
    ruling = Ruling(stage="input", decision=decide(config, Evidence()), verdicts=(), error=why)
    yield from on_record(policy, ruling, Case(config=config, stage="input", text=conversation.text), request)
    report.rulings.append(ruling)
    report.error = why


def system_text(
    policy: Policy, conversation: Conversation, *, partial: bool = False, broken: tuple[str, ...] | None = None
) -> str:
    """What the model reads first: the compiled config, then the application's own text in a fence.

    Args:
        partial: a part of what the caller asks for is forbidden.
        broken: rules that the last candidate broke; None for the first candidate.
    """
    system = policy.system
    if conversation.system:
        system += f"\n\n[application]\n{conversation.system}\n[/application]"
    if partial:
        system += f"\n\n{partial_note()}"
    if broken is not None:
        system += f"\n\n{feedback(policy.config, broken)}"
    return system
