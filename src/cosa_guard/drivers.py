"""The only two places that answer steps: `drive` blocks, `adrive` awaits. Clocks, threads and time-outs live here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar, cast

from cosa_guard.asking import Ended, Keeping, Ports, ask, blocking, inline, judged, late, patience, settle
from cosa_guard.backends import base as backends
from cosa_guard.backends.base import AnyBackend
from cosa_guard.messages import Delta
from cosa_guard.steps import READY, Ask, Begin, Close, Emit, Flow, Open, Pull, Record, Settle, Step
from cosa_guard.verdicts import Verdict
from cosa_sdk.errors import JudgeError, UsageError

__all__ = ["Outcome", "Ports", "adrive", "drive"]

AT_ONCE = 8
"""Begun flows of one call whose judges work at a time: a text that comes in one piece must not fill the pool."""

T = TypeVar("T")
_UNSET: Any = object()


@dataclass(slots=True)
class Outcome(Generic[T]):
    """Where a driver leaves what the flow returned: a stream's consumer gets text, not return values."""

    value: T = field(default=_UNSET)

    @property
    def known(self) -> bool:
        """The flow has ended."""
        return self.value is not _UNSET


class _Task(Generic[T]):
    """A begun flow of asks, stepped by whoever looks at it; judges that take time run on the pool meanwhile.

    Args:
        beside: the other begun flows of the call. Where too many of them have a judge at work, this one's waits until
            it is its turn, or until somebody waits for it.
    """

    __slots__ = ("_ask", "_beside", "_deadline", "_flow", "_ports", "future", "result")

    def __init__(self, flow: Flow[T], ports: Ports, beside: Iterable[_Task[Any]] = ()) -> None:
        self._flow = flow
        self._ports = ports
        self._beside = beside
        self._ask: Ask | None = None
        self.future: Future[Verdict] | None = None
        self._deadline = 0.0
        self.result: T = _UNSET
        self._advance(partial(flow.send, None))

    @property
    def ready(self) -> bool:
        while self.future is not None and (self.future.done() or time.monotonic() >= self._deadline):
            self._collect()
        return self._ask is None

    def wait(self) -> T:
        while self._ask is not None:
            if self.future is None:
                self._submit(self._ask)
            else:
                self._collect()
        return self.result

    def take_turn(self) -> None:
        """Have its judge begin, if there is one and its turn has come."""
        if self._ask is not None and self.future is None:
            working = sum(task.future is not None for task in self._beside)
            if working < AT_ONCE:
                self._submit(self._ask)

    def leave(self) -> None:
        """Nobody waits for it any more."""
        if self.future is not None:
            self._ports.pool.abandon(self.future)
        self._flow.close()

    def _submit(self, ask: Ask) -> None:
        try:
            self.future = self._ports.pool.submit(partial(judged, blocking(ask.judge), ask.case))
        except JudgeError as error:  # the pool is full
            self._advance(partial(self._flow.throw, error))
        else:
            self._deadline = time.monotonic() + patience(ask.judge, self._ports)

    def _collect(self) -> None:
        """Take the running judge's verdict, at the latest by its deadline, and go on."""
        future, ask = self.future, self._ask
        assert future is not None
        assert ask is not None
        self.future = None
        try:
            verdict = future.result(max(0.0, self._deadline - time.monotonic()))
        except FutureTimeout:
            self._ports.pool.abandon(future)
            self._advance(partial(self._flow.throw, late(ask.judge, self._ports)))
        except JudgeError as error:
            self._advance(partial(self._flow.throw, error))
        else:
            self._advance(partial(self._flow.send, verdict))

    def _advance(self, resume: Callable[[], Step[Any]]) -> None:
        self._ask = None
        step = inline(self._flow, self._ports, resume)
        while isinstance(step, Keeping):
            step = inline(self._flow, self._ports, partial(self._flow.send, step.kept.result()))
        if isinstance(step, Ended):
            self.result = step.result
            return
        self._ask = step
        self.take_turn()


