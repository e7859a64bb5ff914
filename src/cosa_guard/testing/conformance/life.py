"""Cancellation, errors, many callers at once, the end: what happens around a reply."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from typing import Any, Final

from cosa_guard.backends.base import Backend, Scorer
from cosa_guard.messages import Sampling
from cosa_guard.testing.conformance.asking import (
    LONG,
    all_places_are_free,
    ask,
    begin,
    filled,
    guarded,
    places,
    said,
    say,
    scorer,
    together,
)
from cosa_guard.testing.conformance.subject import NotApplicable, Setup, Subject, check, expect, raises, shut
from cosa_sdk.errors import BackendError, CosaError, PromptTooLong

__all__: list[str] = []

_TINY: Final = Setup(context=256, parallel=1)
_CALLERS: Final = 16
_ANSWERS: Final = ("stop", "length")


# --- cancellation -----------------------------------------------------------------------------------------------------


@check("cancellation")
def a_stream_that_nobody_reads_takes_no_place(subject: Subject) -> None:
    """Closed before its first piece, or just dropped."""
    backend = subject.backend()
    for _ in range(3 * places(backend)):
        stream: Any = backend.stream(LONG)
        stream.close()
        backend.stream(LONG)
    all_places_are_free(backend, "after streams that nobody read")


@check("cancellation")
def a_stream_can_be_closed_at_its_first_piece(subject: Subject) -> None:
    """Its place is free then."""
    backend = subject.backend()
    for _ in range(3 * places(backend)):
        begin(backend).close()
    all_places_are_free(backend, "after streams closed at the first piece")


@check("cancellation")
def a_stream_can_be_closed_in_the_middle(subject: Subject) -> None:
    """And is over: nothing comes of it any more."""
    backend = subject.backend()
    for read in (2, 5):
        stream = begin(backend)
        for _ in range(read):
            next(stream)
        stream.close()
        expect(next(stream, None) is None, "a stream went on after it was closed")
    all_places_are_free(backend, "after streams closed in the middle")


@check("cancellation")
def a_stream_can_be_closed_twice_and_at_its_end(subject: Subject) -> None:
    """Nothing happens then."""
    backend = subject.backend()
    stream: Any = backend.stream(ask("Hello.", max_tokens=3))
    said(stream)
    stream.close()
    stream.close()
    all_places_are_free(backend, "after streams closed twice")


@check("cancellation")
def a_stream_that_is_forgotten_is_closed(subject: Subject) -> None:
    """By the garbage collector at the latest."""
    backend = subject.backend()
    for _ in range(3 * places(backend)):
        begin(backend)
    gc.collect()
    all_places_are_free(backend, "after streams that were forgotten")


@check("cancellation")
def an_error_of_the_reader_closes_a_stream(subject: Subject) -> None:
    """The error is the reader's own."""
    backend = subject.backend()

    class ReaderError(Exception):
        pass

    for _ in range(2 * places(backend)):
        stream = begin(backend)
        raises(ReaderError, lambda stream=stream: stream.throw(ReaderError()), "an error thrown into a stream")  # type: ignore[misc]
    all_places_are_free(backend, "after errors of readers")


@check("cancellation")
def closing_one_stream_leaves_the_others_alone(subject: Subject) -> None:
    """They go on to their ends."""
    backend = subject.backend()
    request = ask("Count from 1 to 500.", max_tokens=10)
    alone = say(backend, request)
    streams = [begin(backend, request) for _ in range(2)]
    given_up = begin(backend)
    given_up.close()
    lengths = [1 + len(list(stream)) for stream in streams]
    expect(all(length > 1 for length in lengths), f"beside a stream that was closed, others gave {lengths} pieces")
    again = say(backend, request)
    expect(again.text[:1] == alone.text[:1], f"after a stream was closed {alone.text!r} became {again.text!r}")


@check("cancellation")
def a_request_that_waits_is_served_when_a_place_is_given_up(subject: Subject) -> None:
    """Not only when a reply has ended."""
    backend = subject.backend(_TINY)
    streams = [begin(backend) for _ in range(places(backend))]
    replies: list[Any] = []

    def wait() -> None:
        with contextlib.suppress(CosaError):
            replies.append(say(backend, ask("Hello.", max_tokens=2)))

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    for stream in streams:
        stream.close()
    waiting.join()
    expect(len(replies) == 1 and replies[0].tokens > 0, "a request that waited for a place got no reply")


