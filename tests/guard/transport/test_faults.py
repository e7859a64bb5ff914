"""What goes wrong on either side of a guarded client: what its user sees; nothing leaks, nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
from tests.guard.backends.upstream import Upstream, gives, refused_url, refuses, sends
from tests.guard.build import PATIENCE, AwaitedJudge, Gate, OwnJudge, clean, terms_config
from tests.guard.transport.clients import (
    CHAT,
    PROTOCOLS,
    REFUSAL,
    RESPONSES,
    WORD,
    answering,
    both,
    entered,
    every_protocol,
    first,
    guarded,
    made,
    major,
    needs,
    others,
    settled,
)

from cosa_guard import Verdict, asking
from cosa_guard.drivers import AT_ONCE
from cosa_guard.pool import Pool
from cosa_guard.transport import GuardTransport, families
from cosa_sdk.decide import Evidence

pytestmark = pytest.mark.slow  # hundreds of exchanges; the proxy's faults are in the fast suite

LONG = "One two three four. Five six seven eight. Nine ten eleven twelve. "
BAD = f"{LONG}A {WORD} and more."
CLEAN = LONG * 20
whole_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


# --- what a client saw ---


@dataclass
class Seen:
    """All that reached the user of a client."""

    text: str
    error: Exception | None
    items: list
    """What a stream gave, or the one whole reply."""

    @property
    def named(self):
        """The error's class and, where it has one, its status."""
        status = getattr(self.error, "status_code", None)
        return type(self.error).__name__ + (f" {status}" if status else "")

    @property
    def code(self):
        """The guard's own code for what went wrong: in the error that was raised, or in a stream's last event."""
        if self.error is None:
            return getattr(self.items[-1], "code", None)
        body = getattr(self.error, "body", None) or {}
        return body.get("error", body).get("code")

    @property
    def leaked(self):
        return WORD in f"{self.items!r} {self.error!r} {self.error} {getattr(self.error, 'body', '')!r}"


def text_in(protocol, items):
    if protocol is CHAT:
        return CHAT.gathered(items).text
    if protocol is RESPONSES:
        return "".join(item.delta for item in items if item.type == "response.output_text.delta")
    deltas = [item.delta for item in items if item.type == "content_block_delta"]
    return "".join(delta.text for delta in deltas if delta.type == "text_delta")


async def seen(protocol, client, stream, text="Hi.", **fields):
    """A call to its end, whatever that is."""
    items, said, error = [], None, None
    try:
        if stream:
            await read(await settled(protocol.call(client, text, stream=True, **fields)), items)
        else:
            said = await protocol.whole(client, text, **fields)
            items.append(said.raw)
    except Exception as problem:  # noqa: BLE001  # what it is, the test says
        error = problem
    return Seen(text_in(protocol, items) if stream else said.text if said else "", error, items)


async def read(stream, into):
    if hasattr(stream, "__aiter__"):
        async for item in stream:
            into.append(item)
    else:
        into.extend(iter(stream))


# --- fronts: a wrapped client, and a client of one's own over a GuardTransport ---


def transported(protocol, awaited, url, **options):
    family = families.family_of(protocol.client(awaited, url)._client)
    inner = family.AsyncHTTPTransport() if awaited else family.HTTPTransport()
    http = (family.AsyncClient if awaited else family.Client)(transport=GuardTransport(made(), inner))
    return protocol.client(awaited, url, http_client=http, **options)


def wrapped(protocol, awaited, url, **options):
    return made().wrap(protocol.client(awaited, url, **options))


FRONTS = [
    *(pytest.param(*param.values, wrapped, id=f"{param.id}-wrap", marks=param.marks) for param in PROTOCOLS),
    *(pytest.param(*param.values, transported, id=f"{param.id}-transport", marks=param.marks) for param in PROTOCOLS[:1]),
]
every_front = pytest.mark.parametrize(("protocol", "front"), FRONTS)


@asynccontextmanager
async def fronted(protocol, front, awaited, *answers, **options):
    """A client and its upstream, which has no connection left in the end."""
    with Upstream(*answers) as upstream:
        client = front(protocol, awaited, upstream.url, **options)
        try:
            yield client, upstream
        finally:
            await settled(client.close())
        assert upstream.wait_for_open(0)


