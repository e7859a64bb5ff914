"""What is judged, what a judge says, and what the guard did about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cosa_guard.messages import Message
from cosa_sdk.config import SafetyConfig
from cosa_sdk.decide import Decision, Evidence, Outcome

__all__ = ["Act", "Case", "Entry", "Report", "Ruling", "Span", "Stage", "Verdict"]

Stage = Literal["input", "output"]
Act = Literal["pass", "refuse", "redact", "regenerate", "partial", "warn"]
Span = tuple[int, int]
"""Start and end in characters of the judged text, end excluded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One text to judge, with all that a judge may need to know about it."""

    config: SafetyConfig
    stage: Stage
    text: str
    """The text in question: the caller's last turn, or (a part of) the model's reply."""
    turns: tuple[Message, ...] = ()
    """Input: the caller's earlier turns, judged with `text`. Output: the conversation that the reply answers."""
    start: int = 0
    """Output streams: where `text` begins in the whole reply. The characters before were judged already."""
    final: bool = True
    """`text` ends where the whole text ends; else more may follow, and a match at its very end is not settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one judge says about one case, in the ids of `SafetyConfig.elements`."""

    judge: str
    """Id and version, such as `rules/1`."""
    evidence: Evidence
    spans: tuple[tuple[Span, str], ...] = ()
    """Where deterministic judges found an element: (start, end) in `Case.text`, element."""
    turns_found: bool = False
    """Something was found in `Case.turns`, where spans do not reach."""
    risks: Mapping[str, float] = field(default_factory=dict)
    """Probabilities by element id, where the judge has them."""
    score: float | None = None
    """Probability that the text breaks the config as a whole, where the judge has one."""
    reason: str = ""
    """For reports and audit; never shown to the caller."""
    tokens: int = 0
    """Model tokens that the verdict cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """The decision on one text, by all judges together."""

    stage: Stage
    decision: Decision
    verdicts: tuple[Verdict, ...]
    error: str | None = None
    """A judge failed: what it said. The decision is then `undecided`, and `on_error` rules."""

    @property
    def outcome(self) -> Outcome:
        """Short for `decision.outcome`."""
        return self.decision.outcome

    @property
    def decided_by(self) -> str:
        """The judge whose evidence settled it; all of them when none did alone."""
        telling = [v.judge for v in self.verdicts if v.evidence.found or v.evidence.violates]
        return ", ".join(telling or [v.judge for v in self.verdicts]) or "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One ruling and what it is about, for the record."""

    ruling: Ruling
    config: str
    """Digest."""
    text: str
    """What was judged. A record keeps a keyed hash of it unless it is told otherwise."""
    start: int = 0
    """Where `text` begins in the whole reply, in characters."""
    final: bool = True
    """`text` ends where the whole text ends."""
    tenant: str = ""
    request: str = ""
    """Names the call, so that its entries can be found together."""


@dataclass(slots=True, kw_only=True)
class Report:
    """Everything the guard did in one call. The caller's user never sees it."""

    config: str
    """Digest of the config."""
    act: Act = "pass"
    rulings: list[Ruling] = field(default_factory=list)
    """In the order they were made; the last one of a stage is the one that counts."""
    candidates: int = 0
    """Replies that the model was asked for."""
    tokens: int = 0
    """Tokens that the model wrote, released or not."""
    released: int = 0
    """Characters of the model's text that reached the caller."""
    redacted: int = 0
    """Masks put over the model's text."""
    late: bool = False
    """A violation was found only after some of its text was out."""
    dropped_turns: int = 0
    """Oldest turns kept from judge and model alike, because the judged window does not reach them."""
    error: str | None = None

    def last(self, stage: Stage) -> Ruling | None:
        """The ruling that counts for a stage."""
        return next((ruling for ruling in reversed(self.rulings) if ruling.stage == stage), None)

    @property
    def outcome(self) -> Outcome:
        """The outcome of the last ruling; `compliant` needs every stage to be."""
        last = [ruling for stage in ("input", "output") if (ruling := self.last(stage))]
        outcomes: list[Outcome] = [ruling.outcome for ruling in last]
        if "violates" in outcomes:
            return "violates"
        return "undecided" if "undecided" in outcomes or not outcomes else "compliant"

    @property
    def blocked(self) -> bool:
        """The caller got the refusal."""
        return self.act == "refuse"
