"""THE GUARD: admit, screen the input, align, generate, screen the output, act, record. No I/O, no clock.

Every front door runs these generators; only what answers their steps differs (`drivers.py`). A whole reply and a
stream are the same flow under another release mode.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Literal, cast

from cosa_guard.conversation import Conversation
from cosa_guard.judges.base import AnyJudge
from cosa_guard.messages import Adapter, Delta, Finish, Message, Request, Sampling
from cosa_guard.recollection import Kind, Recollection
from cosa_guard.release import Release
from cosa_guard.steps import READY, Ask, Begin, Close, Emit, Flow, Open, Pull, Record, Settle, Ticket
from cosa_guard.verdicts import Case, Entry, Report, Ruling, Span, Verdict
from cosa_guard.window import CONTEXT, Unit, Window
from cosa_sdk.compile import feedback, partial_note
from cosa_sdk.config import SafetyConfig
from cosa_sdk.decide import Evidence, decide
from cosa_sdk.errors import JudgeError
from cosa_sdk.taxonomy import FLOOR

__all__ = ["Policy", "converse", "on_record", "screen"]

Mode = Literal["hold", "whole", "trail"]

_PULL = Pull()  # made once: it is asked for with every token
AHEAD = 2
"""Units that may wait for their verdicts while the model writes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What one guard applies: everything that does not change from call to call."""

    config: SafetyConfig
    judges: tuple[AnyJudge, ...]
    """Asked in this order; the first violation ends the asking, so cheap ones come first."""
    holdback: int
    system: str
    """The compiled config: the constant prefix of every prompt."""
    own: Recollection
    tenant: str = ""
    adapters: tuple[Adapter, ...] = ()
    recorded: bool = False
    """There is somebody who records rulings."""

    def allows(self, ruling: Ruling) -> bool:
        """Text under this ruling may go on, unmasked."""
        enforcement = self.config.enforcement
        setting = enforcement.input if ruling.stage == "input" else enforcement.output
        if ruling.decision.floor or self.failed(ruling):
            return False
        if _may_be_floor(ruling):
            return False
        if setting in {"off", "warn"} or (ruling.error is not None and ruling.outcome != "violates"):
            return True
        if ruling.outcome == "undecided":
            return enforcement.on_undecided == "allow" and not ruling.decision.strict
        return ruling.outcome == "compliant"

    def failed(self, ruling: Ruling) -> bool:
        """A judge failed and that blocks: nobody knows whether the floor holds, so no other setting helps."""
        return ruling.error is not None and self.config.enforcement.on_error == "block"


def _may_be_floor(ruling: Ruling) -> bool:
    """A judge says that something is broken and not what, and nobody ruled the floor out."""
    unnamed = any(verdict.evidence.violates for verdict in ruling.verdicts)
    return unnamed and any(floor in ruling.decision.unexamined for floor in FLOOR)


def screen(policy: Policy, case: Case, request: str = "") -> Flow[Ruling]:
    """Ask the judges about one text and decide; `request` names the call on record."""
    evidence, error = Evidence(), None
    verdicts: list[Verdict] = []
    for judge in policy.judges:
        try:
            verdict = yield from Ask(judge, case)
        except JudgeError as failure:
            error = str(failure)
            continue
        verdicts.append(verdict)
        evidence |= verdict.evidence
        if _settled(case, evidence):
            break
    decision = decide(case.config, evidence)
    if error is not None and decision.outcome == "compliant":
        # The judges that answered cleared it, but one that was asked to look could not.
        decision = replace(decision, outcome="undecided")
    ruling = Ruling(stage=case.stage, decision=decision, verdicts=tuple(verdicts), error=error)
    yield from on_record(policy, ruling, case, request)
    return ruling


def on_record(policy: Policy, ruling: Ruling, case: Case, request: str = "") -> Flow[None]:
    """Put a ruling on record, where there is somebody who keeps one."""
    if policy.recorded:
        yield from Record(
            Entry(
                ruling=ruling,
                config=case.config.digest,
                text=case.text,
                start=case.start,
                final=case.final,
                tenant=policy.tenant,
                request=request,
            )
        )


def _settled(case: Case, evidence: Evidence) -> bool:
    """It is a violation that stops the text, whatever further judges say."""
    if not (evidence.found or evidence.violates):
        return False
    decision, enforcement = decide(case.config, evidence), case.config.enforcement
    if decision.floor or decision.outcome != "violates":
        return decision.floor
    # Where a violation may be let through (warned of, masked, answered in part), what the other judges say counts too.
    if case.stage == "input":
        return enforcement.input == "refuse" and decision.prompt_type != "partial"
    return enforcement.output in {"refuse", "regenerate"}


def converse(
    policy: Policy, conversation: Conversation, sampling: Sampling, mode: Mode, report: Report
) -> Flow[Report]:
    """Answer a conversation under the policy, keeping `report` up to date."""
    report.dropped_turns = conversation.dropped
    guarded = _Converse(policy, conversation, sampling, mode, report)
    yield from guarded.run()
    return report


@dataclass(slots=True)
class _Converse:
    """The locals of one conversation; nothing here outlives the call."""

    policy: Policy
    conversation: Conversation
    sampling: Sampling
    mode: Mode
    report: Report
    said: str = ""
    """Everything emitted, to recognise the turn later."""
    partial: bool = False
    """A part of what the caller asks for is forbidden; every candidate is told."""

    def run(self) -> Flow[None]:
        blocked = yield from self._screen_input()
        if blocked:
            yield from self._refuse()
            return
        enforcement = self.policy.config.enforcement
        attempts = enforcement.attempts if enforcement.output == "regenerate" else 1
        broken: tuple[str, ...] | None = None
        for attempt in range(attempts):
            self.report.candidates += 1
            request = self._request(attempt, broken)
            finish = yield from _Candidate(self, request).run()
            if finish is not None:
                yield from self._end(finish)
                return
            if self.report.released:
                break  # what is out cannot be taken back, so no fresh candidate can replace it
            ruling = self.report.last("output")
            if ruling is not None and (ruling.decision.floor or ruling.error):
                break
            broken = ruling.decision.rules if ruling and ruling.outcome == "violates" else ()
            self.report.act = "regenerate"
        yield from self._refuse()

    def _screen_input(self) -> Flow[bool]:
        """Judge the caller's turns; True when they are refused."""
        config = self.policy.config
        if self.conversation.media and config.enforcement.media == "refuse":
            yield from self._refuse_media()
            return True
        case = Case(config=config, stage="input", text=self.conversation.text, turns=self.conversation.judged)
        ruling = yield from screen(self.policy, case)
        self.report.rulings.append(ruling)
        self.report.error = ruling.error
        if self.policy.allows(ruling):
            if ruling.outcome == "violates" and config.enforcement.input == "warn":
                self.report.act = "warn"
            return False
        if ruling.decision.prompt_type == "partial" and not (ruling.decision.floor or self.policy.failed(ruling)):
            self.report.act = "partial"
            self.partial = True
            return False
        return True

    def _refuse_media(self) -> Flow[None]:
        """Nobody can look, and that is a ruling too."""
        config = self.policy.config
        why = f"the message has parts no judge covers: {', '.join(self.conversation.media)}"
        ruling = Ruling(stage="input", decision=decide(config, Evidence()), verdicts=(), error=why)
        yield from on_record(self.policy, ruling, Case(config=config, stage="input", text=self.conversation.text))
        self.report.rulings.append(ruling)
        self.report.error = why

    def _request(self, attempt: int, broken: tuple[str, ...] | None) -> Request:
        system = self.policy.system
        if self.conversation.system:
            system += f"\n\n[application]\n{self.conversation.system}\n[/application]"
        if self.partial:
            system += f"\n\n{partial_note()}"
        sampling = self.sampling
        if broken is not None:
            system += f"\n\n{feedback(self.policy.config, broken)}"
            # Greedy decoding would write much the same again.
            sampling = replace(
                sampling, temperature=max(sampling.temperature, 0.7), seed=(sampling.seed or 0) + attempt
            )
        messages = (Message("system", system), *self.conversation.turns)
        return Request(messages=messages, sampling=sampling, adapters=self.policy.adapters)

    def emit(self, text: str) -> Flow[None]:
        self.said += text
        yield from Emit(Delta(text))

    def _refuse(self) -> Flow[None]:
        self.report.act = "refuse"
        lead = "\n\n" if self.said else ""
        kind: Kind = "refusal" if not self.said else "reply"
        yield from self.emit(lead + self.policy.config.refusal.message.strip())
        self.policy.own.remember(self.policy.tenant, self.conversation.raw, self.said, kind)
        yield from Emit(Delta("", tokens=0, finish="content_filter"))

    def _end(self, finish: Finish) -> Flow[None]:
        self.policy.own.remember(self.policy.tenant, self.conversation.raw, self.said, "reply")
        yield from Emit(Delta("", tokens=0, finish=finish))