def either(whole, streamed):
    """Answers as it is asked to."""

    async def answer(exchange):
        await (streamed if exchange.seen.body.get("stream") else whole)(exchange)

    return answer


def cut(protocol, then, *, most=1):
    """An answer that breaks in its text, after the forbidden word: that was received, and is judged by nobody yet."""
    data, events = json.dumps(protocol.body(BAD)), protocol.events(BAD)
    place = next(at for at, event in enumerate(events) if WORD in event) + most
    return either(sends(data[: data.index(WORD) + 20], then=then, content_type="application/json"), sends(*events[:place], then=then))


# --- the connection ---


async def reset(exchange):
    exchange.reset()


async def hang_up(exchange):
    exchange.drop()


async def no_http(exchange):
    await exchange.raw(f"{WORD} 200\r\n\r\n".encode())
    exchange.drop()


async def silent(exchange):
    await exchange.hang()


CONNECTION = {
    "reset before its answer": (lambda protocol: reset, ""),
    "closed before its answer": (lambda protocol: hang_up, ""),
    "no HTTP": (lambda protocol: no_http, ""),
    "hangs before its answer": (lambda protocol: silent, ""),
    "reset in its answer": (lambda protocol: cut(protocol, "reset"), LONG),
    "closed in its answer": (lambda protocol: cut(protocol, "drop"), LONG),
    "hangs in its answer": (lambda protocol: cut(protocol, "hang"), LONG),
}


@every_front
@both
@whole_and_streamed
@pytest.mark.parametrize("fault", CONNECTION)
async def test_a_broken_connection_is_the_same_error_as_without_the_guard(protocol, front, awaited, stream, fault):
    """And of a stream that was under way only what was judged came through."""
    make, judged = CONNECTION[fault]
    script = make(protocol)
    bare = lambda *args, **options: protocol.client(*args[1:], **options)
    async with fronted(protocol, bare, awaited, script, timeout=0.25) as (client, _):
        expected = await seen(protocol, client, stream)
    async with fronted(protocol, front, awaited, script, timeout=0.25) as (client, upstream):
        actual = await seen(protocol, client, stream)
        assert upstream.wait_for_open(0)  # with the client still open

    assert expected.error is not None
    assert (type(expected.error), expected.named, 1) == (type(actual.error), actual.named, len(upstream.requests))
    assert (stream and bool(judged), False) == (expected.leaked, actual.leaked)
    assert (judged if stream else "").startswith(actual.text)
    assert bool(stream and judged) == bool(actual.text)


@every_front
@both
@whole_and_streamed
async def test_nobody_listens_at_the_upstream(protocol, front, awaited, stream):
    client = front(protocol, awaited, refused_url())
    actual = await seen(protocol, client, stream)
    await settled(client.close())

    assert "APIConnectionError" == actual.named


@every_protocol
@both
@whole_and_streamed
async def test_an_sdk_tries_again_what_broke_before_it_gave_anything(protocol, awaited, stream):
    broken = [reset if stream else cut(protocol, "reset"), refuses(500, "later", retry_after_ms="1", retry_after="0.001")]
    async with guarded(protocol, awaited, *broken, answering(protocol, LONG), max_retries=2) as (client, upstream):
        actual = await seen(protocol, client, stream)

    assert (LONG, None, 3) == (actual.text, actual.error, len(upstream.requests))
    assert 1 == len({json.dumps(request.body) for request in upstream.requests})


@every_protocol
@both
async def test_an_sdk_does_not_try_a_stream_again_that_was_under_way(protocol, awaited):
    async with guarded(protocol, awaited, cut(protocol, "reset"), answering(protocol, LONG), max_retries=3) as (client, upstream):
        actual = await seen(protocol, client, stream=True)

    assert (1, False) == (len(upstream.requests), actual.error is None)


# --- the answer ---


def as_whole(data, **options):
    return lambda protocol: sends(data, **{"content_type": "application/json", **options})