class _Tasks:
    """The begun flows of a call, oldest first."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._begun: dict[_Task[Any], None] = {}

    def begin(self, flow: Flow[T]) -> _Task[T]:
        task = _Task(flow, self._ports, self._begun.keys())
        self._begun[task] = None
        return task

    def settle(self, task: _Task[T]) -> T:
        result = task.wait()
        self._begun.pop(task, None)
        for other in self._begun:
            if not other.ready:
                other.take_turn()
        return result

    def leave(self) -> None:
        for task in self._begun:
            task.leave()


def _one_ask(ask: Ask) -> Flow[Verdict]:
    return (yield from ask)


def drive(flow: Flow[T], ports: Ports, outcome: Outcome[T]) -> Iterator[Any]:  # noqa: C901  # one arm a step
    """Answer a flow's steps, blocking; yields what it emits.

    Closing the iterator closes the flow and stops the backend.
    """
    stream: Iterator[Delta] | None = None
    tasks = _Tasks(ports)
    answer: Any = None
    try:
        while True:
            try:
                step = flow.send(answer) if not isinstance(answer, JudgeError) else flow.throw(answer)
            except StopIteration as end:
                outcome.value = end.value
                return
            answer = None
            match step:
                case Pull():
                    answer = next(stream, None) if stream is not None else None
                case Emit(piece):
                    yield piece
                case Begin(inner):
                    answer = tasks.begin(inner)
                case Settle(ticket):
                    answer = tasks.settle(cast("_Task[Any]", ticket))
                case Ask(judge, case):
                    try:
                        quick = judge.inline
                        answer = judged(blocking(judge), case) if quick else _Task(_one_ask(step), ports).wait()
                    except JudgeError as error:
                        answer = error
                case Record(entry):
                    kept = ports.record(entry) if ports.record else None
                    if kept is not None:
                        kept.result()
                case Open(request):
                    _close(stream)
                    stream = _opened(ports.backend, request)
                case Close():
                    _close(stream)
                    stream = None
                case _:
                    raise TypeError(f"unknown step {step!r}")
    finally:
        flow.close()
        tasks.leave()
        _close(stream)


def _opened(backend: AnyBackend | None, request: Any) -> Iterator[Delta]:
    if backend is None:
        raise UsageError("this guard has no backend: give Guard(…, backend=…) to let it reply")
    if backends.blocks(backend):
        return iter(backend.stream(request))
    raise UsageError(f"backend {backend.name!r} can only be awaited: use areply or astream")


def _close(stream: Iterator[Any] | None) -> None:
    close = getattr(stream, "close", None)
    if close is not None:
        close()


class _Stream:
    """A backend's stream, awaited; a blocking one is stepped on worker threads."""

    def __init__(self, backend: AnyBackend | None, request: Any) -> None:
        self._await: AsyncIterator[Delta] | None = None
        self._block: Iterator[Delta] | None = None
        if backend is not None and hasattr(backend, "astream"):
            self._await = backend.astream(request)
        else:
            self._block = _opened(backend, request)
        self._next: asyncio.Future[Delta | None] | None = None

    @property
    def direct(self) -> AsyncIterator[Delta] | None:
        """What can be awaited as it is: nothing else waits, and no piece is under way."""
        return self._await if self._next is None else None

    @property
    def threaded(self) -> bool:
        return self._block is not None

    def next(self) -> asyncio.Future[Delta | None]:
        """The piece under way; asking again before it came gives the same one."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._pull())
        return self._next

    def taken(self) -> None:
        self._next = None

    async def _pull(self) -> Delta | None:
        if self._await is not None:
            return await anext(self._await, None)
        assert self._block is not None
        return await asyncio.to_thread(next, self._block, None)

    async def close(self) -> None:
        pending, self._next = self._next, None
        if pending is not None:
            if self._await is not None:
                pending.cancel()
            # A thread that is inside the backend cannot be interrupted: let it come out before closing.
            await asyncio.wait([pending])
            if not pending.cancelled():
                pending.exception()  # seen, or asyncio would complain of it later
        if self._await is not None and hasattr(self._await, "aclose"):
            await self._await.aclose()
        elif self._block is not None:
            await asyncio.to_thread(_close, self._block)


class _ATask(Generic[T]):
    """A begun flow: done at once when its judges are quick, else an asyncio task."""

    __slots__ = ("_result", "future")

    def __init__(self, flow: Flow[T], ports: Ports, turns: asyncio.Semaphore) -> None:
        step = inline(flow, ports, partial(flow.send, None))
        self._result: T = step.result if isinstance(step, Ended) else _UNSET
        self.future = None if isinstance(step, Ended) else asyncio.ensure_future(self._run(turns, flow, ports, step))

    @staticmethod
    async def _run(turns: asyncio.Semaphore, flow: Flow[T], ports: Ports, first: Ask | Keeping) -> T:
        async with turns:
            return await settle(flow, ports, first)

    @property
    def ready(self) -> bool:
        return self.future is None or self.future.done()

    async def wait(self) -> T:
        return self._result if self.future is None else await self.future


async def adrive(  # noqa: C901, PLR0912, PLR0915  # one arm a step
    flow: Flow[T], ports: Ports, outcome: Outcome[T]
) -> AsyncIterator[Any]:
    """As `drive`, awaiting. Judges run as tasks while the next piece is on its way."""
    stream: _Stream | None = None
    begun: set[_ATask[Any]] = set()
    turns = asyncio.Semaphore(AT_ONCE)
    answer: Any = None
    try:
        while True:
            try:
                step = flow.throw(answer) if isinstance(answer, JudgeError) else flow.send(answer)
            except StopIteration as end:
                outcome.value = end.value
                return
            answer = None
            match step:
                case Pull(ticket):
                    answer = await _pull(stream, cast("_ATask[Any] | None", ticket)) if stream else None
                case Emit(piece):
                    yield piece
                case Begin(inner):
                    answer = _ATask(inner, ports, turns)
                    begun.add(answer)
                case Settle(ticket):
                    begun.discard(cast("_ATask[Any]", ticket))
                    answer = await cast("_ATask[Any]", ticket).wait()
                case Ask(judge, case):
                    try:
                        answer = await ask(judge, case, ports)
                    except JudgeError as error:
                        answer = error
                case Record(entry):
                    kept = ports.record(entry) if ports.record else None
                    if kept is not None:
                        await asyncio.wrap_future(kept)
                case Open(request):
                    if stream:
                        await stream.close()
                    stream = _Stream(ports.backend, request)
                case Close():
                    if stream:
                        await stream.close()
                    stream = None
                case _:
                    raise TypeError(f"unknown step {step!r}")
    finally:
        flow.close()
        try:
            if begun:
                await _stop([task.future for task in begun if task.future])
        finally:
            if stream:
                await stream.close()


async def _stop(tasks: list[asyncio.Future[Any]]) -> None:
    """Cancel, and wait until all have ended: nothing of a conversation outlives it."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _pull(stream: _Stream, ticket: _ATask[Any] | None) -> Any:
    if ticket is None and stream.direct is not None:
        return await anext(stream.direct, None)
    following = stream.next()
    beside = ticket.future if ticket is not None else None
    # Awaiting a piece cancels it with the consumer; a thread inside the backend cannot be cancelled, so not there.
    if not following.done() and (beside or stream.threaded):
        await asyncio.wait([following, beside] if beside else [following], return_when=asyncio.FIRST_COMPLETED)
        if not following.done():
            return READY
    delta = await following
    stream.taken()
    return delta
