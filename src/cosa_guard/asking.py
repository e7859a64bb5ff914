"""Having judges answer: whatever a judge does, it comes back as a verdict or a `JudgeError`, in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from cosa_guard.backends.base import AnyBackend
from cosa_guard.judges import base as judges
from cosa_guard.judges.base import AnyJudge, Judge
from cosa_guard.pool import Pool
from cosa_guard.steps import Ask, Flow, Record, Step
from cosa_guard.verdicts import Case, Entry, Verdict
from cosa_sdk.decide import Evidence
from cosa_sdk.errors import JudgeError, UsageError, nearest

__all__ = ["Ended", "Keeping", "Ports", "ask", "blocking", "inline", "judged", "late", "patience", "settle"]

T = TypeVar("T")
GRACE = 1.0
"""Seconds that an awaited judge has to end when it is cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What a driver works with."""

    backend: AnyBackend | None
    pool: Pool
    timeout: float
    """Seconds that one judge may take for one case, unless it has a `timeout` of its own."""
    record: Callable[[Entry], Future[None] | None] | None = None
    """Puts a ruling on record. It is safe there on return or, where a future comes back, when that is done."""


def judged(judge: Judge, case: Case) -> Verdict:
    """A verdict, or `JudgeError` whatever the judge does."""
    try:
        return _checked(judge, judge.judge(case), case)
    except (JudgeError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit too: it would end the caller's event loop
        raise JudgeError(f"judge {judge.name!r} raised {type(error).__name__}: {error}") from error


def _checked(judge: AnyJudge, verdict: Any, case: Case) -> Verdict:
    if not isinstance(verdict, Verdict):
        raise JudgeError(f"judge {judge.name!r} answered {type(verdict).__name__}, not a Verdict")
    if not isinstance(verdict.evidence, Evidence):
        raise JudgeError(f"judge {judge.name!r} gave {type(verdict.evidence).__name__} as evidence, not an Evidence")
    evidence, known = verdict.evidence, case.config.elements
    if not (evidence.found <= known and evidence.examined <= known):
        # Ignored, a misspelt id would turn its rule off without a word.
        name = min((evidence.found | evidence.examined) - known)
        meant = nearest(name, known)
        hint = f"; did you mean {meant!r}?" if meant else f"; the config has {', '.join(sorted(known))}"
        raise JudgeError(f"judge {judge.name!r} reported the unknown id {name!r}{hint}")
    return verdict


def patience(judge: AnyJudge, ports: Ports) -> float:
    """Seconds that this judge may take for one case."""
    own = getattr(judge, "timeout", None)
    return ports.timeout if own is None else float(own)


def late(judge: AnyJudge, ports: Ports) -> JudgeError:
    """The error of a judge whose time is up."""
    return JudgeError(f"judge {judge.name!r} gave no verdict within {patience(judge, ports):g} s")


@dataclass(frozen=True, slots=True)
class Ended(Generic[T]):
    """A begun flow has ended with this result."""

    result: T


@dataclass(frozen=True, slots=True)
class Keeping:
    """A begun flow waits for its entry to be safe on record."""

    kept: Future[None]


def inline(flow: Flow[T], ports: Ports, resume: Callable[[], Step[Any]]) -> Ask | Keeping | Ended[T]:
    """Run a begun flow up to its next step that takes time, or to its end."""
    while True:
        try:
            step = resume()
        except StopIteration as end:
            return Ended(end.value)
        match step:
            case Ask(judge, case):
                if not (judge.inline and judges.blocks(judge)):
                    return step
                try:
                    resume = partial(flow.send, judged(judge, case))
                except JudgeError as error:
                    resume = partial(flow.throw, error)
            case Record(entry):
                kept = ports.record(entry) if ports.record else None
                if kept is not None:
                    return Keeping(kept)
                resume = partial(flow.send, None)
            case _:
                raise TypeError(f"a begun flow may only ask and record, not {type(step).__name__}")


def blocking(judge: AnyJudge) -> Judge:
    """The judge, if it can be called without awaiting.

    Raises:
        UsageError: it cannot.
    """
    if not judges.blocks(judge):
        raise UsageError(f"judge {judge.name!r} can only be awaited: use acheck, areply or astream")
    return judge


async def ask(judge: AnyJudge, case: Case, ports: Ports) -> Verdict:
    """One verdict, awaited; a blocking judge that takes time runs on the pool.

    Raises:
        JudgeError: whatever the judge did instead of answering in time.
    """
    if hasattr(judge, "ajudge"):
        try:
            return _checked(judge, await _answer(judge.ajudge(case), judge, ports), case)
        except JudgeError:
            raise
        except Exception as error:
            raise JudgeError(f"judge {judge.name!r} raised {type(error).__name__}: {error}") from error
    if judge.inline:
        return judged(judge, case)
    call = ports.pool.submit(partial(judged, judge, case))
    try:
        return await asyncio.wait_for(asyncio.wrap_future(call), patience(judge, ports))
    except TimeoutError:
        raise late(judge, ports) from None
    finally:
        ports.pool.abandon(call)  # where it is not done: out of time, or cancelled with its caller


async def _answer(answering: Coroutine[Any, Any, T], judge: AnyJudge, ports: Ports) -> T:
    """What a judge answers in time. One that goes on although it was cancelled is left to itself."""
    task = asyncio.ensure_future(answering)
    try:
        await asyncio.wait([task], timeout=patience(judge, ports))
        if not task.done():
            raise late(judge, ports)
        if task.cancelled():
            raise JudgeError(f"judge {judge.name!r} cancelled itself")
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=GRACE)
        task.add_done_callback(_seen)


def _seen(task: asyncio.Future[Any]) -> None:
    """Look at how it ended, or asyncio would complain of an error that nobody saw."""
    if not task.cancelled():
        task.exception()


async def settle(flow: Flow[T], ports: Ports, first: Ask | Keeping) -> T:
    """Answer a begun flow's steps, from the given one on."""
    while True:
        if isinstance(first, Keeping):
            resume = partial(flow.send, await asyncio.wrap_future(first.kept))
        else:
            try:
                resume = partial(flow.send, await ask(first.judge, first.case, ports))
            except JudgeError as error:
                resume = partial(flow.throw, error)
        step = inline(flow, ports, resume)
        if isinstance(step, Ended):
            return step.result
        first = step
