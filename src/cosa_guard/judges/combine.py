"""Several judges as one: `cascade`, `any_of`, `all_of` and `majority`.

Members are asked at the same time where all their answers are needed. Each has its own time-out, so that one that
hangs costs no more than that; one that fails is silent, and where its word was needed the combination fails too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any, cast

from cosa_guard.asking import Ports, ask, judged, late, patience
from cosa_guard.judges.base import AnyJudge, blocks
from cosa_guard.judges.calibration import Calibration
from cosa_guard.judges.votes import Voting, settles, stops, together
from cosa_guard.pool import Pool
from cosa_guard.verdicts import Case, Stage, Verdict
from cosa_sdk.config import SafetyConfig
from cosa_sdk.decide import Evidence, decide
from cosa_sdk.errors import JudgeError, UsageError
from cosa_sdk.taxonomy import FLOOR

__all__ = [
    "Cascade",
    "Combination",
    "all_of",
    "any_of",
    "cascade",
    "majority",
    "make_all",
    "make_any",
    "make_cascade",
    "make_majority",
]

TIMEOUT = 60.0
"""Seconds for a member that has no time-out of its own, where the combination has none either."""
GRACE = 1.0
"""Seconds that a combination has beyond its members', to say which of them was late."""
_THREADS = 32
"""Cases at a time for which members can be asked on threads: as many as a guard's own pool."""

_PICK: dict[Voting, Callable[[list[float]], float]] = {
    "any": max,
    "all": min,
    "majority": lambda given: float(median(given)),
}
"""Which of the members' probabilities is the combination's."""

Said = Verdict | JudgeError


class _Members:
    """Judges behind one face: what a combination covers, needs and costs follows from theirs."""

    windowed = False
    judge: Callable[[Case], Verdict]
    """Read a case.

    Raises:
        JudgeError: a member failed whose word was needed.
    """
    ajudge: Callable[[Case], Coroutine[Any, Any, Verdict]]
    """As `judge`, awaiting."""

    def __init__(self, name: str, judges: Sequence[AnyJudge], timeout: float | None) -> None:
        if len(judges) < 2:  # noqa: PLR2004  # fewer is no combination
            raise UsageError(f"{name} combines at least two judges, not {len(judges)}")
        if timeout is not None and not timeout > 0:
            raise UsageError(f"timeout={timeout!r}: give a positive number of seconds, or None")
        self.judges = tuple(judges)
        self.name = f"{name}({', '.join(one.name for one in self.judges)})"
        self.inline = all(one.inline and blocks(one) for one in self.judges)
        self._ports = Ports(backend=None, pool=Pool(_THREADS * len(judges)), timeout=timeout or TIMEOUT)
        reaches = [reach for one in self.judges if (reach := getattr(one, "reach", None))]
        self.reach: int | None = min(reaches, default=None)
        if all(blocks(one) for one in self.judges):
            self.judge = self._judge
        if any(hasattr(one, "ajudge") for one in self.judges):
            self.ajudge = self._ajudge

    @property
    def abandoned(self) -> int:
        """Calls of members that ran out of time; each holds a thread until the member returns."""
        return self._ports.pool.abandoned

    def covers(self, config: SafetyConfig) -> frozenset[str]:
        """What any member covers."""
        return frozenset[str]().union(*(one.covers(config) for one in self.judges))

    def holdback(self, config: SafetyConfig) -> int:
        """The longest that any member needs."""
        return max(one.holdback(config) for one in self.judges)

    def fingerprint(self, stage: Stage) -> str:
        """The members' own: part of cache keys."""
        return repr([(one.name, _fingerprint(one, stage)) for one in self.judges])

    def _judge(self, case: Case) -> Verdict:
        raise NotImplementedError

    async def _ajudge(self, case: Case) -> Verdict:
        raise NotImplementedError

    def _ask(self, judges: Sequence[AnyJudge], case: Case) -> list[Said]:
        """All answers, in order; those that take time are waited for together."""
        started = time.monotonic()
        begun = [self._begun(one, case) for one in judges]
        return [self._ended(one, answer, started) for one, answer in zip(judges, begun, strict=True)]

    def _begun(self, judge: AnyJudge, case: Case) -> Any:
        assert blocks(judge)
        try:
            return judged(judge, case) if judge.inline else self._ports.pool.submit(partial(judged, judge, case))
        except JudgeError as error:  # of an inline judge, or of a full pool
            return error

    def _ended(self, judge: AnyJudge, answer: Any, started: float) -> Said:
        if isinstance(answer, Verdict | JudgeError):
            return answer
        try:
            return cast("Verdict", answer.result(max(0.0, started + patience(judge, self._ports) - time.monotonic())))
        except TimeoutError:
            self._ports.pool.abandon(answer)
            return late(judge, self._ports)
        except JudgeError as error:
            return error

    async def _aask(self, judges: Sequence[AnyJudge], case: Case) -> list[Said]:
        answers = await asyncio.gather(*(self._said(one, case) for one in judges))
        return list(answers)

    async def _said(self, judge: AnyJudge, case: Case) -> Said:
        try:
            return await ask(judge, case, self._ports)
        except JudgeError as error:
            return error


