"""Checks that every local backend passes: a request means the same whoever answers it.

For authors of backends. With pytest, three lines::

    @pytest.mark.parametrize("check", conformance.CHECKS, ids=str)
    def test_conformance(check, subject):
        check(subject)

A check raises AssertionError with a sentence, or `NotApplicable` where `Backend.capabilities` says that the feature is
not there. `run` needs no test runner. The checks ask a model of any quality, greedily and for few tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cosa_guard.testing.conformance import callers, generation, life, prefixes, prompts, schemas, scoring, stops
from cosa_guard.testing.conformance.subject import CHECKS as _CHECKS
from cosa_guard.testing.conformance.subject import Check, NotApplicable, Setup, Subject

__all__ = ["CHECKS", "Check", "NotApplicable", "Outcome", "Setup", "Subject", "run"]

_MODULES = (prompts, stops, generation, schemas, scoring, prefixes, life, callers)
CHECKS: tuple[Check, ...] = tuple(_CHECKS)
"""All checks, by topic. A check's `str` is its name."""


@dataclass(slots=True)
class Outcome:
    """What a run found."""

    passed: list[Check] = field(default_factory=list)
    failed: dict[Check, BaseException] = field(default_factory=dict)
    """With what each raised."""
    not_applicable: dict[Check, str] = field(default_factory=dict)
    """With the reason of each."""

    def __str__(self) -> str:
        lines = [
            f"{len(self.passed)} passed, {len(self.failed)} failed, {len(self.not_applicable)} not applicable",
            *(f"failed: {check}: {error}" for check, error in self.failed.items()),
            *(f"not applicable: {check}: {reason}" for check, reason in self.not_applicable.items()),
        ]
        return "\n".join(lines)


def run(subject: Subject, checks: Iterable[Check] = CHECKS) -> Outcome:
    """Run the checks, one after the other. Errors of the backend are failures like any other."""
    outcome = Outcome()
    for check in checks:
        try:
            check(subject)
        except NotApplicable as reason:
            outcome.not_applicable[check] = str(reason)
        except Exception as error:  # noqa: BLE001  # what a backend raises is a finding
            outcome.failed[check] = error
        else:
            outcome.passed.append(check)
    return outcome
