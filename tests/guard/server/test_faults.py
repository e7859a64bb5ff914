"""What goes wrong on either side: the caller is told in the protocol's words, nothing leaks, nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time

import pytest
from tests.guard.build import PATIENCE
from tests.guard.server.serving import FILM, chat, film, serving, wait_until, write

from cosa_guard.server import watch

HELLO = {"messages": [{"role": "user", "content": "Hello there."}]}


@pytest.fixture(scope="module")
def shared(upstream_server, tmp_path_factory):
    with serving(write(tmp_path_factory.mktemp("serve"), upstream_server, metrics=True)) as one:
        yield one


@pytest.fixture(params=[False, True], ids=["whole", "stream"])
def stream(request):
    return request.param


async def refuse_by_reset(seen, line):
    line.reset()


async def hang_up(seen, line):
    line.writer.close()


async def nonsense(seen, line):
    await line.send(b"HTTP/1.1 nonsense\r\n\r\n")
    line.writer.close()


async def no_json(seen, line):
    await line.whole(b"<html>zorkblat</html>", kind="application/json")


async def html(seen, line):
    await line.whole(b"<html>zorkblat</html>", kind="text/html")


async def short(seen, line):
    await line.head(length=1000)
    await line.send(b'{"id": "zork')
    line.writer.close()


async def redirect(seen, line):
    await line.whole(b"", 302, more="location: http://127.0.0.1:9/\r\n")


async def bomb(seen, line):
    await line.whole(b"\x1f\x8b\x08\x00nonsense", more="content-encoding: gzip\r\n")


async def nothing(seen, line):
    await line.whole(b"")


async def no_object(seen, line):
    await line.whole(b'["zork"]')


async def as_json(seen, line):
    await line.whole(chat("A word: zorkblat.", "small")[0])


async def as_events(seen, line):
    await line.head(kind="text/event-stream")
    for event in chat("A word: zorkblat.", "small")[1]:
        await line.chunk(event)
    await line.end()


async def twice(seen, line):
    whole, _ = chat("One.", "small")
    data = json.dumps(whole).encode()
    one = b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data)
    await line.send((one + data) + (one + data.replace(b"One.", b"zork")))


async def endless_head(seen, line):
    with contextlib.suppress(ConnectionError):
        await line.send(b"HTTP/1.1 200 X\r\n")
        for _ in range(100):
            await line.send(b"x-a: " + b"a" * 7000 + b"\r\n")
    line.writer.close()


FAILED, UNREADABLE = (502, "upstream_error"), (424, "guard_failure")
FAULTS = {
    refuse_by_reset: FAILED, hang_up: FAILED, nonsense: FAILED, short: FAILED, endless_head: FAILED,
    no_json: UNREADABLE, html: UNREADABLE, redirect: UNREADABLE, bomb: UNREADABLE, nothing: UNREADABLE, no_object: UNREADABLE,
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_an_upstream_that_fails_before_its_answer_is_an_error(proxy, upstream, fault, stream, capfd):
    upstream.script = fault
    answer = proxy.chat(key=FILM, stream=stream)

    assert FAULTS[fault] == (answer.status, answer.code)
    assert b"zork" not in answer.body
    proxy.settle(upstream)
    assert answer.headers["x-cosa-request"] in capfd.readouterr().err


@pytest.mark.parametrize(("fault", "body"), [(as_json, b"chat.completion"), (as_events, b"chat.completion.chunk")], ids=["JSON", "events"])
def test_an_answer_of_the_other_kind_is_judged_as_what_it_is(proxy, upstream, fault, body, stream):
    upstream.script = fault
    answer = proxy.chat(key=FILM, stream=stream)

    assert (200, True, False) == (answer.status, body in answer.body, b"zorkblat" in answer.body)
    assert b"content_filter" in answer.body
    proxy.settle(upstream)


def test_an_answer_too_many_is_nobodys(proxy, upstream):
    upstream.script = twice
    first, second = proxy.chat(key=FILM), proxy.chat(key=FILM)

    assert b"zork" not in first.body + second.body
    assert {200, 502, 424} >= {first.status, second.status}
    proxy.settle(upstream)


@pytest.mark.parametrize("status", [400, 404, 408, 409, 422, 429, 500, 503, 529])
def test_an_error_of_the_upstream_keeps_its_status(proxy, upstream, status, stream):
    async def script(seen, line):
        await line.whole({"error": {"message": "busy", "type": "x", "code": "y"}}, status, more="retry-after: 3\r\n")

    upstream.script = script
    answer = proxy.chat(key=FILM, stream=stream)

    assert (status, "3", "busy") == (answer.status, answer.headers.get("retry-after"), answer.json["error"]["message"])
    proxy.settle(upstream)


@pytest.mark.parametrize("said", [b"<html>zorkblat</html>", b'{"error": {"message": "zorkblat"}}', b"", b"zorkblat" * 20_000], ids=["HTML", "JSON", "nothing", "much"])
def test_an_error_that_quotes_what_is_forbidden_keeps_its_status_alone(proxy, upstream, said, stream):
    async def script(seen, line):
        await line.whole(said, 500)

    upstream.script = script
    answer = proxy.chat(key=FILM, stream=stream)

    assert answer.status in {500, 424}
    assert b"zorkblat" not in answer.body
    proxy.settle(upstream)


@pytest.mark.parametrize("status", [401, 403])
def test_an_upstream_that_does_not_take_the_proxys_key_is_an_upstream_that_failed(proxy, upstream, status, stream):
    """The caller's own key was right: 401 would send him looking for another one."""
    async def script(seen, line):
        await line.whole({"error": {"message": "bad key"}}, status)

    upstream.script = script
    answer = proxy.chat(key=FILM, stream=stream)

    assert FAILED == (answer.status, answer.code)


