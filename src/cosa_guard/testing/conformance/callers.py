"""Many callers at once, and what a backend says of itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any, Final

from cosa_guard.backends.base import Backend, Scorer
from cosa_guard.messages import Delta, Sampling
from cosa_guard.testing.conformance.asking import (
    all_places_are_free,
    ask,
    begin,
    guarded,
    places,
    said,
    say,
    scorer,
    together,
)
from cosa_guard.testing.conformance.subject import NotApplicable, Setup, Subject, check, expect, raises
from cosa_sdk.errors import CosaError, PromptTooLong, UsageError

__all__: list[str] = []

_TINY: Final = Setup(context=256, parallel=1)
_CALLERS: Final = 16
_ANSWERS: Final = ("stop", "length")


@check("concurrency")
def sixteen_threads_are_answered(subject: Subject) -> None:
    """All of them, within their limits."""
    backend = subject.backend()
    calls: list[Any] = [
        lambda number=number: say(backend, ask(f"Say {number}.", system=f"You are number {number % 3}.", max_tokens=5))
        for number in range(_CALLERS)
    ]
    replies = together(calls)
    odd = [reply for reply in replies if not 0 < reply.tokens <= 5 or reply.finish not in _ANSWERS]
    expect(not odd, f"{len(odd)} of {_CALLERS} replies are out of bounds: {odd!r}")


@check("concurrency")
def sixteen_tasks_are_answered(subject: Subject) -> None:
    """Through the guard, from one event loop."""
    guard = guarded(subject.backend())

    async def run() -> list[Any]:
        sampling = Sampling(max_tokens=2)
        return await asyncio.gather(*(guard.areply(f"Say {number}.", sampling=sampling) for number in range(_CALLERS)))

    replies = asyncio.run(run())
    expect(all(reply.finish in _ANSWERS for reply in replies), f"finishes: {[reply.finish for reply in replies]!r}")
    expect(all(reply.text for reply in replies), f"texts: {[reply.text for reply in replies]!r}")


@check("concurrency")
def everybody_gets_the_answer_to_their_own_question(subject: Subject) -> None:
    """Side by side as one by one, numerics allowed for."""
    backend = subject.backend()
    questions = (
        "What is 1 + 1?",
        "Name a colour.",
        "Count from 1 to 500.",
        "Say yes.",
        "Write one sentence about a fox.",
    )
    requests = [ask(question, max_tokens=6) for question in questions]
    alone = [say(backend, request).text for request in requests]
    expect(len({*alone}) > 2, f"five questions got the answers {alone!r}")
    crowd = together([lambda request=request: say(backend, request).text for request in requests])  # type: ignore[misc]
    differ = [pair for pair in zip(alone, crowd, strict=True) if pair[0] != pair[1]]
    expect(len(differ) <= 2, f"side by side {len(differ)} of {len(alone)} answers changed: {differ!r}")


@check("concurrency")
def more_open_streams_than_places_do_not_lock_up(subject: Subject) -> None:
    """One thread reads them in turn, as a judge does that asks its model while a reply is open."""
    backend = scorer(subject)
    streams = [begin(backend, ask(f"Count from {number}.", max_tokens=5)) for number in range(places(backend) + 2)]
    backend.next_logprobs(ask("Hello."), top=1)
    finishes = [deltas[-1].finish for stream in streams if (deltas := list(stream))]
    expect(all(finish in _ANSWERS for finish in finishes), f"they ended with {finishes!r}")


@check("concurrency")
def some_give_up_and_the_others_are_answered(subject: Subject) -> None:
    """Half of sixteen close their streams at different places."""
    backend = subject.backend()

    def run(number: int) -> bool:
        stream: Any = backend.stream(ask(f"Count from {number}.", max_tokens=6))
        if number % 2:
            return bool(said(stream).tokens)
        for _ in range(number % 4):
            next(stream, None)
        stream.close()
        return True

    calls: list[Any] = [lambda number=number: run(number) for number in range(_CALLERS)]
    expect(all(together(calls)), "a reply beside streams that were given up is empty")
    all_places_are_free(backend, "after streams that were given up")


@check("concurrency")
def some_fail_and_the_others_are_answered(subject: Subject) -> None:
    """Prompts that are too long, and adapters that are not there, are their callers' faults alone."""
    backend = subject.backend()

    def run(number: int) -> str:
        request = ask("word " * 2000) if number % 2 else ask(f"Say {number}.", max_tokens=3)
        try:
            return say(backend, request).finish
        except PromptTooLong:
            return "refused"

    calls: list[Any] = [lambda number=number: run(number) for number in range(8)]
    outcomes = together(calls)
    expect(all(outcome == "refused" for outcome in outcomes[1::2]), f"prompts that are too long ended as {outcomes!r}")
    expect(all(outcome in _ANSWERS for outcome in outcomes[::2]), f"beside them, others ended as {outcomes!r}")
    all_places_are_free(backend, "after requests that failed")


@check("concurrency")
def a_stream_may_be_read_by_another_thread(subject: Subject) -> None:
    """As the guard's async driver does."""
    backend = subject.backend()
    stream: Iterator[Delta] = backend.stream(ask("Count from 1 to 500.", max_tokens=6))
    pieces: list[Delta] = []

    def step() -> None:
        with contextlib.suppress(StopIteration):
            pieces.append(next(stream))

    while not pieces or pieces[-1].finish is None:
        before = len(pieces)
        together([step])
        expect(len(pieces) > before, f"a stream ended without a finish: {pieces!r}")
    said(pieces)


# --- capabilities -----------------------------------------------------------------------------------------------------


@check("capabilities")
def numbers_are_numbers(subject: Subject) -> None:
    """Or None, where a backend cannot tell; and it has a name."""
    backend = subject.backend()
    expect(isinstance(backend, Backend), f"{backend!r} is no Backend: it lacks name, capabilities or stream")
    expect(isinstance(backend.name, str) and backend.name, f"its name is {backend.name!r}")
    for name in ("context", "parallel", "resident"):
        value = getattr(backend.capabilities, name)
        expect(value is None or (type(value) is int and value > 0), f"capabilities.{name} is {value!r}")


@check("capabilities")
def the_context_is_the_one_that_prompts_are_held_to(subject: Subject) -> None:
    """Less a few tokens for the reply."""
    for setup in (Setup(), _TINY):
        backend = scorer(subject, setup)
        context = backend.capabilities.context
        if context is None:
            raise NotApplicable("capabilities.context is None")
        budget = raises(PromptTooLong, lambda: list(backend.stream(ask("word " * 2000))), "2,000 words").budget  # noqa: B023  # called at once
        expect(0 <= context - budget <= 8, f"the context is {context}, and prompts may have {budget} tokens")


@check("capabilities")
def what_is_not_there_is_refused(subject: Subject) -> None:
    """A request for JSON is not answered with anything."""
    backend = subject.backend()
    request = ask("Answer in JSON.", json_schema=json.dumps({"const": 1}))
    if backend.capabilities.json_schema:
        expect(
            json.loads(say(backend, request).text) == 1, "capabilities.json_schema is True, and the reply is no JSON"
        )
    else:
        raises((UsageError, CosaError), lambda: list(backend.stream(request)), "a json_schema that cannot be applied")


@check("capabilities")
def log_odds_are_there_or_not(subject: Subject) -> None:
    """A backend that says so is a Scorer."""
    backend = subject.backend()
    if not backend.capabilities.logprobs:
        raise NotApplicable("capabilities.logprobs is False")
    expect(isinstance(backend, Scorer), "capabilities.logprobs is True, but it is no Scorer")
