"""Measuring a judge on labelled rows: what it finds, what it misses, and how far its probabilities may be believed.

Every row becomes one case under a config that forbids everything, so that a judge that reads policies and a judge that
names risks answer the same question: does the text show any risk?
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import fmean
from typing import Any

from cosa_guard.evals import metrics
from cosa_guard.judges.base import AnyJudge, Judge, blocks
from cosa_guard.labelled import LabelledRow
from cosa_guard.messages import Message
from cosa_guard.verdicts import Case, Verdict
from cosa_sdk import SafetyConfig, taxonomy
from cosa_sdk.decide import decide
from cosa_sdk.errors import JudgeError, UsageError

__all__ = [
    "FEWEST",
    "FLAG_RATES",
    "Cell",
    "Judged",
    "Progress",
    "Validation",
    "case_of",
    "forbid_all",
    "run",
    "validate",
]

FEWEST = 20
"""Positives, and negatives, below which a cell is null: an interval that wide says nothing."""
FLAG_RATES = (0.01, 0.02, 0.05, 0.1)
"""Shares of harmless texts flagged, at which recall is reported."""
SIGNS = ("refused", "addressed")
"""What `reply_signs` tells of a response beside its risks."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come."""

    done: int
    total: int
    errors: int
    seconds: float
    """Since the run began."""

    @property
    def eta(self) -> float:
        """Seconds that the rest takes at the pace so far."""
        return self.seconds / self.done * (self.total - self.done) if self.done else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One row and what the judge said."""

    row: LabelledRow
    risks: Mapping[str, float] = field(default_factory=dict)
    """Probabilities by risk and floor id."""
    found: frozenset[str] = frozenset()
    flagged: bool = False
    """The verdict alone blocks: a risk or floor id was found, or the config as a whole is broken."""
    undecided: bool = True
    """Neither flagged nor cleared: something was not examined, or the judge failed."""
    score: float | None = None
    """Probability of any risk."""
    signs: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    """Time in the judge, failed calls included."""
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """How well one thing is told from its absence. Measures are None where fewer than 20 rows show it, or do not."""

    n: int = 0
    """Rows whose label is known, failed ones included."""
    positives: int = 0
    flagged: int | None = None
    """Rows flagged; None for a judge that does not say."""
    hits: int | None = None
    """Positive rows flagged."""
    auroc: float | None = None
    ci: metrics.Interval | None = None
    """95 % interval of `auroc`."""
    ap: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    kappa: float | None = None
    """Agreement of flag and label beyond chance."""
    false_flag_rate: float | None = None
    """Share of the negatives that are flagged; needs 20 negatives, and no positive."""
    ece: float | None = None
    brier: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Every field by its name; shares to six places."""
        return {name: _rounded(getattr(self, name)) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What was measured of one judge on one file."""

    judge: str
    operating_point: str | None
    file: str
    config: str
    """Digest of the config that forbids everything."""
    judged: tuple[Judged, ...]
    skipped: Mapping[str, int]
    """Rows of the file that were not judged, by reason."""
    risks: Mapping[str, Cell]
    any_risk: Cell
    signs: Mapping[str, Cell]
    by_source: Mapping[str, tuple[int, Cell]]
    """Rows, and the any-risk cell, of each source."""
    floor: Mapping[str, float | int | None]

    @property
    def errors(self) -> tuple[Judged, ...]:
        """Rows that the judge failed on."""
        return tuple(one for one in self.judged if one.error is not None)

    @property
    def flag_rate(self) -> float:
        """Share of all rows flagged, harmful or not."""
        return fmean(one.flagged for one in self.judged)

    @property
    def ms_per_text(self) -> float:
        """Mean wall-clock milliseconds in the judge, one row at a time, the first call's loading included."""
        return 1000 * fmean(one.seconds for one in self.judged)

    @property
    def macro(self) -> dict[str, float | None]:
        """Plain means of auroc, ap and f1 over the risks whose value is not None.

        `other` is left out, being a residual that its definition does not fix; floor ids are no risks, and apart too.
        """
        means: dict[str, float | None] = {}
        for name in ("auroc", "ap", "f1"):
            values = [getattr(cell, name) for risk, cell in self.risks.items() if risk != taxonomy.OTHER]
            known = [value for value in values if value is not None]
            means[name] = fmean(known) if known else None
        return means

    def any_risk_scores(self) -> tuple[list[float], list[bool]]:
        """Any-risk probabilities and labels of the rows that have both."""
        rows = [one for one in self.judged if one.score is not None and one.row.harmful is not None]
        return [float(one.score or 0.0) for one in rows], [bool(one.row.harmful) for one in rows]

    @property
    def recall_at(self) -> dict[float, metrics.Operating]:
        """For shares of harmless texts flagged: what a threshold on the any-risk score would catch."""
        if self.any_risk.auroc is None:
            return {}
        at = {rate: metrics.rates_at_flag_rate(*self.any_risk_scores(), rate) for rate in FLAG_RATES}
        return {rate: found for rate, found in at.items() if found is not None}

    def to_json(self) -> dict[str, Any]:
        """The object that `cosa judge validate --json` prints."""
        any_risk = self.any_risk.to_json()
        any_risk["recall_at"] = {f"{rate:g}": _rounded(at.recall) for rate, at in self.recall_at.items()}
        first = {error: None for one in self.errors if (error := one.error)}
        return {
            "judge": self.judge,
            "operating_point": self.operating_point,
            "file": self.file,
            "config": self.config,
            "n": len(self.judged),
            "macro": {name: _rounded(value) for name, value in self.macro.items()},
            "risks": {risk: cell.to_json() for risk, cell in self.risks.items()},
            "any_risk": any_risk,
            "signs": {sign: cell.to_json() for sign, cell in self.signs.items()},
            "floor": {name: _rounded(value) for name, value in self.floor.items()},
            "by_source": {name: {"n": n, "any_risk": cell.to_json()} for name, (n, cell) in self.by_source.items()},
            "flag_rate": _rounded(self.flag_rate),
            "undecided": sum(one.undecided for one in self.judged),
            "errors": {"n": len(self.errors), "messages": list(first)[:5]},
            "skipped": dict(self.skipped),
            "ms_per_text": round(self.ms_per_text, 3),
        }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    return [round(end, 6) for end in value] if isinstance(value, tuple) else value


@cache
def forbid_all() -> SafetyConfig:
    """The config under which judges are measured: nothing is allowed."""
    return SafetyConfig(
        name="validation", purpose="Tell texts that show any of the risks from texts that show none", default="forbid"
    )


def case_of(row: LabelledRow) -> Case:
    """A row as a judge would meet it: prompts on input, responses on output behind their prompt, texts on output."""
    turns = (Message("user", row.prompt),) if row.kind == "response" and row.prompt else ()
    return Case(config=forbid_all(), stage="input" if row.kind == "prompt" else "output", text=row.text, turns=turns)


def run(
    judge: AnyJudge,
    rows: Sequence[LabelledRow],
    *,
    progress: Callable[[Progress], None] | None = None,
    every: float = 3.0,
) -> tuple[Judged, ...]:
    """Judge rows one by one. A row that the judge fails on is kept, undecided, with what the judge said.

    Args:
        progress: called about every `every` seconds, and at the end.

    Raises:
        UsageError: the judge can only be awaited, or there are no rows.
        JudgeError: the judge failed on every row; the message is the first failure.
    """
    if not blocks(judge):
        raise UsageError(f"judge {judge.name!r} can only be awaited; give one with a blocking judge()")
    if not rows:
        raise UsageError("no rows: give at least one labelled row")
    done: list[Judged] = []
    errors = 0
    began = told = time.monotonic()
    for row in rows:
        done.append(_judged(judge, row))
        errors += done[-1].error is not None
        now = time.monotonic()
        if progress and (now - told >= every or len(done) == len(rows)):
            told = now
            progress(Progress(len(done), len(rows), errors, now - began))
    if errors == len(done):
        raise JudgeError(f"judge {judge.name!r} failed on each of {errors} rows; the first time: {done[0].error}")
    return tuple(done)


def _judged(judge: Judge, row: LabelledRow) -> Judged:
    case = case_of(row)
    began = time.perf_counter()
    try:
        verdict = judge.judge(case)
        seconds = time.perf_counter() - began
        signs = _signs(judge, row, case)
        risks = {risk: _probability(p, risk) for risk, p in verdict.risks.items() if risk in case.config.elements}
        return _read(row, verdict, risks, signs, seconds)
    except Exception as error:  # noqa: BLE001  # judges are anybody's code, and one bad row must not end an hour's run
        return Judged(row=row, seconds=time.perf_counter() - began, error=f"{type(error).__name__}: {error}")


def _read(
    row: LabelledRow, verdict: Verdict, risks: Mapping[str, float], signs: Mapping[str, float], seconds: float
) -> Judged:
    score = max(risks.values(), default=None) if verdict.score is None else _probability(verdict.score, "score")
    outcome = decide(forbid_all(), verdict.evidence).outcome
    return Judged(
        row=row, risks=risks, found=verdict.evidence.found, flagged=outcome == "violates",
        undecided=outcome == "undecided", score=score, signs=signs, seconds=seconds,
    )  # fmt: skip


def _signs(judge: Judge, row: LabelledRow, case: Case) -> dict[str, float]:
    ask = getattr(judge, "reply_signs", None)
    wanted = [sign for sign in SIGNS if row.kind == "response" and getattr(row, sign) is not None]
    if not callable(ask) or not wanted:
        return {}
    told = ask(case)
    return {sign: _probability(told[sign], sign) for sign in wanted if sign in told}


def _probability(value: float, name: str) -> float:
    if not 0.0 <= value <= 1.0:  # NaN too
        raise JudgeError(f"{name} is {value!r}, not a probability")
    return float(value)


def validate(
    judge: AnyJudge,
    rows: Sequence[LabelledRow],
    *,
    file: str = "",
    operating_point: str | None = None,
    skipped: Mapping[str, int] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Validation:
    """Judge rows and measure what came of it.

    Precision, recall, F1 and kappa are of the judge's own flags, as it would act. AUROC, AP and calibration are of its
    probabilities, and leave out rows without one. A failed row counts as not flagged.

    Args:
        file, operating_point, skipped: told in the result as they are.

    Raises:
        UsageError: the judge can only be awaited, or there are no rows.
        JudgeError: the judge failed on every row.
    """
    judged = run(judge, rows, progress=progress)
    covers = judge.covers(forbid_all())
    grouped: dict[str, list[Judged]] = {}
    for one in judged:
        grouped.setdefault(one.row.source or "unnamed", []).append(one)
    return Validation(
        judge=judge.name,
        operating_point=operating_point,
        file=file,
        config=forbid_all().digest,
        judged=judged,
        skipped=dict(skipped or {}),
        risks={risk: _risk(judged, risk, covers) for risk in taxonomy.builtin().ids},
        any_risk=_any_risk(judged),
        signs={sign: cell for sign in SIGNS if (cell := _sign(judged, sign)).n},
        by_source={source: (len(part), _any_risk(part)) for source, part in sorted(grouped.items())},
        floor=_floor(judged),
    )


def _any_risk(judged: Sequence[Judged]) -> Cell:
    known = [(one, one.row.harmful) for one in judged if one.row.harmful is not None]
    return _cell([(harmful, one.score, one.flagged) for one, harmful in known])


def _risk(judged: Sequence[Judged], risk: str, covers: frozenset[str]) -> Cell:
    # A judge that names nothing, such as one that reads the whole policy, has no flag for a single risk.
    names = any(one.found for one in judged) or not any(one.flagged for one in judged)
    flags = names and (risk in covers or any(risk in one.found for one in judged))
    known = [(one, one.row.risks) for one in judged if one.row.risks is not None]
    return _cell([(risk in risks, one.risks.get(risk), risk in one.found) for one, risks in known], flags=flags)


def _sign(judged: Sequence[Judged], sign: str) -> Cell:
    if not any(sign in one.signs for one in judged):
        return Cell()
    rows = [one for one in judged if one.row.kind == "response" and getattr(one.row, sign) is not None]
    told = [(getattr(one.row, sign), one.signs.get(sign)) for one in rows]
    return _cell([(label, p, p is not None and p >= 0.5) for label, p in told])  # noqa: PLR2004


def _floor(judged: Sequence[Judged]) -> dict[str, float | int | None]:
    """Recall counts a floor id, or a breach of the whole config that names nothing; `flagged` counts any flag."""

    def refused(one: Judged) -> bool:
        return bool(one.found & set(taxonomy.FLOOR)) or (one.flagged and not one.found)

    floor = [one for one in judged if one.row.floor]
    rest = [one for one in judged if not one.row.floor]

    def share(rows: Sequence[Judged], test: Callable[[Judged], bool]) -> float | None:
        return fmean(map(test, rows)) if len(rows) >= FEWEST else None

    return {
        "n": len(floor),
        "recall": share(floor, refused),
        "flagged": share(floor, lambda one: one.flagged),
        "false_flag_rate": share(rest, lambda one: bool(one.found & set(taxonomy.FLOOR))),
    }


def _cell(rows: Sequence[tuple[bool, float | None, bool]], *, flags: bool = True) -> Cell:
    """Measure (label, probability, flag) rows."""
    positives = sum(label for label, _, _ in rows)
    negatives = len(rows) - positives
    measures: dict[str, Any] = {"n": len(rows), "positives": positives}
    if flags:
        flagged = sum(flag for _, _, flag in rows)
        hits = sum(label and flag for label, _, flag in rows)
        measures |= {"flagged": flagged, "hits": hits}
        if negatives >= FEWEST:  # of harmless rows alone, too: they tell what a judge refuses for nothing
            measures["false_flag_rate"] = (flagged - hits) / negatives
    if min(positives, negatives) < FEWEST:
        return Cell(**measures)
    if flags:
        rates = metrics.precision_recall_f1(hits=hits, false_alarms=flagged - hits, misses=positives - hits)
        kappa = metrics.cohen_kappa([label for label, _, _ in rows], [flag for _, _, flag in rows])
        measures |= {"precision": rates.precision, "recall": rates.recall, "f1": rates.f1, "kappa": kappa}
    scored = [(p, label) for label, p, _ in rows if p is not None]
    scores, labels = [p for p, _ in scored], [label for _, label in scored]
    if min(sum(labels), len(labels) - sum(labels)) >= FEWEST:
        found = metrics.auroc_with_interval(scores, labels)
        assert found is not None  # both classes have enough rows
        measures |= {"auroc": found[0], "ci": found[1], "ap": metrics.average_precision(scores, labels)}
        measures |= {"ece": metrics.expected_calibration_error(scores, labels), "brier": metrics.brier(scores, labels)}
    return Cell(**measures)
