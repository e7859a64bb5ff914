"""What a judge is: something that reads a case and says what it found, and what it looked for."""

from __future__ import annotations

from typing import Protocol, TypeGuard, runtime_checkable

from cosa_guard.verdicts import Case, Verdict
from cosa_sdk.config import SafetyConfig

__all__ = ["AnyJudge", "AsyncJudge", "Judge", "blocks"]


@runtime_checkable
class Judge(Protocol):
    """A blocking judge. Many threads may call it.

    More attributes are optional. `reach`: most characters of a conversation that it reads; a guard shows its model no
    more. `windowed = True`: judging a stream unit by unit finds exactly what judging the whole finds, so the guard need
    not judge the whole again at the end. `timeout`: seconds for one case, else the guard's. `fingerprint(stage)`: text
    that changes with whatever beside name and case decides its verdicts, such as thresholds, for the verdict cache.
    """

    name: str
    """Id and version, such as `rules/1`: part of every verdict."""
    inline: bool
    """Pure and fast (well under a millisecond): may run on the caller's thread, without a time-out."""

    def covers(self, config: SafetyConfig) -> frozenset[str]:
        """The elements of `config.elements` that this judge can settle, one way or the other."""
        ...

    def holdback(self, config: SafetyConfig) -> int:
        """How many normalised characters of a stream this judge needs to see beyond what is released."""
        ...

    def judge(self, case: Case) -> Verdict:
        """Read a case.

        Raises:
            JudgeError: the judge could not answer; the guard then follows `on_error`.
        """
        ...


@runtime_checkable
class AsyncJudge(Protocol):
    """A judge that can only be awaited."""

    name: str
    inline: bool

    def covers(self, config: SafetyConfig) -> frozenset[str]:
        """As `Judge.covers`."""
        ...

    def holdback(self, config: SafetyConfig) -> int:
        """As `Judge.holdback`."""
        ...

    async def ajudge(self, case: Case) -> Verdict:
        """As `Judge.judge`, asynchronously."""
        ...


AnyJudge = Judge | AsyncJudge


def blocks(judge: AnyJudge) -> TypeGuard[Judge]:
    """It can be called without awaiting."""
    # isinstance() on a protocol costs more than a whole `rules` verdict.
    return hasattr(judge, "judge")
