"""One prompt under one config, timed: what `chat` and `compare` both do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from cosa_guard.backends.base import Scorer
from cosa_guard.conversation import MessageLike
from cosa_guard.guard import Guard
from cosa_guard.messages import Message, Request, Sampling
from cosa_guard.verdicts import Report
from cosa_sdk import compile as compile_config
from cosa_sdk.tokens import Counter

__all__ = ["Run", "counter_of", "run", "verdict_line"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of it."""

    config: str
    digest: str
    prompt_tokens: int
    reply: str
    report: Report
    ttft_ms: float | None
    """Milliseconds to the first released text."""
    seconds: float

    def json(self) -> dict[str, Any]:
        """The entry of `cosa compare --json` and `cosa chat --json`."""
        return {
            "config": self.config,
            "digest": self.digest,
            "prompt_tokens": self.prompt_tokens,
            "reply": self.reply,
            "act": self.report.act,
            "decision": self.report.outcome,
            "ttft_ms": self.ttft_ms,
            "tokens": self.report.tokens,
        }


def counter_of(guard: Guard) -> Counter | None:
    """Counts the prompt before the user's words with the model's own tokenizer and template, where the backend can."""
    if not hasattr(guard.backend, "count_tokens"):
        return None
    scorer = cast("Scorer", guard.backend)
    return lambda text: scorer.count_tokens(Request(messages=(Message("system", text), Message("user", ""))))


def run(
    guard: Guard, messages: str | list[MessageLike], sampling: Sampling, show: Callable[[str], None] | None = None
) -> Run:
    """Stream one reply; `show` gets each released piece."""
    started = time.perf_counter()
    first: float | None = None
    pieces: list[str] = []
    with guard.stream(messages, sampling=sampling) as stream:
        for piece in stream:
            if piece.text and first is None:
                first = (time.perf_counter() - started) * 1000
            pieces.append(piece.text)
            if show and piece.text:
                show(piece.text)
        report = stream.report
    return Run(
        config=guard.config.name,
        digest=guard.config.digest,
        prompt_tokens=compile_config(guard.config, counter=counter_of(guard)).tokens,
        reply="".join(pieces),
        report=report,
        ttft_ms=round(first, 1) if first is not None else None,
        seconds=time.perf_counter() - started,
    )


def verdict_line(report: Report) -> str:
    """One line for people: what happened, under which rule, decided by whom."""
    parts = [report.act + (f" ({report.redacted} masked)" if report.redacted else "")]
    for stage in ("input", "output"):
        rulings = [ruling for ruling in report.rulings if ruling.stage == stage]
        telling = next((ruling for ruling in rulings if ruling.outcome == "violates"), rulings[-1] if rulings else None)
        if telling is None:
            continue
        rests = telling.decision.rules if telling.outcome != "undecided" else ()
        by = f" by {telling.decided_by}" if telling.outcome != "undecided" else ""
        parts.append(f"{stage} {telling.outcome}{': ' + ', '.join(rests[:3]) if rests else ''}{by}")
    if report.error:
        parts.append(f"error: {report.error}")
    return " | ".join(parts)
