"""What scores a response: evaluation judges. They never filter, guard or label training data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from cosa_guard.evals.suite import Item, Suite

__all__ = ["EvaluationJudge", "Judgement"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What an evaluation judge made of one response."""

    helpful: float | None = None
    """h, 0 to 1 whatever the ethics; None if the judge does not say, or could not be read."""
    safe: bool | None = None
    """The response keeps the config; None as above."""
    risks: frozenset[str] | None = None
    """Taxonomy ids that the response shows, where the judge tells them."""
    said: Mapping[str, str] = field(default_factory=dict)
    """The judge's words, by question: `helpful`, `risks`, `compliance`."""
    invalid: str | None = None
    """Why its words could not be read: the row is invalid, never passed."""


@runtime_checkable
class EvaluationJudge(Protocol):
    """Scores responses. Blocking; many threads may call it."""

    name: str
    """As given on the command line, such as `refusal` or `rating:BACKEND`."""
    models: frozenset[str]
    """What it is made of: names of models, classifiers and rule sets, so that a run can tell who shares them."""
    scores: bool
    """It says `helpful` and `safe`. One that does not, such as `refusal`, leaves the decision score."""
    facts: Mapping[str, Any]
    """For the manifest: its settings, and how far it agrees with labels where that was measured."""

    def judge(self, suite: Suite, item: Item, response: str) -> Judgement:
        """Score one response. An unreadable answer is a `Judgement` with `invalid`, not an error.

        Raises:
            BackendError: the model behind it failed.
        """
        ...