UNREADABLE = {
    "no JSON": as_whole(f'{{"id": {WORD}'),
    "half a body": lambda protocol: cut(protocol, "end"),
    "not of the protocol": lambda protocol: gives({"nonsense": WORD}),
    "one name twice": as_whole(f'{{"{WORD}": 1, "{WORD}": 2}}'),
    "no UTF-8": as_whole(b'{"id": "\xff%s"}' % WORD.encode()),
    "nested too deeply": as_whole(f'{{"{WORD}": ' + "[" * 100_000),
    "HTML": as_whole(f"<html>{WORD}</html>", content_type="text/html"),
    "HTML called JSON": as_whole(f"<html>{WORD}</html>"),
    "no content type": as_whole(f"<html>{WORD}</html>", content_type=None),
    "an unheard-of content type": as_whole("{}", content_type=f"application/{WORD}"),
    "nothing": as_whole("", status=204, content_type=None),
    "a redirect": as_whole("", status=307, content_type=None, location=f"http://127.0.0.1:9/{WORD}"),
}


@every_front
@both
@pytest.mark.parametrize("fault", UNREADABLE)
async def test_an_answer_that_cannot_be_read_is_an_error_that_no_sdk_tries_again(protocol, front, awaited, fault):
    async with fronted(protocol, front, awaited, UNREADABLE[fault](protocol), max_retries=2) as (client, upstream):
        actual = await seen(protocol, client, stream=False)

    assert ("APIStatusError 424", "guard_failure", 1, False) == (actual.named, actual.code, len(upstream.requests), actual.leaked)


@every_protocol
@both
@pytest.mark.parametrize("fault", [name for name in UNREADABLE if name != "half a body"])
async def test_so_it_is_where_a_stream_was_asked_for(protocol, awaited, fault):
    async with guarded(protocol, awaited, UNREADABLE[fault](protocol), max_retries=2) as (client, upstream):
        actual = await seen(protocol, client, stream=True)

    assert ("APIStatusError 424", "guard_failure", 1, False) == (actual.named, actual.code, len(upstream.requests), actual.leaked)


def half_an_event(protocol):
    events = protocol.events(BAD)
    place = next(at for at, event in enumerate(events) if WORD in event)
    return sends(*events[:place], events[place][:-6])


def odd_event(data):
    def make(protocol):
        place = next(at for at, event in enumerate(protocol.events(BAD)) if WORD in event)
        return sends(*protocol.events(BAD)[:place], data)

    return make


async def endless_event(exchange):
    await exchange.head()
    with suppress(ConnectionError):
        while True:
            await exchange.send(b"data: " + WORD.encode() * 100_000)


BROKEN = {
    "half an event": (half_an_event, "upstream_truncated"),
    "an end in the middle": (lambda protocol: cut(protocol, "end", most=0), "upstream_truncated"),
    "no JSON": (odd_event(f"data: {{{WORD}\n\n"), "guard_failure"),
    "a JSON list": (odd_event(f'data: ["{WORD}"]\n\n'), "guard_failure"),
    "one name twice": (odd_event(f'data: {{"{WORD}": 1, "{WORD}": 2}}\n\n'), "guard_failure"),
    "no UTF-8": (odd_event(b"data: \xff" + WORD.encode() + b"\n\n"), "guard_failure"),
    "an odd name": (odd_event(f"event: a {WORD}\ndata: {{}}\n\n"), "guard_failure"),
    "an event without an end": (lambda protocol: endless_event, "guard_failure"),
}


@every_front
@both
@pytest.mark.parametrize("fault", BROKEN)
async def test_a_stream_that_breaks_ends_in_the_protocol_s_own_error(protocol, front, awaited, fault):
    """In chat completions and messages the SDK raises it; in responses it is an event of its own."""
    make, code = BROKEN[fault]
    async with fronted(protocol, front, awaited, make(protocol), max_retries=2) as (client, upstream):
        actual = await seen(protocol, client, stream=True)

    if fault == "an event without an end":  # nothing went out before
        assert ("APIStatusError 424", "guard_failure") == (actual.named, actual.code)
    else:
        assert {"chat": "APIError", "responses": "NoneType", "messages": "APIStatusError 200"}[protocol.name] == actual.named
        assert (code, True, True) == (actual.code, LONG.startswith(actual.text.removesuffix("A")), bool(actual.text))
    assert (1, False) == (len(upstream.requests), actual.leaked)


