"""No forbidden word reaches a client: at no position, in no field or event, however the bytes arrive.

Chunking cannot matter once events are cut (test_sse.py), so positions, fields and sizes are crossed pairwise here;
`COSA_LEAKS=all` crosses everything.
"""

from __future__ import annotations

import asyncio
import json
import os

import pytest
from tests.guard.build import terms_config
from tests.guard.wire.scenes import (
    ANTHROPIC,
    CHAT,
    RESPONSES,
    TOKENS,
    WORD,
    anthropic,
    block,
    chat,
    chunk,
    leaks,
    pieces,
    responses,
    tokens,
)

from cosa_guard import Guard
from cosa_guard.exchange import Exchange, Head
from cosa_guard.wire import protocols

ALL = os.environ.get("COSA_LEAKS") == "all"
SIZES = range(1, 65)
SCENES = {"/chat/completions": CHAT, "/messages": ANTHROPIC, "/responses": RESPONSES}
ASKED = {
    "/chat/completions": {
        "model": "m",
        "stream": True,
        "n": 1,
        "messages": [{"role": "user", "content": "Hello."}],
        "tools": [{"type": "function", "function": {"name": "search"}}],
    },
    "/messages": {
        "model": "m",
        "stream": True,
        "max_tokens": 500,
        "messages": [{"role": "user", "content": "Hello."}],
        "tools": [{"name": "search", "input_schema": {"type": "object"}}],
    },
    "/responses": {
        "model": "m",
        "stream": True,
        "input": "Hello.",
        "tools": [{"type": "function", "name": "search", "parameters": {}, "strict": False}],
    },
}
CLEAN = {
    "/chat/completions": chat([chunk({"content": token}) for token in tokens()]),
    "/messages": anthropic(block("text", "text", tokens())),
    "/responses": responses(tokens()),
}
TWO = {"second choice", "two choices in one event"}
EACH = [(path, name) for path, scenes in SCENES.items() for name in scenes]


def guard(**enforcement):
    return Guard(terms_config(WORD, **enforcement), judge="rules", accept_unexamined=True)


GUARDS = {stream: guard(stream=stream) for stream in ("hold", "whole")}


class Upstream:
    """Sends these bytes."""

    def __init__(self, given, kind="text/event-stream"):
        self._given, self._kind = given, kind

    def stream(self, request):
        yield Head(200, (("content-type", self._kind),))
        yield from self._given

    async def astream(self, request):
        for piece in self.stream(request):
            yield piece


def relayed(path, stream, size, *, mode="hold", choices=1, awaited=False, one=None):
    """What the client gets, and the report."""
    body = {**ASKED[path], **({"n": choices} if choices > 1 else {})}
    exchange = Exchange(one or GUARDS[mode], protocols[path], body, request="r")
    upstream = Upstream(pieces(stream, size))
    if not awaited:
        head, *body = exchange.stream(upstream)
    else:

        async def run():
            return [piece async for piece in exchange.astream(upstream)]

        head, *body = asyncio.run(run())
    assert 200 == head.status
    return b"".join(body), exchange.report


def tried(path, name, at, size, mode="hold"):
    out, _ = relayed(path, SCENES[path][name](at), size, mode=mode, choices=2 if name in TWO else 1)
    return leaks(out)


@pytest.mark.parametrize(("path", "name"), EACH)
def test_the_word_would_be_read_without_the_guard(path, name):
    assert leaks(SCENES[path][name](17)) or name == "half an event"


@pytest.mark.parametrize("mode", GUARDS)
@pytest.mark.parametrize(("path", "name"), EACH)
def test_no_field_lets_the_word_out(path, name, mode):
    tries = [(0, 64), (5, 1), (TOKENS // 2, 7), (TOKENS - 1, 33)]

    assert [] == [(at, size, found) for at, size in tries if (found := tried(path, name, at, size, mode))]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "name"), EACH)
def test_no_position_and_no_size_lets_the_word_out(path, name):
    if ALL:
        tries = [(at, size) for at in range(TOKENS) for size in SIZES]
    else:
        tries = [(at, 1 + (at * 29) % 64) for at in range(TOKENS)] + [((size * 37) % TOKENS, size) for size in SIZES]

    assert [] == [(at, size, found) for at, size in tries if (found := tried(path, name, at, size))]


@pytest.mark.parametrize(("path", "name"), EACH)
def test_sync_and_async_let_the_same_out(path, name):
    stream = SCENES[path][name](60)
    choices = 2 if name in TWO else 1

    blocking = relayed(path, stream, 50, choices=choices)
    awaiting = relayed(path, stream, 50, choices=choices, awaited=True)

    assert blocking[0] == awaiting[0]
    assert blocking[1].act == awaiting[1].act


@pytest.mark.parametrize("path", SCENES)
def test_a_clean_stream_comes_through_as_it_was_sent(path):
    for size in (1, 5, 64, 100_000):
        out, report = relayed(path, CLEAN[path], size)

        assert CLEAN[path] == out
        assert ("pass", len("".join(tokens()))) == (report.act, report.released)


def test_whole_replies_let_nothing_out():
    def reply(message=None, choice=None, **top):
        choices = [{"index": 0, "message": {"role": "assistant", "content": "Fine.", **(message or {})}, "finish_reason": "stop", **(choice or {})}]
        return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, **top}

    call = {"id": "c", "type": "function", "function": {"name": "search", "arguments": json.dumps({"q": WORD})}}
    bad = [
        reply({"content": f"a {WORD}"}),
        reply({"refusal": f"a {WORD}"}),
        reply({"reasoning_content": f"a {WORD}"}),
        reply({"tool_calls": [call]}),
        reply({"tool_calls": [{**call, "function": {"name": WORD, "arguments": "{}"}}]}),
        reply({"tool_calls": [{**call, "function": {"name": "search", "arguments": json.dumps({"q": WORD}).replace("z", "\\u007a")}}]}),
        reply({"musings": WORD}),
        reply({"content": [{"type": "text", "text": WORD}]}),
        reply(choice={"extra": [WORD]}),
        reply(choice={"logprobs": {"content": [{"token": WORD, "logprob": 0, "top_logprobs": []}]}}),
        reply(choice={"logprobs": {"content": [{"token": "Fine.", "logprob": 0, "top_logprobs": [{"token": WORD, "logprob": -1}]}]}}),
        reply(vendor=f"the {WORD}"),
        reply(id=f"this is not an id but a whole {WORD} sentence"),
    ]
    for body in bad:
        exchange = Exchange(GUARDS["hold"], protocols["/chat/completions"], {**ASKED["/chat/completions"], "stream": False})
        head, *out = exchange.stream(Upstream([json.dumps(body).encode()], "application/json"))

        assert (200, []) == (head.status, leaks(b"data: " + b"".join(out) + b"\n\n")), body