def test_nobody_listens_at_the_upstream(upstream, tmp_path, stream):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        path = write(tmp_path, upstream)
        path.write_text(path.read_text().replace(str(upstream.port), str(taken.getsockname()[1])))
        with serving(path) as proxy:
            answer = proxy.chat(key=FILM, stream=stream)
            ready = proxy.ask("/readyz", method="GET")
            proxy.settle(upstream)

    assert (502, "upstream_error", 503) == (answer.status, answer.code, ready.status)


def test_a_silent_upstream_is_given_up_on(upstream, tmp_path, stream):
    async def silent(seen, line):
        await line.gone()

    upstream.script = silent
    path = write(tmp_path, upstream)
    path.write_text(path.read_text().replace("name: main", "name: main\n  read_seconds: 1"))
    with serving(path) as proxy:
        answer = proxy.chat(key=FILM, stream=stream)

        assert (504, "upstream_error") == (answer.status, answer.code)
        proxy.settle(upstream)
        assert 1 == upstream.ended


async def falling_silent(seen, line):
    await line.head(kind="text/event-stream")
    for event in chat("First sentence here. Then zork", "small")[1][:-2]:
        await line.chunk(event)
    await line.gone()


@pytest.mark.parametrize(("limit", "code"), [("read_seconds", "upstream_error"), ("seconds", "timeout")])
def test_an_upstream_that_falls_silent_in_the_middle_of_a_stream(upstream, tmp_path, limit, code):
    upstream.script = falling_silent
    path = write(tmp_path, upstream, tenants=[film(limits={"seconds": 1 if limit == "seconds" else 9})])
    if limit == "read_seconds":
        path.write_text(path.read_text().replace("name: main", "name: main\n  read_seconds: 1"))
    with serving(path) as proxy:
        answer = proxy.chat(key=FILM, stream=True)

        assert (200, code) == (answer.status, answer.events[-1]["error"]["code"])
        assert "First sentence here. Then ".startswith(answer.text)
        assert b"[DONE]" not in answer.body
        proxy.settle(upstream)


def test_a_request_that_takes_too_long_is_ended(upstream, tmp_path, stream):
    async def slow(seen, line):
        await line.gone()

    upstream.script = slow
    with serving(write(tmp_path, upstream, tenants=[film(limits={"seconds": 1})])) as proxy:
        answer = proxy.chat(key=FILM, stream=stream)

        assert (504, "timeout") == (answer.status, answer.code)
        proxy.settle(upstream)