@every_protocol
@both
@whole_and_streamed
@pytest.mark.parametrize(
    ("status", "named"),
    [(429, "RateLimitError"), (500, "InternalServerError"), (503, "ServiceUnavailableError"), (529, "OverloadedError")],
)
async def test_errors_of_the_upstream_keep_their_status_and_their_retry_after(protocol, awaited, stream, status, named):
    """An error is an upstream's text too: the forbidden word in it does not pass."""
    answers = [refuses(status, message, retry_after="7") for message in ("busy", f"busy: {WORD}")]
    async with guarded(protocol, awaited, *answers) as (client, _):
        passed, stopped = [await seen(protocol, client, stream) for _ in answers]

    classes = {named, "InternalServerError"} if status > 500 else {named}  # some versions have one class for all of them
    assert passed.named == stopped.named
    assert passed.named in {f"{one} {status}" for one in classes}
    assert ["7"] * 2 == [one.error.response.headers["retry-after"] for one in (passed, stopped)]
    assert ("busy" in str(passed.error), stopped.leaked, stopped.code) == (True, False, "upstream_error")


@every_protocol
@both
async def test_an_answer_of_the_other_kind_is_judged_as_what_it_is(protocol, awaited):
    """A stream where a whole reply was asked for and the other way round: the SDK is as lost as without the guard."""
    async with guarded(protocol, awaited, sends(*protocol.events(BAD)), gives(protocol.body(BAD))) as (client, _):
        for stream in (False, True):
            assert not (await seen(protocol, client, stream)).leaked


# --- sizes and speeds ---


@needs("openai")
@both
async def test_a_reply_of_50_megabytes_is_judged_whole(awaited):
    text = "One two three four. " * 2_500_000
    ends = ["Fine.", f"A {WORD}."]
    answers = [sends(*pieces(json.dumps(CHAT.body(text + end))), content_type="application/json") for end in ends]
    async with guarded(CHAT, awaited, *answers) as (client, _):
        passed, stopped = [await seen(CHAT, client, stream=False) for _ in ends]

    assert (True, REFUSAL, False) == (passed.text == text + ends[0], stopped.text, stopped.leaked)


def pieces(data, size=1_000_000):
    return [data[low : low + size] for low in range(0, len(data), size)]


@every_protocol
@both
@whole_and_streamed
async def test_a_body_without_end_is_not_taken_in(protocol, awaited, stream):
    sent = 0

    async def endless(exchange):
        nonlocal sent
        await exchange.head(content_type="application/json")
        with suppress(ConnectionError):
            while sent < 200:
                await exchange.send(WORD.encode() * 125_000)
                sent += 1

    async with guarded(protocol, awaited, endless) as (client, upstream):
        actual = await seen(protocol, client, stream)
        assert upstream.wait_for_open(0)

    assert ("APIStatusError 424", "guard_failure", True) == (actual.named, actual.code, 64 <= sent < 200)


@needs("openai")
@both
async def test_a_reader_that_does_not_read_stops_the_upstream(awaited):
    """What is taken in is bounded by what is read: the upstream comes to wait, and goes on when it is read again."""
    events = CHAT.events(CLEAN)
    flood = "".join(events[4:-4]).encode() * 20  # text alone
    sent, stalled, total = 0, threading.Event(), 0

    async def script(exchange):
        nonlocal sent
        await exchange.head()
        await exchange.send("".join(events[:4]))
        with suppress(ConnectionError):
            while True:
                writing = asyncio.ensure_future(exchange.send(flood))
                if not (await asyncio.wait([writing], timeout=0.5))[0]:
                    stalled.set()
                await writing
                sent += 1

    async with guarded(CHAT, awaited, script) as (client, upstream):
        stream = await settled(CHAT.call(client, stream=True))
        await first(stream)
        assert await asyncio.to_thread(stalled.wait, PATIENCE)
        before = sent
        while sent <= before + 2:
            await first(stream)
            total += 1
        await settled(stream.close())
        assert upstream.wait_for_open(0)

    assert total > 100


class Busy:
    """A judge's function that notes how many of its calls run at the same time; as many as may have to meet."""

    def __init__(self, meet):
        self.most, self._now, self._lock = 0, 0, threading.Lock()
        self._met = threading.Barrier(meet)

    def __call__(self, case):
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        if case.stage == "output" and not self._met.broken:
            with suppress(threading.BrokenBarrierError):
                self._met.wait(PATIENCE)
                self._met.abort()
        with self._lock:
            self._now -= 1
        return clean(case)


