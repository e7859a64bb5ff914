"""One text under a policy: have the judges read it, decide, and let out of it what has passed. No I/O, no clock.

Everything that a front door lets out goes through `Channel`: a reply of a local model is one, and an answer on the
wire has one for each text in it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from typing import Any, Literal

from cosa_guard.judges.base import AnyJudge, Judge, blocks
from cosa_guard.messages import Adapter, Message
from cosa_guard.recollection import Recollection
from cosa_guard.release import Release
from cosa_guard.steps import Ask, Begin, Flow, Record, Settle, Ticket
from cosa_guard.verdicts import Case, Entry, Report, Ruling, Span, Verdict
from cosa_guard.window import CONTEXT, Unit, Window
from cosa_sdk.config import SafetyConfig
from cosa_sdk.decide import Evidence, decide
from cosa_sdk.errors import JudgeError
from cosa_sdk.taxonomy import FLOOR

__all__ = ["AHEAD", "Channel", "Mode", "Policy", "act_on", "on_record", "screen", "screen_whole", "tail_of"]

Mode = Literal["hold", "whole", "trail"]

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
    windowed: bool = False
    """Every judge finds in the units of a text all that it would find in the whole, and needs no context to."""
    tenant: str = ""
    adapters: tuple[Adapter, ...] = ()
    recorded: bool = False
    """There is somebody who records rulings."""
    names: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What front doors remember of names that they looked at, by their protocol."""
    finders: tuple[Judge, ...] = field(init=False, compare=False, repr=False)
    """Judges of words: those that cost nothing, and miss nothing in a part of a text."""

    def __post_init__(self) -> None:
        quick = (one for one in self.judges if blocks(one) and one.inline and getattr(one, "windowed", False))
        object.__setattr__(self, "finders", tuple(quick))

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

    def says(self, name: str) -> bool:
        """A judge of words finds something in a name. Those that read for meaning are not asked about names."""
        case = Case(config=self.config, stage="output", text=name)
        try:
            for judge in self.finders:
                if judge.judge(case).evidence.found:
                    return True
        except Exception:  # noqa: BLE001  # whatever it is: then a name is text like any other
            return True
        return False

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


class Channel:
    """One text that a model writes, judged as it comes.

    Args:
        turns: the conversation that the text answers.
        report: gets every ruling.
        request: names the call on record.
        at_once: the text comes in one piece: where no judge needs units, it is judged once.
        before: the end of the text that this one goes on from. It was judged: what begins there and ends here was not.
    """

    def __init__(
        self,
        policy: Policy,
        turns: tuple[Message, ...],
        mode: Mode,
        report: Report,
        *,
        request: str = "",
        at_once: bool = False,
        before: str = "",
    ) -> None:
        self._policy = policy
        self._turns = turns
        self._mode = mode
        self._report = report
        self._request = request
        self._window = _window(policy, before, cut=not (policy.windowed and at_once))
        self._release = Release()
        self._pending: deque[tuple[Unit, Ticket[Ruling]]] = deque()
        self._passed = 0
        self.releasable = 0
        """Up to where text may go out."""

    @property
    def length(self) -> int:
        """Characters taken in, the half of a split one included."""
        return self._window.taken_in

    @property
    def tail(self) -> str:
        """Its end, for the text that goes on from it."""
        return self._window.tail

    @property
    def oldest(self) -> Ticket[Ruling] | None:
        """The verdict that is waited for next."""
        return self._pending[0][1] if self._pending else None

    @property
    def crowded(self) -> bool:
        """So many units wait that the model must wait too."""
        return len(self._pending) > AHEAD

    def take_in(self, text: str | None) -> Flow[None]:
        """The next piece of the text, or None at its end: begins to judge the units that it completes."""
        units = self.cut(text)
        if units:
            yield from self.begin(units)

    def cut(self, text: str | None) -> list[Unit]:
        """As `take_in`, without judging: the units that the piece completes, for `begin`. Most pieces complete none."""
        units = self._window.flush() if text is None else self._window.feed(text)
        if self._mode == "trail":
            self.releasable = self._window.length
        return units

    def begin(self, units: list[Unit]) -> Flow[None]:
        """Begin to judge units."""
        for unit in units:
            ticket = yield from Begin(
                screen(self._policy, self._case(unit.text, unit.start, unit.final), self._request)
            )
            self._pending.append((unit, ticket))

    def settle(self) -> Flow[bool]:
        """Wait for the oldest unit's ruling and act on it; False when the text must stop."""
        unit, ticket = self._pending.popleft()
        ruling = yield from Settle(ticket)
        if not self._act_on(ruling, unit.start):
            self._report.late = self._report.late or self._release.position > self._passed
            return False
        if unit.final and unit.start and not self._policy.windowed:
            # Judges that read for meaning may see in the whole what no part shows.
            whole = yield from screen(self._policy, self._case(self._window.text, 0, final=True), self._request)
            if not self._act_on(whole, 0):
                self._report.late = self._report.late or self._release.position > 0
                return False
        self._passed = unit.release
        if unit.final or self._mode == "hold":
            self.releasable = max(self.releasable, unit.release)
        return True

    def text(self, upto: int) -> str:
        """The next text up to a releasable position, masks put on; every position is asked for once, in order."""
        text, masks = self._release.text(self._window.take(upto), upto)
        if masks:
            self._report.redacted += masks
            self._report.act = "redact"
        self._report.released += len(text)
        return text

    def _case(self, text: str, start: int, final: bool) -> Case:  # named where it is not a variable
        return Case(config=self._policy.config, stage="output", text=text, turns=self._turns, start=start, final=final)

    def _act_on(self, ruling: Ruling, start: int) -> bool:
        """Whether text may go on under this ruling, masks put on where that is what the config asks for."""
        spans = act_on(self._policy, ruling, self._report, masks=self._mode != "trail")
        for low, high in spans or ():
            self._release.mask(start + low, start + high)
        return spans is not None