class Combination(_Members):
    """Judges that vote; see `votes.py` for what their findings come to."""

    def __init__(self, voting: Voting, judges: Sequence[AnyJudge], *, timeout: float | None = None) -> None:
        super().__init__(voting, judges, timeout)
        self._voting: Voting = voting
        self.timeout = max(patience(one, self._ports) for one in self.judges) + GRACE
        # Only of `any` is the whole what its parts are: one member may find the first half of what `all` needs here,
        # and another the second there.
        self.windowed = voting == "any" and all(getattr(one, "windowed", False) for one in self.judges)

    def _judge(self, case: Case) -> Verdict:
        return self._verdict(case, self._ask(self.judges, case))

    async def _ajudge(self, case: Case) -> Verdict:
        return self._verdict(case, await self._aask(self.judges, case))

    def _verdict(self, case: Case, answers: Sequence[Said]) -> Verdict:
        config = case.config
        said = [
            (one.covers(config), answer.evidence if isinstance(answer, Verdict) else Evidence())
            for one, answer in zip(self.judges, answers, strict=True)
        ]
        evidence = together(self._voting, config, said)
        failed = [answer for answer in answers if isinstance(answer, JudgeError)]
        if failed and not settles(case, self.covers(config), evidence):
            raise JudgeError(f"{self.name}: {'; '.join(map(str, failed))}") from failed[0]
        verdicts = [answer for answer in answers if isinstance(answer, Verdict)]
        risks = {
            risk: _PICK[self._voting]([v.risks[risk] for v in verdicts if risk in v.risks])
            for v in verdicts
            for risk in v.risks
        }
        return Verdict(
            judge=self.name,
            evidence=evidence,
            spans=tuple(span for v in verdicts for span in v.spans if span[1] in evidence.found),
            turns_found=any(v.turns_found for v in verdicts),
            risks=risks,
            reason="; ".join([*(f"{v.judge}: {v.reason}" for v in verdicts if v.reason), *map(str, failed)]),
            tokens=sum(v.tokens for v in verdicts),
        )


class Cascade(_Members):
    """The first judge decides when it is sure, the second the rest.

    Args:
        first: cheap.
        second: asked where the first leaves the config undecided, or its score lies between the thresholds.
        calibration: thresholds for the first one's score, measured on data. Without it the first one is sure of
            what its own verdict settles.
        point: name of the operating point at which the thresholds were chosen; for reports.
    """

    def __init__(
        self,
        first: AnyJudge,
        second: AnyJudge,
        *,
        calibration: Calibration | None = None,
        point: str = "",
        timeout: float | None = None,
    ) -> None:
        super().__init__("cascade", (first, second), timeout)
        self._calibration = calibration
        self._point = point
        self.timeout = sum(patience(one, self._ports) for one in self.judges) + GRACE

    def fingerprint(self, stage: Stage) -> str:
        """With the thresholds."""
        return repr((super().fingerprint(stage), self._point, self._calibration))

    def _judge(self, case: Case) -> Verdict:
        (first,) = self._ask(self.judges[:1], case)
        done = self._sure(case, first)
        return done or self._rest(case, first, self._ask(self.judges[1:], case)[0])

    async def _ajudge(self, case: Case) -> Verdict:
        (first,) = await self._aask(self.judges[:1], case)
        done = self._sure(case, first)
        return done or self._rest(case, first, (await self._aask(self.judges[1:], case))[0])

    def _sure(self, case: Case, first: Said) -> Verdict | None:
        if isinstance(first, JudgeError):
            return None
        evidence = self._believed(case, first)
        if not (stops(case, evidence) or decide(case.config, evidence).outcome == "compliant"):
            return None
        return self._verdict(first, evidence, f"{first.judge} is sure{self._how(first)}: {first.reason}", first.tokens)

    def _believed(self, case: Case, first: Verdict) -> Evidence:
        """What counts of the first verdict."""
        if self._calibration is None:
            return first.evidence
        breaks = None if first.score is None else self._calibration.decide(first.score)
        if breaks:
            named = decide(case.config, first.evidence).outcome == "violates"
            return first.evidence if named else replace(first.evidence, violates=True)
        floor = first.evidence.found & frozenset(FLOOR)
        covered = self.judges[0].covers(case.config)
        if breaks is False:
            return Evidence(found=floor, examined=covered | floor)
        # Between the thresholds: of what the second can settle only a finding of the floor is kept.
        kept = (covered - self.judges[1].covers(case.config)) | floor
        return Evidence(found=first.evidence.found & kept, examined=first.evidence.examined & kept)

    def _rest(self, case: Case, first: Said, second: Said) -> Verdict:
        if isinstance(second, JudgeError):
            raise JudgeError(f"{self.name}: {second}") from second
        evidence, tokens, why = second.evidence, second.tokens, str(first)
        if isinstance(first, Verdict):
            evidence |= self._believed(case, first)
            tokens += first.tokens
            why = f"{first.judge} is not sure{self._how(first)}"
        elif not settles(case, self.covers(case.config), evidence):
            raise JudgeError(f"{self.name}: {first}") from first
        return self._verdict(second, evidence, f"{why}; {second.judge}: {second.reason}", tokens)

    def _how(self, first: Verdict) -> str:
        if self._calibration is None:
            return ""
        score = "no score" if first.score is None else f"score {first.score:.2f}"
        at = f", operating point {self._point!r}" if self._point else ""
        return f" ({score}{at}, {self._calibration})"

    def _verdict(self, by: Verdict, evidence: Evidence, reason: str, tokens: int) -> Verdict:
        return Verdict(
            judge=self.name,
            evidence=evidence,
            spans=by.spans,
            turns_found=by.turns_found,
            risks=by.risks,
            score=by.score,
            reason=reason,
            tokens=tokens,
        )