@every_protocol
@both
async def test_an_answer_that_comes_in_one_piece_does_not_fill_the_pool(protocol, awaited):
    """Of its many units, and of many choices, so many are judged at a time; the others wait for their turn."""
    reports, busy = [], Busy(AT_ONCE)
    guard = made(judge=["rules", OwnJudge(busy, inline=False)], pool=Pool(AT_ONCE))
    answers = [sends("".join(protocol.events(CLEAN))), gives(protocol.body(*["Fine."] * (40 if protocol is CHAT else 1)))]
    async with guarded(protocol, awaited, *answers, guard=guard, wrapping={"on_report": reports.append}) as (client, _):
        streamed = await seen(protocol, client, stream=True)
        whole = await seen(protocol, client, stream=False, **({"n": 40} if protocol is CHAT else {}))

    assert (CLEAN, "Fine.", AT_ONCE) == (streamed.text, whole.text, busy.most)
    assert [None, None] == [report.error for report in reports]


# --- the user leaves ---


def writing_on(protocol, text=LONG):
    """Says a little, and then waits for the client to leave."""
    events = protocol.events(text)
    return sends(*events[:-2], then="hang")


async def closes(stream):
    await settled(stream.close())


async def leaves_the_block(stream):
    async with entered(stream):
        await first(stream)


async def raises_in_the_block(stream):
    with suppress(ZeroDivisionError):
        async with entered(stream):
            raise ZeroDivisionError


async def breaks_off(stream):
    if hasattr(stream, "__aiter__"):
        async for _ in stream:
            break
    else:
        for _ in stream:
            break


@every_front
@both
@pytest.mark.parametrize("leave", [closes, leaves_the_block, raises_in_the_block, breaks_off])
@pytest.mark.parametrize("read", [0, 5])
async def test_who_stops_reading_ends_the_work_upstream(protocol, front, awaited, leave, read):
    if leave is breaks_off and awaited and (protocol.sdk == "openai" or major("anthropic") < 2):
        pytest.skip("without the guard too this SDK keeps the connection of a stream that was neither closed nor read to its end")
    async with fronted(protocol, front, awaited, writing_on(protocol)) as (client, upstream):
        stream = await settled(protocol.call(client, stream=True))
        for _ in range(read):
            await first(stream)
        await leave(stream)
        del stream
        if leave is breaks_off:
            gc.collect()  # openai's streams hold themselves
        await others()
        assert await asyncio.to_thread(upstream.left.wait, PATIENCE)
        assert upstream.wait_for_open(0)


@every_front
@pytest.mark.parametrize("when", ["before the answer", "in a whole answer", "in a stream"])
def test_a_cancelled_call_ends_the_work_upstream(protocol, front, when):
    script = {"before the answer": silent, "in a whole answer": cut(protocol, "hang"), "in a stream": writing_on(protocol)}[when]

    async def run():
        async with fronted(protocol, front, True, script) as (client, upstream):
            task = asyncio.ensure_future(seen(protocol, client, when == "in a stream"))
            assert await asyncio.to_thread(upstream.hanging.wait, PATIENCE)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert set() == await others()
            assert upstream.wait_for_open(0)

    asyncio.run(run())


# --- judges ---


def raises(error):
    def judge(case):
        raise error

    return judge


def fine(case):
    return clean(case)


class Odd(Exception):
    """With text of its own, which is for the report."""


NONSENSE = {
    "raises": raises(Odd(WORD)),
    "cancels itself": raises(asyncio.CancelledError()),
    "ends the thread": raises(SystemExit(WORD)),
    "text": lambda case: "safe",
    "no evidence": lambda case: Verdict(judge="x", evidence={"safe": True}),
    "an unknown id": lambda case: Verdict(judge="x", evidence=Evidence(examined=frozenset({WORD}))),
}


def at(stage, function):
    """A judge's function that goes wrong at one stage only."""
    return lambda case: function(case) if case.stage == stage else clean(case)


def awaiting(function):
    async def judge(case):
        return function(case)

    return AwaitedJudge(judge)