@check("cancellation")
def a_cancelled_task_gives_its_place_back(subject: Subject) -> None:
    """Through the guard, as servers do it."""
    backend = subject.backend()
    guard = guarded(backend)

    async def run() -> None:
        async def read() -> None:
            async for _ in guard.astream("Count from 1 to 500.", sampling=Sampling(max_tokens=100)):
                begun.set()

        for _ in range(places(backend) + 1):
            begun = asyncio.Event()
            task = asyncio.create_task(read())
            await begun.wait()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(run())
    all_places_are_free(backend, "after tasks that were cancelled")


# --- errors -----------------------------------------------------------------------------------------------------------


@check("errors")
def a_prompt_that_is_too_long_is_refused_with_numbers(subject: Subject) -> None:
    """In replies and in log-odds; and the backend works on."""
    backend = scorer(subject)
    request = ask("word " * 2000)
    for call in (lambda: list(backend.stream(request)), lambda: backend.next_logprobs(request)):
        error = raises(PromptTooLong, call, "a prompt of 2,000 words")
        context = backend.capabilities.context or error.budget + 1
        expect(
            error.tokens > max(2000, error.budget) and error.budget > 0,
            f"it has {error.tokens} tokens of {error.budget}",
        )
        expect(error.budget <= context, f"the budget {error.budget} is more than the context, {context}")
        expect(str(error.tokens) in str(error).replace(",", ""), f"the message does not say how long it is: {error}")
        say(backend, ask("Hello.", max_tokens=2))


@check("errors")
def the_longest_prompt_that_fits_is_answered(subject: Subject) -> None:
    """One token more is too long."""
    backend = scorer(subject, _TINY)
    request = ask("word " * 2000)
    budget = raises(PromptTooLong, lambda: list(backend.stream(request)), "a prompt of 2,000 words").budget
    longest = filled(backend, "", backend.capabilities.context - budget)
    expect(say(backend, longest).tokens >= 1, "a prompt that fits gets no token")
    longer = ask(longest.messages[-1].content + " Yes" * 8)
    raises(PromptTooLong, lambda: list(backend.stream(longer)), "a prompt that is a little too long")


@check("errors")
def a_closed_backend_says_so(subject: Subject) -> None:
    """Each call raises BackendError; closing again does nothing."""
    with subject.fresh(_TINY) as backend:
        _can_be_closed(backend)
        say(backend, ask("Hello.", max_tokens=2))
        shut(backend)
        shut(backend)
        raises(BackendError, lambda: list(backend.stream(ask("Hello."))), "a reply of a closed backend")
        if isinstance(backend, Scorer):
            closed: Scorer = backend
            raises(BackendError, lambda: closed.next_logprobs(ask("Hello.")), "log-odds of a closed backend")


@check("errors")
def closing_ends_the_streams_that_are_open(subject: Subject) -> None:
    """With a BackendError, or with what was generated already; never with silence."""
    with subject.fresh(Setup(context=256, parallel=2)) as backend:
        _can_be_closed(backend)
        stream = begin(backend)
        shut(backend)
        try:
            rest = list(stream)
        except BackendError:
            return
        expect(rest and rest[-1].finish, f"an open stream of a closed backend ended without a finish: {rest[-3:]!r}")


@check("errors")
def closing_ends_the_requests_that_wait(subject: Subject) -> None:
    """Every caller gets an answer or a BackendError, and then the threads are gone."""
    with subject.fresh(_TINY) as backend:
        _can_be_closed(backend)
        stream = begin(backend)
        ended: list[str] = []
        gate = threading.Barrier(4)

        def wait() -> None:
            gate.wait()
            try:
                ended.append(say(backend, LONG).finish)
            except BackendError as error:
                ended.append(type(error).__name__)

        threads = [threading.Thread(target=wait, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        gate.wait()
        threading.Event().wait(0.1)  # nothing tells that a request has begun to wait
        shut(backend)
        for thread in threads:
            thread.join()
        with contextlib.suppress(BackendError):
            list(stream)
        expect(len(ended) == 3, f"of 3 requests that waited {len(ended)} ended, as {ended!r}")


@check("errors")
def a_backend_leaves_no_threads_behind(subject: Subject) -> None:
    """When it is closed."""
    before = {*threading.enumerate()}
    with subject.fresh(_TINY) as backend:
        _can_be_closed(backend)
        together([lambda: say(backend, ask("Hello.", max_tokens=2)) for _ in range(3)])
        begin(backend).close()
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(subject.patience / 4)
    alive = [thread.name for thread in left if thread.is_alive()]
    expect(not alive, f"a closed backend left the threads {alive!r} behind")


def _can_be_closed(backend: Backend) -> None:
    if not hasattr(backend, "close"):
        raise NotApplicable("the backend has no close()")
