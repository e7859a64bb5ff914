"""What checks are made of: requests, replies, and how two of them are compared."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cosa_guard.backends.base import Backend, Scorer
from cosa_guard.guard import Guard
from cosa_guard.messages import Adapter, Delta, Finish, LogProbs, Message, Request, Sampling
from cosa_guard.testing import ScriptedJudge
from cosa_guard.testing.conformance.subject import PLAIN, NotApplicable, Setup, Subject, expect
from cosa_sdk.config import SafetyConfig

__all__ = [
    "FOX",
    "LONG",
    "NUMERICS",
    "Said",
    "all_places_are_free",
    "ask",
    "ask_json",
    "begin",
    "distance",
    "drawn",
    "expect_same_texts",
    "filled",
    "guarded",
    "json_backend",
    "places",
    "said",
    "say",
    "scorer",
    "together",
    "using",
]

NUMERICS: Final = 0.2
"""Probability mass by which two distributions may differ that mean the same.

A prompt whose beginning is cached, or that is computed beside others, adds its numbers up in another order.
"""


def ask(user: str, *, system: str | None = "You are terse.", scope: str = "", **sampling: Any) -> Request:
    """A short, greedy request."""
    head = () if system is None else (Message("system", system),)
    return Request(
        messages=(*head, Message("user", user)), sampling=Sampling(**{"max_tokens": 10} | sampling), scope=scope
    )


FOX: Final = ask("Write one sentence about a fox.", max_tokens=12)


def ask_json(schema: Any, question: str = "Answer in JSON.", **sampling: Any) -> Request:
    """A request whose reply is constrained to a schema."""
    told = {"max_tokens": 60} | sampling
    return ask(question, json_schema=schema if isinstance(schema, str) else json.dumps(schema), **told)


def json_backend(subject: Subject) -> Backend:
    """The backend, where it takes JSON schemas."""
    backend = subject.backend()
    if not backend.capabilities.json_schema:
        raise NotApplicable("capabilities.json_schema is False")
    return backend


def drawn(request: Request, **sampling: Any) -> Request:
    """The request with other sampling, of the same length and seed where nothing else is said."""
    told = {"max_tokens": request.sampling.max_tokens, "seed": request.sampling.seed}
    return request.replace(sampling=Sampling(**told | sampling))


def using(request: Request, name: str, scale: float = 1.0) -> Request:
    """The request with one adapter."""
    return request.replace(adapters=(Adapter(name=name, scale=scale),))


@dataclass(frozen=True, slots=True)
class Said:
    """One reply."""

    deltas: tuple[Delta, ...]
    text: str
    finish: Finish
    tokens: int


def said(deltas: Iterable[Delta]) -> Said:
    """A reply that is whole; every reply of the suite goes through here."""
    pieces = tuple(deltas)
    expect(pieces, "a stream ended without a piece")
    finish = pieces[-1].finish
    expect(finish is not None, f"the last piece has no finish: {pieces[-1]!r}")
    early = [piece for piece in pieces[:-1] if piece.finish is not None]
    expect(not early, f"a piece that is not the last one has a finish: {early!r}")
    negative = [piece for piece in pieces if piece.tokens < 0]
    expect(not negative, f"a piece stands for less than no tokens: {negative!r}")
    text = "".join(piece.text for piece in pieces)
    return Said(pieces, text, finish or "stop", sum(piece.tokens for piece in pieces))


def say(backend: Backend, request: Request) -> Said:
    """The whole reply to a request."""
    return said(backend.stream(request))


def scorer(subject: Subject, setup: Setup = PLAIN) -> Any:  # frozen
    """The backend of a setup, where it shows log-odds."""
    backend = subject.backend(setup)
    if not backend.capabilities.logprobs:
        raise NotApplicable("capabilities.logprobs is False")
    expect(isinstance(backend, Scorer), "capabilities.logprobs is True, but next_logprobs or count_tokens is missing")
    return backend


def distance(left: LogProbs, right: LogProbs) -> float:
    """Probability mass that lies elsewhere: 0 for equal distributions, 1 for disjoint ones."""
    return sum(
        abs(math.exp(left.get(token, -math.inf)) - math.exp(right.get(token, -math.inf)))
        for token in left.keys() | right.keys()
    ) / 2  # fmt: skip


def filled(backend: Scorer, question: str, room: int, **sampling: Any) -> Request:
    """The question, made so long that the context has at least `room` tokens left, and hardly more."""
    budget = _context(backend) - room

    def grown(words: int) -> Request:
        return ask(question + " Yes" * words, **sampling)

    low, high = 0, budget
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if backend.count_tokens(grown(middle)) <= budget else (low, middle - 1)
    return grown(low)


def _context(backend: Any) -> int:
    context: int | None = backend.capabilities.context
    if context is None:
        raise NotApplicable("capabilities.context is None")
    return context


def together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What the calls gave, each in its own thread, begun at the same moment; the first error is raised."""
    results: list[Any] = [None] * len(calls)
    errors: list[BaseException] = []
    gate = threading.Barrier(len(calls))

    def work(place: int) -> None:
        try:
            gate.wait()
            results[place] = calls[place]()
        except BaseException as error:  # noqa: BLE001  # raised again below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def expect_same_texts(backend: Any, what: str, pairs: Sequence[tuple[Request, str, str]]) -> None:
    """Each request's two greedy texts agree, numerics allowed for.

    Where they part at the first word, its two likeliest tokens must lie within `NUMERICS` of each other. Of four or
    more pairs one may part later on, which the protocol gives no means to look into.
    """
    parted = [pair for pair in pairs if pair[1] != pair[2]]
    for request, one, other in parted:
        if one[:1] != other[:1]:
            near = backend.capabilities.logprobs and _margin(backend, request) < NUMERICS
            expect(near, f"{what}: {one!r} became {other!r} for {request.messages[-1].content!r}")
    shown = [(one, other) for _, one, other in parted]
    expect(len(parted) * 4 <= len(pairs), f"{what}: {len(parted)} of {len(pairs)} replies differ: {shown!r}")


def _margin(backend: Any, request: Request) -> float:
    best, second = sorted(backend.next_logprobs(request, top=2).values(), reverse=True)[:2]
    return math.exp(best) - math.exp(second)


LONG: Final = ask("Count from 1 to 500.", max_tokens=150)


def begin(backend: Backend, request: Request = LONG) -> Any:
    """A stream that has given its first piece."""
    stream = backend.stream(request)
    next(stream)
    return stream


def places(backend: Backend) -> int:
    """How many requests run at once, as far as it says."""
    return backend.capabilities.parallel or 4


def all_places_are_free(backend: Backend, why: str) -> None:
    """Twice as many short requests as there are places come back."""
    calls: list[Any] = [lambda: say(backend, ask("Hello.", max_tokens=2)) for _ in range(2 * places(backend))]
    replies = together(calls)
    expect(all(reply.tokens for reply in replies), f"{why}, replies are empty")


def guarded(backend: Backend) -> Guard:
    """A guard around the backend that lets everything through."""
    return Guard(SafetyConfig(name="kind", guideline="Be kind."), judge=ScriptedJudge(), backend=backend)
