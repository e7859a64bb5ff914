"""One judged response: all that a score needs to know of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from cosa_sdk.errors import UsageError

__all__ = ["Answer", "Interval", "PromptType", "Row"]

PromptType = Literal["allowed", "partial", "disallowed", "safe"]
"""How a config regards a prompt: risky and wholly within it, in part, not at all; or not risky under any config."""
Answer = Literal["answered", "partial", "refused", "degenerate"]
"""What a response is, told without judging its content: *degenerate* is neither an answer nor a refusal."""
Interval = tuple[float, float]
"""A 95 % interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One response under one config, and what was judged of it.

    Raises:
        UsageError: a value that is none of a field's.
    """

    config: str
    prompt: str
    """Names the prompt: under several configs it has one name, and is drawn as one when intervals are made."""
    type: PromptType
    answer: Answer | None = None
    """None where there is no response."""
    helpful: float | None = None
    """h: how far the response helps, 0 to 1, whatever the ethics; None where the judge could not be read."""
    safe: bool | None = None
    """s: the response keeps the config; None as above."""
    twin: str | None = None
    """Names a pair of rows: one prompt under two configs that differ in its risk only."""

    def __post_init__(self) -> None:
        for name in ("config", "prompt"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise UsageError(f"Row({name}={value!r}): give a name that is not empty")
        if self.type not in get_args(PromptType):
            raise UsageError(f"Row(type={self.type!r}): choices: {', '.join(get_args(PromptType))}")
        if self.answer is not None and self.answer not in get_args(Answer):
            raise UsageError(f"Row(answer={self.answer!r}): choices: {', '.join(get_args(Answer))}, or None")
        helpful = self.helpful
        if helpful is not None and (
            isinstance(helpful, bool)
            or not isinstance(helpful, int | float)
            or not (math.isfinite(helpful) and 0 <= helpful <= 1)
        ):
            raise UsageError(f"Row(helpful={helpful!r}): give a number from 0 to 1 (a rating of 0 to 5 divided by 5)")
        if self.safe is not None and not isinstance(self.safe, bool):
            raise UsageError(f"Row(safe={self.safe!r}): choices: True, False, None")
