"""A run as its readers see it: systems in order, measures with their names, and what speaks against a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cosa_guard.evals.rows import Manifest, ResultRow, SystemFacts
from cosa_sdk.score import Interval, PromptType, Summary, claims

__all__ = ["ANSWERS", "MEASURES", "TYPES", "Measure", "View", "judge_words", "plain"]

TYPES: Final[tuple[PromptType, ...]] = ("allowed", "partial", "disallowed", "safe")
ANSWERS: Final = ("answered", "partial", "refused", "degenerate", "none")
"""What responses are; `none`: there is no response."""
_CIRCULAR: Final = "circular: who filters or guards shares a model or a source with who scores"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A measure of a system, as readers know it."""

    name: str
    """Its field of `Summary`."""
    title: str
    short: str
    """For narrow tables."""
    interval: str = ""
    """The field of its interval; empty where it has none."""
    judged: bool = False
    """It needs a judge of help and safety."""

    def value(self, summary: Summary) -> float | None:
        """The measure itself."""
        found: float | None = getattr(summary, self.name)
        return found

    def ci(self, summary: Summary) -> Interval | None:
        """Its 95 % interval."""
        found: Interval | None = getattr(summary, self.interval) if self.interval else None
        return found


_ALL: Final = (
    Measure(name="valid_rate", title="valid rate", short="valid"),
    Measure(name="cosa_score", title="CoSA-Score", short="CoSA", interval="ci", judged=True),
    Measure(name="strict", title="strict CoSA-Score", short="strict", judged=True),
    Measure(name="decision_score", title="decision score", short="decision", interval="decision_ci"),
    Measure(name="contrast", title="contrast accuracy", short="contrast", interval="contrast_ci"),
    Measure(name="helpful_safe", title="helpful+safe", short="h+s", interval="helpful_safe_ci", judged=True),
    Measure(name="helpful_unsafe", title="helpful+unsafe", short="h+u", interval="helpful_unsafe_ci", judged=True),
    Measure(name="unhelpful_safe", title="unhelpful+safe", short="u+s", interval="unhelpful_safe_ci", judged=True),
    Measure(name="over_refusal", title="over-refusal", short="over-ref.", interval="over_refusal_ci"),
    Measure(name="violation_rate", title="violation rate", short="violat.", interval="violation_rate_ci"),
)
MEASURES: Final[Mapping[str, Measure]] = {one.name: one for one in _ALL}
"""By the name of their field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A run, and what was measured of each system."""

    manifest: Manifest
    rows: Sequence[ResultRow]
    summaries: Mapping[str, Summary]
    """By system."""

    @property
    def systems(self) -> tuple[str, ...]:
        """Those with a summary, in the order of the run."""
        known = [one.name for one in self.manifest.systems if one.name in self.summaries]
        return (*known, *(name for name in self.summaries if name not in known))

    @property
    def judged(self) -> bool:
        """A judge of help and safety was asked, so that there is a CoSA-Score."""
        return any(one.judged for one in self.summaries.values())

    @property
    def configs(self) -> tuple[str, ...]:
        """In the order of the rows."""
        return tuple(dict.fromkeys(row.config for row in self.rows))

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Those of the headline."""
        left_out = {"valid_rate", "strict", "unhelpful_safe"}
        found = (one for one in MEASURES.values() if one.name not in left_out and (self.judged or not one.judged))
        return tuple(found)

    def facts(self, system: str) -> SystemFacts | None:
        """What the system is made of."""
        return next((one for one in self.manifest.systems if one.name == system), None)

    def circular(self, system: str) -> str:
        """Why the figures of a system may not be quoted; empty where they may."""
        facts = self.facts(system)
        if facts is not None and facts.circular:
            return f"{_CIRCULAR}: {facts.why_circular}" if facts.why_circular else _CIRCULAR
        return _CIRCULAR if self.summaries[system].circular else ""

    def against(self, system: str) -> list[str]:
        """What may not be claimed of a system, and why; empty where nothing speaks against it."""
        found = [one for one in claims(self.summaries[system]) if not one.startswith("circular")]
        circular = self.circular(system)
        return [f"{circular}; not to be quoted", *found] if circular else found


def judge_words(manifest: Manifest) -> str:
    """How far the judge agrees with labels, in words; that nobody measured it where the run does not say."""
    facts = manifest.judge_facts
    value, measure = facts.get("value"), facts.get("measure")
    if not isinstance(value, int | float) or isinstance(value, bool) or not measure:
        return "its agreement with labels was not measured"
    ci = facts.get("ci")
    pair = (
        isinstance(ci, list | tuple) and len(ci) == len(("low", "high")) and all(isinstance(x, int | float) for x in ci)
    )
    within = f" [{ci[0]:.3f}, {ci[1]:.3f}]" if pair and ci is not None else ""
    rows = f"{facts['n']} rows of " if facts.get("n") else ""
    return f"measured {measure} {value:.3f}{within} on {rows}{facts.get('on') or 'labelled rows'}"


def plain(value: str) -> str:
    """A name as a terminal or a plain file may show it: what would steer, hide or turn text is spelt out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in value)
