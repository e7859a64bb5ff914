"""What the judges for guard models share: a format is pure, and this asks a backend on its behalf.

A `Format` turns a case into questions and strict answers into evidence. `GuardModel` is the judge: it puts the
questions to any backend, blocking or awaited, and an answer that is not exactly what the model's card promises is a
`JudgeError`, never a pass.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from cosa_guard.backends.base import AnyBackend, AsyncBackend, Backend, Scorer, blocks
from cosa_guard.judges.calibration import Calibration, calibration_for
from cosa_guard.messages import Delta, LogProbs, Message, Request, Sampling
from cosa_guard.verdicts import Case, Stage, Verdict
from cosa_sdk.config import SafetyConfig
from cosa_sdk.decide import Evidence
from cosa_sdk.errors import JudgeError, UsageError

__all__ = ["Answer", "Asking", "Format", "GuardModel", "Question", "Reading", "misread"]

HOLDBACK = 40
"""Characters, about ten tokens: what makes a sentence bad may be its last word."""
REACH = 6_000
"""Most characters of a conversation that the judge reads. A guard shows its model no more than its judges read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a guard model is asked, as role messages: the backend or its server puts the chat template around them."""

    messages: tuple[Message, ...]
    max_tokens: int
    stop: tuple[str, ...] = ()


Answer = str | LogProbs
"""What the model wrote, or, of a format that is `scored`, the probabilities of its first token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the answers mean."""

    evidence: Evidence
    reason: str
    risks: dict[str, float] = field(default_factory=dict)
    score: float | None = None


Asking = Generator[Question, Answer, Reading]
"""Asks one question or several, and ends with what the answers mean."""


class Format(Protocol):
    """How one guard model is asked, and what it answers. Pure."""

    @property
    def name(self) -> str:
        """Format and version of its prompt, such as `llama-guard-3/1`: part of every verdict."""
        ...

    @property
    def scored(self) -> bool:
        """The card reads a score off the first token's probabilities."""
        ...

    def covers(self, config: SafetyConfig) -> frozenset[str]:
        """The elements that the model can settle."""
        ...

    def ask(self, case: Case, calibration: Calibration) -> Asking:
        """Judge a case.

        Raises:
            JudgeError: an answer is not of the card's form.
        """
        ...


def misread(format_name: str, answer: str, expected: str) -> JudgeError:
    """The error of an answer that is not of the card's form."""
    shown = answer if len(answer) <= _SHOWN else f"{answer[:_SHOWN]}…"
    return JudgeError(f"{format_name} answered {shown!r}; expected {expected}")


_SHOWN = 80


class GuardModel:
    """A guard model on any backend, as a judge.

    It has `judge`, `ajudge` or both, as the backend can be called, awaited or both. Where the format reads
    probabilities and the backend shows them it is only called, so that sync and async say the same.

    Args:
        timeout: seconds for one case; the guard's own time-out otherwise.

    Raises:
        UsageError: the backend can be neither called nor awaited, or the time-out is not a positive number.
    """

    inline = False
    reach = REACH
    judge: Callable[[Case], Verdict]
    """Read a case.

    Raises:
        JudgeError: the answer was cut, or is not of the card's form.
        BackendError: the model failed.
    """
    ajudge: Callable[[Case], Coroutine[Any, Any, Verdict]]
    """As `judge`, awaiting."""

    def __init__(self, format: Format, backend: AnyBackend, *, timeout: float | None = None) -> None:  # noqa: A002
        if timeout is not None and not timeout > 0:
            raise UsageError(f"timeout={timeout!r}: give a positive number of seconds, or None for the guard's own")
        self.timeout = timeout
        self._format = format
        self.backend = backend
        """Whom the judge asks; whoever made it closes it."""
        self._model = backend.name.rpartition(":")[2]
        self.name = f"{format.name}:{self._model}"
        scorer = _scorer(backend) if format.scored else None
        if blocks(backend):
            self.judge = lambda case: self._read(case, backend, scorer)
        if isinstance(backend, AsyncBackend) and scorer is None:
            self.ajudge = lambda case: self._aread(case, backend)
        if not (hasattr(self, "judge") or hasattr(self, "ajudge")):
            raise UsageError(f"{backend!r} is no backend: it has neither stream(request) nor astream(request)")

    def covers(self, config: SafetyConfig) -> frozenset[str]:
        """What the model was made to see."""
        return self._format.covers(config) & config.elements

    def holdback(self, config: SafetyConfig) -> int:  # noqa: ARG002  # the same for every config
        """About ten tokens."""
        return HOLDBACK

    def calibration(self, stage: Stage) -> Calibration:
        """How far this model's score may be believed at that stage."""
        return calibration_for(self._model, stage)

    def fingerprint(self, stage: Stage) -> str:
        """What beside its name and the case decides its verdict: part of cache keys."""
        return repr(self.calibration(stage)) if self._format.scored else ""

    def _read(self, case: Case, backend: Backend, scorer: Scorer | None) -> Verdict:
        asking = self._format.ask(case, self.calibration(case.stage))
        tokens = 0
        try:
            question = next(asking)
            while True:
                answer: Answer
                if scorer is not None:
                    answer = scorer.next_logprobs(Request(messages=question.messages))
                else:
                    answer, spent = _written(backend.stream(_request(question)), self.name)
                    tokens += spent
                question = asking.send(answer)
        except StopIteration as end:
            return self._verdict(end.value, tokens)

    async def _aread(self, case: Case, backend: AsyncBackend) -> Verdict:
        asking = self._format.ask(case, self.calibration(case.stage))
        tokens = 0
        question = next(asking)
        while True:
            answer, spent = await _awritten(backend.astream(_request(question)), self.name)
            tokens += spent
            try:
                question = asking.send(answer)
            except StopIteration as end:
                return self._verdict(end.value, tokens)

    def _verdict(self, reading: Reading, tokens: int) -> Verdict:
        return Verdict(
            judge=self.name,
            evidence=reading.evidence,
            risks=reading.risks,
            score=reading.score,
            reason=reading.reason,
            tokens=tokens,
        )


def _scorer(backend: AnyBackend) -> Scorer | None:
    return backend if isinstance(backend, Scorer) and backend.capabilities.logprobs else None


def _request(question: Question) -> Request:
    sampling = Sampling(max_tokens=question.max_tokens, stop=question.stop)
    return Request(messages=question.messages, sampling=sampling)


def _written(stream: Iterator[Delta], judge: str) -> tuple[str, int]:
    return _whole(list(stream), judge)


async def _awritten(stream: AsyncIterator[Delta], judge: str) -> tuple[str, int]:
    return _whole([delta async for delta in stream], judge)


def _whole(pieces: list[Delta], judge: str) -> tuple[str, int]:
    """The text of an answer that ended by itself, and its tokens."""
    finish = pieces[-1].finish if pieces else None
    if finish != "stop":
        # What is cut may be a pass whose other half took it back.
        raise JudgeError(f"the answer of {judge} ended with {finish or 'nothing'!r}, so it may be cut short")
    return "".join(piece.text for piece in pieces), sum(piece.tokens for piece in pieces)