def _window(policy: Policy, before: str, *, cut: bool) -> Window:
    """A window of this policy that has let out the end of another text already."""
    window = Window(holdback=policy.holdback, context=0 if policy.windowed else CONTEXT, cut=cut)
    if before:
        window.feed(before)
        window.flush()
        window.take(window.length)
    return window


def tail_of(policy: Policy, text: str) -> str:
    """The end of a text, for the text that goes on from it."""
    window = _window(policy, "", cut=False)
    window.feed(text)
    return window.tail


def screen_whole(
    policy: Policy, turns: tuple[Message, ...], report: Report, text: str, request: str = "", before: str = ""
) -> Flow[str | None]:
    """Judge a text that is there at once: what may go out of it, masks put on, or None when it must stop.

    As `Channel` in the mode `whole`: the same units, then the whole; a flow of its own so that several may run at once.
    """
    window = _window(policy, before, cut=not policy.windowed)
    begin = window.length
    units = [*window.feed(text), *window.flush()]
    if units[-1].start and not policy.windowed:
        units.append(Unit(window.text, 0, window.length, final=True))
    spans: list[Span] = []
    for unit in units:
        case = Case(
            config=policy.config, stage="output", text=unit.text, turns=turns, start=unit.start, final=unit.final
        )
        ruling = yield from screen(policy, case, request)
        found = act_on(policy, ruling, report)
        if found is None:
            return None
        spans += [(unit.start + low, unit.start + high) for low, high in found]
    if not spans:
        return window.text[begin:]
    release = Release()
    for low, high in spans:
        release.mask(low, high)
    text, masks = release.text(window.text[begin:], window.length)
    report.redacted += masks
    report.act = "redact"
    return text


def act_on(policy: Policy, ruling: Ruling, report: Report, *, masks: bool = True) -> list[Span] | None:
    """Note a ruling and act on it: what to mask of its text, nothing where it passes; None when it must stop."""
    report.rulings.append(ruling)
    if ruling.error:
        report.error = ruling.error
    if policy.allows(ruling):
        if ruling.outcome == "violates" and policy.config.enforcement.output == "warn":
            report.act = "warn"
        return []
    if policy.config.enforcement.output != "redact" or not masks:
        return None
    masked, spans = _maskable(ruling)
    if not spans or not policy.allows(_without(ruling, masked, policy.config)):
        return None
    return spans


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