def _fingerprint(judge: AnyJudge, stage: Stage) -> str:
    own: Callable[[Stage], str] | None = getattr(judge, "fingerprint", None)
    return own(stage) if own else ""


def any_of(*judges: AnyJudge, timeout: float | None = None) -> Combination:
    """A violation where any judge says so."""
    return Combination("any", judges, timeout=timeout)


def all_of(*judges: AnyJudge, timeout: float | None = None) -> Combination:
    """A violation where all judges say so, and the floor where any does."""
    return Combination("all", judges, timeout=timeout)


def majority(*judges: AnyJudge, timeout: float | None = None) -> Combination:
    """A violation where more than half of the judges say so, and the floor where any does."""
    return Combination("majority", judges, timeout=timeout)


def cascade(
    first: AnyJudge,
    second: AnyJudge,
    *,
    calibration: Calibration | None = None,
    point: str = "",
    timeout: float | None = None,
) -> Cascade:
    """The first judge decides when it is sure, the second the rest: see `Cascade`."""
    return Cascade(first, second, calibration=calibration, point=point, timeout=timeout)


def make_any(argument: str | None = None, *, timeout: float | None = None) -> Combination:
    """The judge for `any:<judge>,<judge>,…`."""
    return any_of(*_named("any", argument), timeout=timeout)


def make_all(argument: str | None = None, *, timeout: float | None = None) -> Combination:
    """The judge for `all:<judge>,<judge>,…`."""
    return all_of(*_named("all", argument), timeout=timeout)


def make_majority(argument: str | None = None, *, timeout: float | None = None) -> Combination:
    """The judge for `majority:<judge>,<judge>,…`."""
    return majority(*_named("majority", argument), timeout=timeout)


def make_cascade(
    argument: str | None = None,
    *,
    calibration: Calibration | None = None,
    point: str = "",
    timeout: float | None = None,
) -> Cascade:
    """The judge for `cascade:<judge>,<judge>`."""
    judges = _named("cascade", argument)
    if len(judges) != 2:  # noqa: PLR2004
        raise UsageError(f"cascade:{argument}: a cascade has two judges, such as cascade:embedded,model")
    return cascade(*judges, calibration=calibration, point=point, timeout=timeout)


def _named(name: str, argument: str | None) -> list[AnyJudge]:
    from cosa_guard import judges  # noqa: PLC0415  # names of judges, needed only here

    specs = [spec.strip() for spec in (argument or "").split(",") if spec.strip()]
    if not specs:
        raise UsageError(
            f"{name!r} needs its judges, such as {name}:rules,embedded; cosa_guard.judges.combine takes objects"
        )
    return [judges.make(spec) for spec in specs]
