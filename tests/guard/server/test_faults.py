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

from cosa_guard.server import run, watch

HELLO = {"messages": [{"role": "user", "content": "Hello there."}]}


@pytest.fixture(scope="module", params=["http1", "aiohttp"], autouse=True)
def client(request):
    """Every fault with both upstream clients."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "aiohttp":
            patch.setattr(run, "find_spec", lambda name: None)
        yield request.param


@pytest.fixture(scope="module")
def shared(client, upstream_server, tmp_path_factory):
    with serving(write(tmp_path_factory.mktemp("serve"), upstream_server, metrics=True)) as one:
        yield one


@pytest.fixture(params=[False, True], ids=["whole", "stream"])
def stream(request):
    return request.param


def idle(proxy):
    """No request runs, no connection to an upstream is in use."""
    connector = proxy.app._client.session.connector
    return not connector._acquired and not any(state.gate.running for state in proxy.app.runtime.states.values())


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


FAULTS = [refuse_by_reset, hang_up, nonsense, no_json, html, short, redirect, bomb, endless_head]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_an_upstream_that_fails_before_its_answer_is_an_error(proxy, upstream, fault, stream):
    upstream.script = fault
    answer = proxy.chat(key=FILM, stream=stream)

    assert answer.status in {424, 502}
    assert answer.code in {"upstream_error", "guard_failure"}
    assert b"zork" not in answer.body
    wait_until(lambda: idle(proxy))


def test_an_answer_too_many_is_nobodys(proxy, upstream):
    upstream.script = twice
    first, second = proxy.chat(key=FILM), proxy.chat(key=FILM)

    assert b"zork" not in first.body + second.body
    assert {200, 502, 424} >= {first.status, second.status}


@pytest.mark.parametrize("status", [400, 404, 408, 409, 422, 429, 500, 503, 529])
def test_an_error_of_the_upstream_keeps_its_status(proxy, upstream, status, stream):
    async def script(seen, line):
        await line.whole({"error": {"message": "busy", "type": "x", "code": "y"}}, status, more="retry-after: 3\r\n")

    upstream.script = script
    answer = proxy.chat(key=FILM, stream=stream)

    assert (status, "3") == (answer.status, answer.headers.get("retry-after"))


def test_nobody_listens_at_the_upstream(upstream, tmp_path, stream):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        path = write(tmp_path, upstream)
        path.write_text(path.read_text().replace(str(upstream.port), str(taken.getsockname()[1])))
        with serving(path) as proxy:
            answer = proxy.chat(key=FILM, stream=stream)
            ready = proxy.ask("/readyz", method="GET")

    assert (502, "upstream_error", 503) == (answer.status, answer.code, ready.status)
    assert str(taken) not in answer.body.decode()


def test_a_silent_upstream_is_given_up_on(upstream, tmp_path, stream):
    async def silent(seen, line):
        await line.gone()

    upstream.script = silent
    path = write(tmp_path, upstream)
    path.write_text(path.read_text().replace("name: main", "name: main\n  read_seconds: 1"))
    with serving(path) as proxy:
        answer = proxy.chat(key=FILM, stream=stream)

        assert (504, "upstream_error") == (answer.status, answer.code)
        wait_until(lambda: upstream.ended == 1)


def test_a_request_that_takes_too_long_is_ended(upstream, tmp_path, stream):
    async def slow(seen, line):
        await line.gone()

    upstream.script = slow
    with serving(write(tmp_path, upstream, tenants=[film(limits={"seconds": 1})])) as proxy:
        answer = proxy.chat(key=FILM, stream=stream)

        assert (504, "timeout") == (answer.status, answer.code)
        wait_until(lambda: upstream.ended == 1 and idle(proxy))


@pytest.mark.parametrize("end", ["reset", "close", "half an event", "no JSON", "huge event"])
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
            case "no JSON":
                await line.chunk(b"data: {zorkblat\n\n")
                await line.end()
            case "huge event":
                with contextlib.suppress(ConnectionError):
                    for _ in range(20):
                        await line.chunk(b"data: " + b"zorkblat" * 65536)

    upstream.script = script
    answer = proxy.chat(key=FILM, stream=True)

    assert b"zorkblat" not in answer.body
    assert b'"error"' in answer.body or b"finish_reason" in answer.body or answer.status >= 400
    wait_until(lambda: idle(proxy))


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
    wait_until(lambda: idle(proxy) and upstream.ended == 1)
    assert sent < 500


def open_request(proxy, **fields):
    data = json.dumps({**HELLO, **fields}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {FILM}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    line = socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE)
    line.sendall(head.encode() + data)
    return line


def test_a_client_that_goes_away_ends_the_work_upstream(proxy, upstream, stream):
    begun = threading.Event()

    async def endless(seen, line):
        begun.set()
        await line.gone()

    upstream.script = endless
    with open_request(proxy, stream=stream):
        assert begun.wait(PATIENCE)

    wait_until(lambda: upstream.ended == 1 and idle(proxy), "the end upstream")
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

    wait_until(lambda: upstream.ended == 1 and idle(proxy), "the end upstream")


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
        wait_until(lambda: gate.running == 0)

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

    wait_until(lambda: idle(proxy))


def test_a_body_that_does_not_come_is_given_up_on(proxy, monkeypatch):
    monkeypatch.setattr(watch, "BODY_SECONDS", 0.1)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {FILM}\r\nContent-Length: 10\r\n\r\n"

    assert b"HTTP/1.1 408" in proxy.raw(head.encode() + b"{")


def test_a_client_that_goes_away_before_its_body_is_there_leaves_nothing(proxy, upstream):
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {FILM}\r\nContent-Length: 10\r\n\r\n"
    gone = proxy.app.metrics.gone
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as line:
        line.sendall(head.encode() + b"{")
        time.sleep(0.01)

    wait_until(lambda: proxy.app.metrics.gone == gone + 1)
    assert [] == upstream.seen


def test_a_judge_that_fails_blocks_and_is_counted(upstream, tmp_path, stream):
    from cosa_guard import judges
    from cosa_guard.testing import ScriptedJudge

    with contextlib.suppress(Exception):
        judges.register("failing-test", lambda argument: ScriptedJudge({}, error=ValueError("Hello there."), name="failing-test/1"))
    with serving(write(tmp_path, upstream, tenants=[film(judges=["failing-test"])])) as proxy:
        answer = proxy.chat(key=FILM, stream=stream)

        assert b"The library" not in answer.body
        wait_until(lambda: proxy.app.metrics.judge_errors["film"] == 1)
        assert [] == upstream.seen


def test_a_record_that_cannot_be_written_blocks(upstream, tmp_path, stream):
    from cosa_guard.audit import AuditError

    with serving(write(tmp_path, upstream, audit={"folder": "audit"})) as proxy:
        assert 200 == proxy.chat(key=FILM, stream=stream).status

        def full(entry):
            raise AuditError("the disk is full")

        for binding in [proxy.app.site.find(FILM)]:
            for guard in binding.guards.values():
                guard.ports = type(guard.ports)(backend=None, pool=guard.ports.pool, timeout=1.0, record=full)
        answer = proxy.chat(key=FILM, stream=stream)

    assert answer.status in {424, 503}
    assert b"The library" not in answer.body
    assert list((tmp_path / "audit").iterdir())


def test_what_the_proxy_itself_gets_wrong_is_an_error_object_and_no_text(proxy, upstream, monkeypatch, capfd, stream):
    def broken(*_, **__):
        raise RuntimeError("Hello there.")

    monkeypatch.setattr("cosa_guard.server.guarded.Exchange", broken)
    answer = proxy.chat(key=FILM, stream=stream)

    assert (500, "internal_error") == (answer.status, answer.code)
    assert "Hello there." not in answer.body.decode() + capfd.readouterr().err