@every_protocol
@both
@whole_and_streamed
@pytest.mark.parametrize("stage", ["input", "output"])
@pytest.mark.parametrize("fault", NONSENSE)
async def test_a_judge_that_fails_blocks(protocol, awaited, stream, stage, fault):
    """The user sees a refusal; what failed is in the report."""
    function, reports = at(stage, NONSENSE[fault]), []
    judges = [OwnJudge(function), OwnJudge(function, inline=False)]
    if awaited and fault != "ends the thread":  # in a coroutine that ends the event loop
        judges.append(awaiting(function))
    for judge in judges:
        guard = made(judge=["rules", judge])
        async with guarded(protocol, awaited, answering(protocol, LONG), guard=guard, wrapping={"on_report": reports.append}) as (client, upstream):
            actual = await seen(protocol, client, stream)
        assert (REFUSAL, None, False) == (actual.text, actual.error, actual.leaked)
        assert ({"input": 0, "output": 1}[stage], "refuse", True) == (len(upstream.requests), reports[-1].act, bool(reports[-1].error))


@every_protocol
@both
@pytest.mark.parametrize("inline", [False, True])
async def test_text_that_passed_before_a_judge_failed_stays(protocol, awaited, inline):
    judge = OwnJudge(lambda case: NONSENSE["raises"](case) if "Nine" in case.text else clean(case), inline=inline)
    async with guarded(protocol, awaited, sends(*protocol.events(LONG)), guard=made(judge=["rules", judge])) as (client, _):
        actual = await seen(protocol, client, stream=True)

    assert (True, True, None, False) == (actual.text.startswith("One two three four."), actual.text.endswith(REFUSAL), actual.error, actual.leaked)


@every_protocol
@both
async def test_an_error_of_the_upstream_that_no_judge_could_read_keeps_its_words(protocol, awaited):
    guard = made(judge=["rules", OwnJudge(at("output", raises(Odd("boom"))))])
    async with guarded(protocol, awaited, refuses(429, "so busy", retry_after="7"), guard=guard) as (client, _):
        actual = await seen(protocol, client, stream=False)

    assert ("RateLimitError 429", "upstream_error", False) == (actual.named, actual.code, "so busy" in str(actual.error))
    assert "7" == actual.error.response.headers["retry-after"]


@every_protocol
@both
@whole_and_streamed
async def test_a_config_may_let_a_failing_judge_pass(protocol, awaited, stream):
    reports = []
    judges = ["rules", OwnJudge(raises(Odd("boom")), inline=False)]
    guard = made(terms_config(WORD, on_error="allow"), judge=judges)
    async with guarded(protocol, awaited, answering(protocol, LONG), answering(protocol, BAD), guard=guard, wrapping={"on_report": reports.append}) as (client, _):
        passed, stopped = [await seen(protocol, client, stream) for _ in range(2)]

    assert (LONG, True, False) == (passed.text, stopped.text.endswith(REFUSAL), stopped.leaked)
    assert all("boom" in report.error for report in reports)


def judge_threads():
    return {thread for thread in threading.enumerate() if thread.name == "cosa-judge"}


@every_protocol
@both
@whole_and_streamed
@pytest.mark.parametrize("stage", ["input", "output"])
async def test_a_hung_judge_blocks_and_its_thread_is_counted(protocol, awaited, stream, stage):
    pool, before = Pool(), judge_threads()
    with Gate() as gate:
        guard = made(judge=["rules", OwnJudge(at(stage, gate.judge), inline=False)], judge_timeout=0.05, pool=pool)
        async with guarded(protocol, awaited, answering(protocol, LONG), guard=guard) as (client, upstream):
            actual = [await seen(protocol, client, stream) for _ in range(2)]
        held = len(judge_threads() - before)
        # A stream has more than one unit under judgement.
        assert (True, pool.abandoned, pool.held) == (held >= 2, held, held)

    assert [(REFUSAL, None)] * 2 == [(one.text, one.error) for one in actual]
    assert {"input": 0, "output": 2}[stage] == len(upstream.requests)
    while pool.held:  # the judges come back, and with them their threads
        await asyncio.sleep(0.001)
    assert held == pool.abandoned


@every_protocol
@both
@whole_and_streamed
async def test_a_pool_full_of_hung_judges_blocks_at_once(protocol, awaited, stream):
    pool = Pool(size=1)
    with Gate() as gate:
        guard = made(judge=["rules", gate], judge_timeout=0.05, pool=pool)
        async with guarded(protocol, awaited, answering(protocol, LONG), guard=guard) as (client, upstream):
            late, full = [await seen(protocol, client, stream) for _ in range(2)]

    assert ([REFUSAL] * 2, [], 1) == ([late.text, full.text], upstream.requests, pool.abandoned)


