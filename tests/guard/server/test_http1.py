"""The client for `http://` upstreams: framing, keep-alive and its end, one byte at a time."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.guard.build import PATIENCE

from cosa_guard.exchange import Outgoing
from cosa_guard.server import http1
from cosa_guard.server.http1 import PlainUpstream
from cosa_guard.server.tenants import Upstream
from cosa_guard.server.upstream import UpstreamError

BODY = b'{"a": "' + b"word " * 20 + b'"}'


class Server:
    """Answers each request of a connection with the next of `answers`, cut as `sizes` say."""

    def __init__(self, *answers, sizes=(10**9,), close=False):
        self.answers, self.sizes, self.close = list(answers), sizes, close
        self.connections, self.requests = 0, []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/base/v1/"
        return self

    async def __aexit__(self, *problem):
        self.server.close()

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                data, at = self.answers.pop(0), 0
                while at < len(data):
                    size = self.sizes[at % len(self.sizes)]
                    writer.write(data[at : at + size])
                    await writer.drain()
                    await asyncio.sleep(0)
                    at += size
                if self.close:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def sized(body=BODY, more=b""):
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), more, body)


def chunked(*pieces, end=b"0\r\n\r\n"):
    rows = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + rows + end


async def ask(upstream, body=b"{}", stream=False):
    head, *pieces = [piece async for piece in upstream.astream(Outgoing("/chat/completions", body, stream))]
    return head, b"".join(pieces)


def asked(*answers, times=1, sizes=(10**9,), close=False, **settings):
    """Status and body of each answer, and the server."""

    async def run():
        async with asyncio.timeout(PATIENCE), Server(*answers, sizes=sizes, close=close) as server:
            upstream = PlainUpstream(Upstream(name="main", url=server.url, **settings), "secret")
            try:
                return [(head.status, body) for head, body in [await ask(upstream) for _ in range(times)]], server
            finally:
                upstream.close()

    return asyncio.run(run())


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4))
@settings(max_examples=30)
def test_an_answer_is_the_same_however_it_is_cut(sizes):
    answers = [sized(), chunked(BODY[:9], BODY[9:]), b"HTTP/1.1 100 Continue\r\n\r\n" + sized()]

    given, server = asked(*answers, times=3, sizes=sizes)
    assert [(200, BODY)] * 3 == given
    assert 1 == server.connections


def test_the_request_is_one_that_any_server_reads():
    _, server = asked(sized())
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    rows = head.decode().split("\r\n")

    assert "POST /base/v1/chat/completions HTTP/1.1" == rows[0]
    assert {"host", "content-type", "accept-encoding", "user-agent", "authorization", "content-length"} == {row.partition(":")[0] for row in rows[1:]}
    assert b"{}" == body


@pytest.mark.parametrize("answer", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", chunked(b"abc", end=b""), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"nonsense\r\n\r\n", b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
])
def test_an_answer_that_is_cut_short_or_no_http_is_an_error(answer):
    with pytest.raises(UpstreamError):
        asked(answer, close=True)


def test_an_answer_that_ends_with_its_connection_is_whole_and_the_connection_is_not_used_again():
    answer = b"HTTP/1.1 200 OK\r\n\r\n" + BODY

    assert [(200, BODY)] == asked(answer, close=True)[0]


def test_a_connection_that_the_upstream_closes_is_not_used_again():
    given, server = asked(sized(more=b"Connection: close\r\n"), sized(), times=2)

    assert ([(200, BODY)] * 2, 2) == (given, server.connections)


def test_a_connection_that_rested_too_long_is_not_used_again(monkeypatch):
    monkeypatch.setattr(http1, "IDLE_SECONDS", -1.0)

    assert 2 == asked(sized(), sized(), times=2)[1].connections


def test_an_answer_nobody_asked_for_ends_the_connection():
    given, server = asked(sized() + sized(b'{"b": 1}'), sized(), times=2)

    assert ([(200, BODY)] * 2, 2) == (given, server.connections)


def test_an_answer_that_is_too_large_is_not_taken_in():
    with pytest.raises(UpstreamError, match="answer_bytes"):
        asked(sized(b"a" * 1000), answer_bytes=100)


def test_closing_in_the_middle_closes_the_connection():
    async def run():
        async with asyncio.timeout(PATIENCE), Server(chunked(*[BODY] * 50), sized()) as server:
            upstream = PlainUpstream(Upstream(name="main", url=server.url), None)
            stream = upstream.astream(Outgoing("/chat/completions", b"{}", True))
            await anext(stream)
            await stream.aclose()
            head, body = await ask(upstream)
            upstream.close()
            return head.status, json.loads(body), server.connections

    assert (200, json.loads(BODY), 2) == asyncio.run(run())
