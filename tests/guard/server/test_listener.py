"""Clients that never end what they begin, before they have shown any key."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest
from tests.guard.build import PATIENCE
from tests.guard.server.serving import FILM

from cosa_guard.server import listener

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def line(proxy):
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as one:
        yield one


def rest(line):
    """Everything that comes until the proxy closes."""
    out = b""
    with contextlib.suppress(ConnectionError):
        while piece := line.recv(65536):
            out += piece
    return out


def answer(line):
    """One answer of a route whose body is an object."""
    out = b""
    while not out.endswith(b"}") and (piece := line.recv(65536)):
        out += piece
    return out


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(listener, "HEAD_SECONDS", 0.1)


@pytest.mark.parametrize("row", [b"x-a: " + b"a" * 4000 + b"\r\n", b"a" * 4000], ids=["headers", "one header"])
def test_a_head_without_end_is_not_kept(line, row):
    line.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nx-b: ")
    with contextlib.suppress(ConnectionError):
        for _ in range(2000):
            line.sendall(row)

    assert rest(line)[9:12] in {b"400", b""}  # closed: the answer may be lost under what is still being sent


@pytest.mark.parametrize("begun", [b"", b"GET", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_does_not_come_ends_the_connection(hurried, line, begun):
    line.sendall(begun)

    assert b"" == rest(line)


@pytest.mark.parametrize("begun", [b"GET /he", b"\r\n"])
def test_a_second_head_that_does_not_come_ends_the_connection(hurried, line, begun):
    line.sendall(HEALTH)
    assert answer(line).startswith(b"HTTP/1.1 200")
    line.sendall(begun)

    assert b"" == rest(line)


def test_a_head_that_comes_in_pieces_is_one(line):
    for at in range(len(HEALTH)):
        line.sendall(HEALTH[at : at + 1])

    assert answer(line).startswith(b"HTTP/1.1 200")


def test_a_body_is_no_head(proxy):
    assert "context_length_exceeded" == proxy.chat("a" * listener.LARGEST_HEAD * 2, key=FILM).code  # read to its end


def test_many_requests_at_once_are_no_large_head(line):
    count = 3 * listener.LARGEST_HEAD // len(HEALTH)
    sender = threading.Thread(target=line.sendall, args=(HEALTH * count,))
    sender.start()
    came = b""
    while came.count(b"HTTP/1.1 200") < count and (piece := line.recv(65536)):
        came += piece
    sender.join(PATIENCE)

    assert count == came.count(b"HTTP/1.1 200")


def test_half_a_head_waits_for_the_answer_before_it(line):
    line.sendall(HEALTH + HEALTH[:9])
    first = answer(line)
    line.sendall(HEALTH[9:])

    assert [True, True] == [one.startswith(b"HTTP/1.1 200") for one in (first, answer(line))]
