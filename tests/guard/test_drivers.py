"""The drivers: whatever ends a stream, the flow and the backend are closed and nothing runs on."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial

import pytest
from tests.guard.build import PATIENCE, AwaitedJudge, Gate, OwnJudge, answered, clean, finder, guard, risks_config

from cosa_guard import Guard
from cosa_guard.drivers import Outcome, Ports, adrive, drive
from cosa_guard.messages import Delta, Request
from cosa_guard.pool import Pool
from cosa_guard.steps import READY, Begin, Close, Emit, Open, Pull, Settle
from cosa_guard.testing import AsyncFakeBackend, Capabilities, FakeBackend, ScriptedJudge, both
from cosa_sdk.errors import BackendError, JudgeError, UsageError

STORY = ["This is a sentence of the story. "] * 20
CONFIG = risks_config()


class Broken(FakeBackend):
    """Says a little, then fails."""

    def stream(self, request):
        self.requests.append(request)
        try:
            yield Delta(STORY[0])
            yield Delta(STORY[0])
            raise BackendError("the model fell over")
        finally:
            self.closed += 1


class Kept:
    """Notes how its streams ended."""

    name, capabilities = "kept", Capabilities()

    def __init__(self):
        self.ended = []

    def stream(self, request):
        try:
            for piece in STORY:
                yield Delta(piece)
        except GeneratorExit:
            self.ended.append("closed")
            raise
        self.ended.append("done")


def blocking(function=clean):
    """A judge that takes a pool thread."""
    return OwnJudge(function, inline=False)


def left_tasks():
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


# --- ends ---


@pytest.mark.parametrize("read", [0, 1, 3])
@pytest.mark.parametrize("judge", [finder()(), blocking()], ids=["inline", "pool"])
def test_closing_early_closes_the_backend(read, judge):
    one = guard(CONFIG, STORY, judge=judge)
    with one.stream("Hi.") as stream:
        for _ in range(read):
            next(stream)
    pulled = one.backend.pulled

    assert list(stream) == []
    assert (bool(read), pulled) == (one.backend.closed == 1, one.backend.pulled)
    assert pulled < len(STORY)
    assert len("".join(STORY)) > stream.report.released


@pytest.mark.parametrize("read", [0, 1, 3])
@pytest.mark.parametrize("judge", [finder()(), blocking(), AwaitedJudge(lambda case: asyncio.sleep(0, clean(case)))], ids=["inline", "pool", "awaited"])
@pytest.mark.parametrize("backend", [FakeBackend, AsyncFakeBackend])
def test_closing_early_awaited(read, judge, backend):
    async def run():
        one = Guard(CONFIG, judge=judge, backend=backend(STORY))
        async with one.astream("Hi.") as stream:
            for _ in range(read):
                await anext(stream)
        return getattr(one.backend, "inner", one.backend), left_tasks(), [piece async for piece in stream]

    inner, tasks, rest = asyncio.run(run())

    assert ([], []) == (tasks, rest)
    assert bool(read) == (inner.closed == 1)
    assert inner.pulled < len(STORY)


@pytest.mark.parametrize("awaited", [False, True])
def test_an_error_in_the_consumer_closes_the_backend(awaited):
    one = guard(CONFIG, STORY, judge=blocking())

    def consume():
        with one.stream("Hi.") as stream:
            for _ in stream:
                raise ZeroDivisionError

    async def aconsume():
        try:
            async with one.astream("Hi.") as stream:
                async for _ in stream:
                    raise ZeroDivisionError
        finally:
            assert [] == left_tasks()

    with pytest.raises(ZeroDivisionError):
        asyncio.run(aconsume()) if awaited else consume()
    assert 1 == one.backend.closed


@pytest.mark.parametrize("judge", [finder()(), blocking()], ids=["inline", "pool"])
def test_an_error_of_the_backend_is_the_callers(judge):
    one = Guard(CONFIG, judge=judge, backend=Broken())

    async def arun():
        with pytest.raises(BackendError, match="fell over"):
            await one.areply("Hi.")
        assert [] == left_tasks()

    with pytest.raises(BackendError, match="fell over"):
        one.reply("Hi.")
    asyncio.run(arun())
    assert 2 == one.backend.closed


def test_an_error_before_the_first_piece():
    class Unwilling(FakeBackend):
        def stream(self, request):
            raise BackendError("no model")

    one = Guard(CONFIG, judge=finder()(), backend=Unwilling())

    with pytest.raises(BackendError, match="no model"):
        one.reply("Hi.")
    with pytest.raises(BackendError, match="no model"):
        asyncio.run(one.areply("Hi."))


def test_a_blocked_stream_stops_the_model():
    backend = Kept()
    one = Guard(CONFIG, judge=finder(drugs=["sentence"])(), backend=backend)

    assert one.reply("Hi.").report.blocked
    assert asyncio.run(one.areply("Hi.")).report.blocked
    assert ["closed", "closed"] == backend.ended


def test_a_guard_without_a_backend_can_only_check():
    one = Guard(CONFIG, judge=finder()())

    assert "compliant" == one.check("Hi.").outcome
    with pytest.raises(UsageError, match="no backend"):
        one.reply("Hi.")
    with pytest.raises(UsageError, match="no backend"):
        asyncio.run(one.areply("Hi."))


# --- cancellation ---


@pytest.mark.parametrize("judge", ["inline", "pool", "awaited"])
def test_cancelling_while_the_next_piece_is_awaited(judge):
    state = {}

    class Slow:
        name, capabilities = "slow", Capabilities()

        async def astream(self, request):
            try:
                yield Delta(STORY[0])
                state["waiting"].set()
                await asyncio.Event().wait()
            finally:
                state["closed"] = True

    async def run():
        state["waiting"] = asyncio.Event()
        made = {"inline": finder()(), "pool": blocking(), "awaited": AwaitedJudge(lambda case: asyncio.sleep(0, clean(case)))}
        one = Guard(CONFIG, judge=made[judge], backend=Slow())
        task = asyncio.ensure_future(one.areply("Hi."))
        await asyncio.wait_for(state["waiting"].wait(), PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return left_tasks()

    assert [] == asyncio.run(run())
    assert state["closed"]


def test_cancelling_while_a_blocking_backend_works():
    entered, leave, events = threading.Event(), threading.Event(), []

    class Working:
        name, capabilities = "working", Capabilities()

        def stream(self, request):
            try:
                yield Delta(STORY[0])
                entered.set()
                assert leave.wait(PATIENCE)
                events.append("left")
                yield Delta(STORY[0])
            finally:
                events.append("closed")

    async def run():
        one = Guard(CONFIG, judge=finder()(), backend=Working())
        task = asyncio.ensure_future(one.areply("Hi."))
        assert await asyncio.to_thread(entered.wait, PATIENCE)
        task.cancel()
        await asyncio.sleep(0)
        # The thread is inside the backend: closing must wait until it is out.
        assert not task.done()
        leave.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return left_tasks()

    assert [] == asyncio.run(run())
    assert ["left", "closed"] == events


def test_cancelling_while_a_judge_is_awaited():
    state = {}

    async def judge(case):
        state["entered"].set()
        try:
            await asyncio.Event().wait()
        finally:
            state["left"] = True

    async def run():
        state["entered"] = asyncio.Event()
        backend = AsyncFakeBackend(STORY)
        one = Guard(risks_config(input="off"), judge=AwaitedJudge(judge), backend=backend)
        task = asyncio.ensure_future(one.areply("Hi."))
        await asyncio.wait_for(state["entered"].wait(), PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return left_tasks()

    assert [] == asyncio.run(run())
    assert state["left"]


def test_closing_ends_judges_that_were_begun():
    state = {"entered": 0, "left": 0}

    async def judge(case):
        if case.stage == "output" and case.start + len(case.text) > 100:
            state["entered"] += 1
            state["begun"].set()
            try:
                await asyncio.Event().wait()
            finally:
                state["left"] += 1
        return clean(case)

    async def run():
        state["begun"] = asyncio.Event()
        one = Guard(CONFIG, judge=AwaitedJudge(judge), backend=AsyncFakeBackend(STORY))
        async with one.astream("Hi.") as stream:
            for _ in range(3):
                await anext(stream)
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.wait_for(state["begun"].wait(), PATIENCE)
            waiting.cancel()
            await asyncio.wait([waiting])
        return left_tasks()

    assert [] == asyncio.run(run())
    assert 0 < state["entered"] == state["left"]


def test_no_thread_is_held_after_a_stream():
    pool = Pool()
    one = guard(CONFIG, STORY, judge=blocking(), pool=pool)
    one.reply("Hi.")
    with one.stream("Hi.") as stream:
        next(stream)
    asyncio.run(one.areply("Hi."))

    # A judge may be at work when the stream closes. It is left, and gives its thread back when it returns.
    until = time.monotonic() + PATIENCE
    while pool.held and time.monotonic() < until:
        time.sleep(0.005)
    assert ("done", 0) == (pool.submit(lambda: "done").result(PATIENCE), pool.held)


def test_idle_threads_end(monkeypatch):
    monkeypatch.setattr("cosa_guard.pool.IDLE", 0.01)
    pool = Pool()
    workers = {pool.submit(threading.current_thread).result(PATIENCE) for _ in range(3)}
    for worker in workers:
        worker.join(PATIENCE)

    assert not any(worker.is_alive() for worker in workers)
    assert "again" == pool.submit(lambda: "again").result(PATIENCE)


# --- the pool ---


def test_a_time_out_leaves_the_pool_usable():
    pool = Pool(size=2)
    one = Guard(CONFIG, judge=(gate := Gate()), backend=FakeBackend(), pool=pool, judge_timeout=0.01)
    with gate:
        assert one.reply("Hi.").report.blocked
        assert asyncio.run(one.areply("Hi.")).report.blocked
        assert 2 == pool.abandoned
        with pytest.raises(JudgeError, match="2 calls ran out of time"):
            pool.submit(lambda: None)

    # The judges have returned at last: their threads work again, and answers nobody waits for harm nothing.
    for _ in range(1000):
        try:
            jobs = [pool.submit(lambda: 1)]
            break
        except JudgeError:
            threading.Event().wait(0.01)
    assert [1] == [job.result(PATIENCE) for job in jobs]
    both_at_once = threading.Barrier(2)
    assert [True, True] == [job.result(PATIENCE) < 2 for job in [pool.submit(partial(both_at_once.wait, PATIENCE)) for _ in range(2)]]


def test_a_cancelled_call_frees_its_thread():
    pool = Pool(size=1)
    with Gate() as gate:
        job = pool.submit(lambda: gate.judge(None))
        assert gate.entered.wait(PATIENCE)
        assert not job.cancel()
    with pytest.raises(AttributeError):
        job.result(PATIENCE)  # the gate's judge was given no case

    assert 1 == pool.submit(lambda: 1).result(PATIENCE)


def test_errors_of_any_kind_come_back():
    pool = Pool()

    def stop():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        pool.submit(stop).result(PATIENCE)
    assert 1 == pool.submit(lambda: 1).result(PATIENCE)


# --- colours ---


def test_a_judge_that_can_only_be_awaited_says_so():
    async def judge(case):
        return clean(case)

    for inline in (False, True):
        one = Guard(CONFIG, judge=AwaitedJudge(judge, inline=inline), backend=FakeBackend("Hi."))
        with pytest.raises(UsageError, match="acheck, areply or astream"):
            one.check("Hi.")
        with pytest.raises(UsageError, match="acheck, areply or astream"):
            one.reply("Hi.")
        assert "Hi." == asyncio.run(one.areply("Hi.")).text
        assert "compliant" == asyncio.run(one.acheck("Hi.")).outcome


def test_a_backend_that_can_only_be_awaited_says_so():
    one = Guard(CONFIG, judge=finder()(), backend=AsyncFakeBackend("Hi."))

    with pytest.raises(UsageError, match="areply or astream"):
        one.reply("Hi.")
    with pytest.raises(UsageError, match="areply or astream"):
        one.stream("Hi.")
    assert "Hi." == asyncio.run(one.areply("Hi.")).text
    assert "compliant" == one.check("Hi.").outcome


@pytest.mark.parametrize("judge", [finder(), blocking])
def test_an_async_driver_with_a_blocking_backend(judge):
    main = threading.current_thread()
    threads = set()

    class Watching(FakeBackend):
        def stream(self, request):
            for delta in super().stream(request):
                threads.add(threading.current_thread())
                yield delta

    reply = asyncio.run(Guard(CONFIG, judge=judge(), backend=Watching(STORY)).areply("Hi."))

    assert "".join(STORY) == reply.text
    assert main not in threads


@pytest.mark.parametrize("judge", [finder(), blocking, lambda: [finder()(), blocking(), finder()()]], ids=["inline", "pool", "mixed"])
@pytest.mark.parametrize("stream", ["hold", "whole", "trail"])
def test_sync_and_async_are_the_same_wherever_judges_run(judge, stream):
    assert "".join(STORY) == answered(risks_config(stream=stream), STORY, judge=judge).text


def test_async_backends_give_the_same_as_blocking_ones():
    config = risks_config()
    blocking_one = both(lambda: Guard(config, judge=finder()(), backend=FakeBackend(STORY)), "Hi.")

    async def awaited():
        stream = Guard(config, judge=finder()(), backend=AsyncFakeBackend(STORY)).astream("Hi.")
        return tuple([piece async for piece in stream]), stream.report

    assert (blocking_one.pieces, blocking_one.report) == asyncio.run(awaited())


# --- overlap: judged while the next tokens are written ---


class Meeting:
    """The model writes on only once a judge is at work, and that judge ends only once the model wrote on."""

    name, capabilities = "meeting", Capabilities()

    def __init__(self):
        self.judging, self.written = threading.Event(), threading.Event()
        self.events = []

    def stream(self, request):
        yield Delta("The first sentence of the story. ")
        self.events.append("model waits")
        assert self.judging.wait(PATIENCE), "no judge began while the model wrote"
        yield Delta("And the ")
        self.events.append("model wrote on")
        self.written.set()
        yield Delta("second one of them.")

    def judge(self, case):
        if case.stage == "output" and case.text.startswith("The") and not self.written.is_set():
            self.judging.set()
            assert self.written.wait(PATIENCE), "the model stood still while a judge was at work"
            self.events.append("judge answered")
        return clean(case)


@pytest.mark.parametrize("awaited", [False, True])
def test_judges_work_while_the_model_writes_on(awaited):
    meeting = Meeting()
    one = Guard(CONFIG, judge=blocking(meeting.judge), backend=meeting)
    reply = asyncio.run(one.areply("Hi.")) if awaited else one.reply("Hi.")

    assert "The first sentence of the story. And the second one of them." == reply.text
    assert ["model waits", "model wrote on", "judge answered"] == meeting.events


def test_awaited_judges_work_while_the_model_writes_on():
    meeting = Meeting()

    async def judge(case):
        return await asyncio.to_thread(meeting.judge, case)

    reply = asyncio.run(Guard(CONFIG, judge=AwaitedJudge(judge), backend=meeting).areply("Hi."))

    assert not reply.report.blocked
    assert ["model waits", "model wrote on", "judge answered"] == meeting.events


@pytest.mark.parametrize("awaited", [False, True])
def test_the_model_does_not_run_away_from_its_judges(awaited):
    with Gate() as gate:
        allowed = threading.Event()

        def judge(case):
            return gate.judge(case) if case.stage == "output" and allowed.is_set() else clean(case)

        backend = FakeBackend(STORY * 50)
        one = Guard(CONFIG, judge=blocking(judge), backend=backend, judge_timeout=0.05)
        allowed.set()
        reply = asyncio.run(one.areply("Hi.")) if awaited else one.reply("Hi.")

    # The first unit never gets its verdict: two more may wait beside it, then the model stands still.
    assert reply.report.blocked
    assert backend.pulled <= 20


def test_a_time_out_stops_a_model_that_writes_on():
    class Endless(FakeBackend):
        def stream(self, request):
            yield Delta("This is a sentence of the story. ")
            assert gate.entered.wait(PATIENCE)
            for _ in range(2000):
                self.pulled += 1
                threading.Event().wait(0.005)
                yield Delta("")

    with Gate() as gate:
        one = Guard(risks_config(input="off"), judge=[blocking(lambda case: clean(case) if case.stage == "input" else gate.judge(case))], backend=Endless(), judge_timeout=0.05)
        reply = one.reply("Hi.")

    assert reply.report.blocked
    assert one.backend.pulled < 2000


# --- odd flows ---


def ports(backend=None):
    return Ports(backend=backend, pool=Pool(), timeout=PATIENCE)


def run(flow, backend=None):
    outcome = Outcome()
    return list(drive(flow, ports(backend), outcome)), outcome


async def arun(flow, backend=None):
    outcome = Outcome()
    return [delta async for delta in adrive(flow, ports(backend), outcome)], outcome


def inner(value):
    return value
    yield


def nothing_open():
    before = yield from Pull()
    yield from Close()
    ticket = yield from Begin(inner(7))
    ready = ticket.ready
    value = yield from Settle(ticket)
    yield from Emit(Delta("out"))
    return before, ready, value


def opened_twice():
    yield from Open(Request(messages=()))
    first = yield from Pull()
    yield from Open(Request(messages=()))
    second = yield from Pull()
    yield from Close()
    third = yield from Pull()
    assert READY not in (first, second, third)
    return first.text, second.text, third


@pytest.mark.parametrize(("flow", "deltas", "value"), [(nothing_open, ["out"], (None, True, 7)), (opened_twice, [], ("This is", "This is", None))])
def test_flows_of_any_kind(flow, deltas, value):
    backends = [FakeBackend(["This is", " it."]) for _ in range(2)]
    pieces, outcome = run(flow(), backends[0])
    apieces, aoutcome = asyncio.run(arun(flow(), backends[1]))

    assert deltas == [piece.text for piece in pieces] == [piece.text for piece in apieces]
    assert value == outcome.value == aoutcome.value
    assert backends[0].closed == backends[1].closed == len(backends[0].requests)


def test_an_unknown_step_is_an_error_and_closes_the_flow():
    closed = []

    def odd():
        try:
            yield "step"
        finally:
            closed.append(True)

    def begun():
        yield from Begin(odd())

    for flow in (odd, begun):
        with pytest.raises(TypeError, match="unknown step|may only ask and record"):
            run(flow())
        with pytest.raises(TypeError, match="unknown step|may only ask and record"):
            asyncio.run(arun(flow()))
    assert closed


def test_errors_reach_the_flow_as_one_except():
    judge = ScriptedJudge(error=ValueError("boom"))
    one = Guard(risks_config(on_error="allow"), judge=judge, backend=FakeBackend("Hi."))

    assert "ValueError: boom" in one.check("x").error
    assert "ValueError: boom" in asyncio.run(one.acheck("x")).error