ENDS = {
    "reset": "upstream_error", "close": "upstream_error", "half an event": "upstream_truncated", "an end too early": "upstream_truncated",
    "no JSON": "guard_failure", "no object": "guard_failure", "huge event": "guard_failure",
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_a_stream_that_breaks_ends_in_an_error_event(proxy, upstream, end):
    _, events = chat("First sentence here. Then zorkblat", "small")

    async def script(seen, line):
        await line.head(kind="text/event-stream")
        for event in events[:5]:
            await line.chunk(event)
        match end:
            case "reset":
                line.reset()
            case "close":
                line.writer.close()
            case "half an event":
                await line.chunk(events[5][: len(events[5]) // 2])
                await line.end()
            case "an end too early":
                await line.end()
            case "no JSON":
                await line.chunk(b"data: {zorkblat\n\n")
                await line.end()
            case "no object":
                await line.chunk(b'data: ["zorkblat"]\n\n')
                await line.end()
            case "huge event":
                with contextlib.suppress(ConnectionError):
                    for _ in range(2000):
                        await line.chunk(b"data: " + b"zorkblat" * 65536)

    upstream.script = script
    answer = proxy.chat(key=FILM, stream=True)

    if answer.status == 200:  # something was out before it broke
        assert "First sentence here. Then ".startswith(answer.text)
        assert ENDS[end] == answer.events[-1]["error"]["code"]
    else:
        assert (FAILED if ENDS[end] == "upstream_error" else UNREADABLE) == (answer.status, answer.code)
    assert b"zorkblat" not in answer.body
    assert b"[DONE]" not in answer.body
    proxy.settle(upstream)


@pytest.mark.parametrize("told", [True, False])
def test_a_reply_of_50_megabytes_is_not_taken_in(proxy, upstream, told):
    sent = 0

    async def script(seen, line):
        nonlocal sent
        await line.head(length=50_000_000 if told else None)
        with contextlib.suppress(ConnectionError):
            for _ in range(500):
                await (line.send if told else line.chunk)(b"a" * 100_000)
                sent += 1

    upstream.script = script
    answer = proxy.chat(key=FILM)

    assert (502, "upstream_error") == (answer.status, answer.code)
    proxy.settle(upstream)
    assert sent < 500


def test_a_stream_of_50_megabytes_is_relayed_and_not_kept(proxy, upstream):
    """Text in it is judged as it comes; here most of it is wrapping."""
    chunk = b"".join([b": " + b"a" * 1000 + b"\n\n"] * 100)

    async def script(seen, line):
        await line.head(kind="text/event-stream")
        with contextlib.suppress(ConnectionError):
            for _ in range(500):
                await line.chunk(chunk)
            for event in chat("The end.", "small")[1]:
                await line.chunk(event)
            await line.end()

    upstream.script = script
    answer = proxy.chat(key=FILM, stream=True)

    assert (200, "The end.") == (answer.status, answer.text)
    proxy.settle(upstream)


def test_a_request_of_50_megabytes_is_refused(proxy, upstream):
    answer = proxy.chat("a" * 50_000_000, key=FILM)

    assert (413, "request_too_large", []) == (answer.status, answer.code, upstream.seen)
    proxy.settle(upstream)


def open_request(proxy, **fields):
    return proxy.opened({**HELLO, **fields}, key=FILM)


def test_a_client_that_goes_away_ends_the_work_upstream(proxy, upstream, stream):
    begun = threading.Event()

    async def endless(seen, line):
        begun.set()
        await line.gone()

    upstream.script = endless
    with open_request(proxy, stream=stream):
        assert begun.wait(PATIENCE)

    wait_until(lambda: upstream.ended == 1, "the end upstream")
    proxy.settle(upstream)
    assert proxy.app.metrics.gone


def test_a_client_that_goes_away_in_the_middle_of_a_stream(proxy, upstream):
    _, events = chat("One sentence. Two sentences. Three sentences. Four.", "small")

    async def endless(seen, line):
        await line.head(kind="text/event-stream")
        for event in events[:-2]:
            await line.chunk(event)
        await line.gone()

    upstream.script = endless
    with open_request(proxy, stream=True) as line:
        assert line.recv(100)

    wait_until(lambda: upstream.ended == 1, "the end upstream")
    proxy.settle(upstream)


def test_a_client_that_goes_away_while_it_waits_for_a_place(upstream, tmp_path):
    held = threading.Event()

    async def hold(seen, line):
        held.set()
        await line.gone()

    upstream.script = hold
    with serving(write(tmp_path, upstream, tenants=[film(limits={"concurrency": 1})])) as proxy:
        gate = proxy.app.runtime.state("film").gate
        with open_request(proxy):
            assert held.wait(PATIENCE)
            with open_request(proxy):
                wait_until(lambda: gate.waiting == 1)
            wait_until(lambda: gate.waiting == 0)
        proxy.settle(upstream)

    assert 1 == len(upstream.seen)


def test_a_client_that_does_not_read_stops_the_upstream(proxy, upstream):
    """Back-pressure: what the proxy takes in is bounded by what the client takes."""
    sent = 0
    chunk = b"".join(chat("A sentence of many words goes here. " * 200, "small")[1][1:-2])

    async def flood(seen, line):
        nonlocal sent
        await line.head(kind="text/event-stream")
        with contextlib.suppress(ConnectionError, TimeoutError):
            for _ in range(400):
                await asyncio.wait_for(line.chunk(chunk), 1)
                sent += len(chunk)

    upstream.script = flood
    with open_request(proxy, stream=True) as line:
        assert line.recv(10)
        wait_until(lambda: upstream.ended == 1, "the upstream's wait")
        assert sent < 390 * len(chunk)

    proxy.settle(upstream)


def test_a_body_that_does_not_come_is_given_up_on(proxy, upstream, monkeypatch):
    monkeypatch.setattr(watch, "BODY_SECONDS", 0.1)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {FILM}\r\nContent-Length: 10\r\n\r\n"

    assert b"HTTP/1.1 408" in proxy.raw(head.encode() + b"{")
    proxy.settle(upstream)


def test_a_client_that_goes_away_before_its_body_is_there_leaves_nothing(proxy, upstream):
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {FILM}\r\nContent-Length: 10\r\n\r\n"
    gone = proxy.app.metrics.gone
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as line:
        line.sendall(head.encode() + b"{")
        time.sleep(0.01)

    wait_until(lambda: proxy.app.metrics.gone == gone + 1)
    assert [] == upstream.seen
    proxy.settle(upstream)
