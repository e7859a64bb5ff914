"""What the formats that follow a policy share: they read the whole config and say whether it is kept."""

from __future__ import annotations

from cosa_guard.judges.guard_models.base import Reading
from cosa_guard.judges.guard_models.prompts import POLICY
from cosa_guard.verdicts import Case
from cosa_sdk.config import SafetyConfig
from cosa_sdk.decide import Evidence

__all__ = ["PolicyFormat", "ruling"]


class PolicyFormat:
    """A format whose model reads the compiled policy."""

    __slots__ = ()
    id: str
    scored = False

    @property
    def name(self) -> str:
        """Prompt version and the version of the policy's wording."""
        return f"{self.id}/{POLICY}"

    def covers(self, config: SafetyConfig) -> frozenset[str]:
        """Everything: the model reads the whole policy."""
        return config.elements


def ruling(case: Case, *, violates: bool, said: str) -> Reading:
    """A yes or no about the whole config."""
    kept = Evidence(examined=case.config.elements)
    return Reading(evidence=Evidence(violates=True) if violates else kept, reason=said, score=float(violates))