class _Candidate:
    """One generation, judged as it is written."""

    def __init__(self, parent: _Converse, request: Request) -> None:
        self._parent = parent
        self._policy = parent.policy
        self._report = parent.report
        self._mode = parent.mode
        self._request = request
        self._windowed = all(getattr(judge, "windowed", False) for judge in parent.policy.judges)
        """Every judge finds in the units all that it would find in the whole, and needs no context to."""
        self._window = Window(holdback=parent.policy.holdback, context=0 if self._windowed else CONTEXT)
        self._release = Release()
        self._pending: deque[tuple[Unit, Ticket[Ruling]]] = deque()
        self._finish: Finish = "stop"
        self._passed = 0  # up to where units have passed

    def run(self) -> Flow[Finish | None]:
        """Generate and release; how the reply ended, or None when it was stopped."""
        yield from Open(self._request)
        ended = False
        while self._pending or not ended:
            oldest = self._pending[0][1] if self._pending else None
            if oldest and (ended or oldest.ready or len(self._pending) > AHEAD):
                unit, ticket = self._pending.popleft()
                ruling = yield from Settle(ticket)
                passed = yield from self._pass(unit, ruling)
                if not passed:
                    yield from Close()
                    return None
                continue
            answer = yield from (Pull(oldest) if oldest else _PULL)
            if answer is READY:
                continue
            delta = cast("Delta | None", answer)
            ended = delta is None
            units = self._take_in(delta)
            if self._mode == "trail":
                yield from self._let_out(self._window.length)
            for unit in units:
                ticket = yield from Begin(self._judge(unit))
                self._pending.append((unit, ticket))
        yield from Close()
        return self._finish

    def _take_in(self, delta: Delta | None) -> list[Unit]:
        """Window the next piece; the units that it completes."""
        if delta is None:
            return self._window.flush()
        self._finish = delta.finish or self._finish
        self._report.tokens += delta.tokens
        return self._window.feed(delta.text)

    def _judge(self, unit: Unit) -> Flow[Ruling]:
        return screen(self._policy, self._case(unit.text, unit.start, final=unit.final))

    def _case(self, text: str, start: int, *, final: bool) -> Case:
        turns = self._parent.conversation.turns
        return Case(config=self._policy.config, stage="output", text=text, turns=turns, start=start, final=final)

    def _pass(self, unit: Unit, ruling: Ruling) -> Flow[bool]:
        """Act on a unit's ruling; False stops the candidate."""
        self._note(ruling)
        if not self._act_on(ruling, unit.start):
            self._report.late = self._release.position > self._passed
            return False
        if unit.final and unit.start and not self._windowed:
            # Judges that read for meaning may see in the whole what no part shows.
            whole = yield from screen(self._policy, self._case(self._window.text, 0, final=True))
            self._note(whole)
            if not self._act_on(whole, 0):
                self._report.late = self._release.position > 0
                return False
        self._passed = unit.release
        if unit.final or self._mode == "hold":
            yield from self._let_out(unit.release)
        return True

    def _note(self, ruling: Ruling) -> None:
        self._report.rulings.append(ruling)
        if ruling.error:
            self._report.error = ruling.error

    def _act_on(self, ruling: Ruling, start: int) -> bool:
        """Whether text may go on under this ruling, masks put on where that is what the config asks for."""
        if self._policy.allows(ruling):
            if ruling.outcome == "violates" and self._policy.config.enforcement.output == "warn":
                self._report.act = "warn"
            return True
        if self._policy.config.enforcement.output != "redact" or self._mode == "trail":
            return False
        masked, spans = _maskable(ruling)
        if not spans or not self._policy.allows(_without(ruling, masked, self._policy.config)):
            return False
        for low, high in spans:
            self._release.mask(start + low, start + high)
        return True

    def _let_out(self, upto: int) -> Flow[None]:
        text, masks = self._release.text(self._window.take(upto), upto)
        if masks:
            self._report.redacted += masks
            self._report.act = "redact"
        if text:
            self._report.released += len(text)
            yield from self._parent.emit(text)


def _maskable(ruling: Ruling) -> tuple[frozenset[str], list[Span]]:
    """The elements whose places cover everything that was found broken, and those places; nothing when they do not."""
    decision = ruling.decision
    if ruling.outcome != "violates" or decision.floor or any(v.evidence.violates for v in ruling.verdicts):
        return frozenset(), []
    placed = [pair for verdict in ruling.verdicts for pair in verdict.spans]
    broken = frozenset(f"rule:{owner}" for owner in decision.rules)
    unplaced = {one for v in ruling.verdicts for one in v.evidence.found - {element for _, element in v.spans}}
    if unplaced & broken or not broken <= {element for _, element in placed}:
        return frozenset(), []
    return broken, [span for span, element in placed if element in broken]


def _without(ruling: Ruling, masked: frozenset[str], config: SafetyConfig) -> Ruling:
    """The ruling on what is left of a text when everything that shows `masked` is taken out of it."""
    evidence = reduce(or_, (verdict.evidence for verdict in ruling.verdicts))
    rest = replace(evidence, found=evidence.found - masked, examined=evidence.examined | masked)
    return replace(ruling, decision=decide(config, rest))