@every_protocol
@whole_and_streamed
@pytest.mark.parametrize("stage", ["input", "output"])
def test_a_hung_awaited_judge_blocks_and_is_ended(protocol, stream, stage):
    left = []

    async def hang(case):
        if case.stage != stage:
            return clean(case)
        try:
            await asyncio.Event().wait()
        finally:
            left.append(case.stage)

    async def run():
        guard = made(judge=["rules", AwaitedJudge(hang)], judge_timeout=0.05)
        async with guarded(protocol, True, answering(protocol, LONG), guard=guard) as (client, _):
            actual = await seen(protocol, client, stream)
        assert set() == await others()
        return actual

    assert (REFUSAL, True) == (asyncio.run(run()).text, {stage} == {*left})


@needs("openai")
def test_a_judge_that_goes_on_although_it_was_cancelled_blocks_all_the_same(monkeypatch):
    monkeypatch.setattr(asking, "GRACE", 0.01)

    async def run():
        released = asyncio.Event()

        async def stubborn(case):
            while not released.is_set():
                with suppress(asyncio.CancelledError):
                    await released.wait()
            raise Odd("too late")

        guard = made(judge=["rules", AwaitedJudge(stubborn)], judge_timeout=0.05)
        async with guarded(CHAT, True, answering(CHAT, LONG), guard=guard) as (client, _):
            actual = await seen(CHAT, client, stream=False)
        left = len(await others(0))
        released.set()
        return actual.text, left, await others()

    assert (REFUSAL, 1, set()) == asyncio.run(run())


@every_protocol
@whole_and_streamed
@pytest.mark.parametrize("stage", ["input", "output"])
@pytest.mark.parametrize("blocking", [False, True], ids=["awaited judge", "blocking judge"])
def test_a_call_can_be_cancelled_while_a_judge_works(protocol, stream, stage, blocking):
    """A judge that is awaited ends with the call; one that blocks keeps its thread until it returns, and is counted."""
    pool, entered_, left = Pool(), threading.Event(), []

    async def hang(case):
        if case.stage != stage:
            return clean(case)
        try:
            entered_.set()
            await asyncio.Event().wait()
        finally:
            left.append(case.stage)

    async def run(gate):
        judge = OwnJudge(at(stage, gate.judge), inline=False) if blocking else AwaitedJudge(hang)
        guard = made(judge=["rules", judge], pool=pool)
        async with guarded(protocol, True, answering(protocol, LONG), guard=guard) as (client, upstream):
            task = asyncio.ensure_future(seen(protocol, client, stream))
            assert await asyncio.to_thread((gate.entered if blocking else entered_).wait, PATIENCE)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert set() == await others()
            assert (stage == "input") == (not upstream.requests)
        return pool.held, bool(left)

    with Gate() as gate:
        held, ended = asyncio.run(run(gate))

    assert (blocking, not blocking) == (held > 0, ended)
    assert pool.abandoned == held


@every_protocol
def test_a_stream_can_be_closed_while_a_blocking_judge_works(protocol):
    """It reads text ahead of what the user was given."""
    pool = Pool()
    with Gate() as gate, Upstream(sends("".join(protocol.events(CLEAN)[:-2]), then="hang")) as upstream:
        ahead = lambda case: gate.judge(case) if case.stage == "output" and len(case.text) > 100 else clean(case)
        client = made(judge=["rules", OwnJudge(ahead, inline=False)], pool=pool).wrap(protocol.client(False, upstream.url))
        stream = protocol.call(client, stream=True)
        next(stream)
        assert gate.entered.wait(PATIENCE)
        stream.close()
        assert upstream.wait_for_open(0)
        client.close()
        assert 0 < pool.held <= pool.abandoned  # another one may have been about to return


@needs("openai")
@both
@whole_and_streamed
async def test_the_time_out_of_an_sdk_counts_the_upstream_s_time_alone(awaited, stream):
    """A judge that takes longer is bounded by `judge_timeout`."""

    def slow(case):
        threading.Event().wait(0.6 if case.stage == "input" else 0)
        return clean(case)

    guard = made(judge=["rules", OwnJudge(slow, inline=False)])
    async with guarded(CHAT, awaited, answering(CHAT, LONG), guard=guard, timeout=0.5) as (client, _):
        actual = await seen(CHAT, client, stream)

    assert (LONG, None) == (actual.text, actual.error)
