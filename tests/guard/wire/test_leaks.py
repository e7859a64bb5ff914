"""No forbidden word reaches a client: at no position, in no field or event, however the bytes arrive.

Chunking cannot matter once events are cut (test_sse.py), so positions, fields and sizes are crossed pairwise here.
COSA_LEAKS says with how many of the 64 sizes each position of each field is crossed instead.
"""

from __future__ import annotations

import asyncio
import os

import pytest
from tests.guard.build import terms_config
from tests.guard.wire.answers import PATHS, REFUSAL, REPLIES, answers_saying, of_reply, said_in
from tests.guard.wire.places import name as name_of
from tests.guard.wire.places import places, put
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
from cosa_guard.window import UNIT
from cosa_guard.wire import protocols

SIZES = range(1, 65)
CROSSED = int(os.environ.get("COSA_LEAKS", "0"))
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
    if CROSSED:
        tries = [(at, 1 + (at + step * 64 // CROSSED) % 64) for at in range(TOKENS) for step in range(CROSSED)]
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


def texts_of(path):
    """The places of a whole reply where a model's text stands."""
    named = {"content", "refusal", "reasoning", "reasoning_content", "transcript", "arguments", "input", "text", "thinking", "explanation", "output_text", "title", "cited_text", "q"}
    for place, how in places(REPLIES[path]):
        value = REPLIES[path]
        for step in place:
            value = value[step]
        if how == "value" and isinstance(value, str) and place[-1] in named:
            yield place


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", ["hold", "whole", "trail"])
def test_no_position_of_a_whole_reply_lets_the_word_out(path, mode):
    fields = [*texts_of(path)]
    tries = [(place, at) for place in fields for at in range(TOKENS)[:: 1 if mode == "hold" else 20]]
    said = [(name_of(place), at) for place, at in tries if leaks(of_reply(path, put(REPLIES[path], place, "value", "".join(tokens(at))), mode=mode)[1])]

    assert [] == said
    assert len(fields) >= 5


# --- trail, which promises less ---

STREAMED = {  # of what comes in pieces, some is out before it is judged; everything else is not
    "/chat/completions": {"content", "content in two tokens", "refusal", "reasoning_content", "reasoning", "second choice", "two choices in one event", "in turns with reasoning", "after the choice's end", "transcript"},
    "/messages": {"text", "text in two tokens", "thinking", "text of a block's start", "thinking of a block's start", "after the block's end", "text of the beginning", "error"},
    "/responses": {"text", "text in two tokens", "refusal", "refusal in pieces", "reasoning", "reasoning's done", "reasoning's summary", "reasoning's summary part", "transcript", "error", "failure",
                   "done copy", "part copy", "item copy", "completed copy", "text of the part's beginning"},
}  # fmt: skip
TRAIL = guard(stream="trail", default="forbid")
AFTER = 3 * UNIT + 40
"""Characters that may follow the word: of units whose verdicts are waited for, and of a token."""


@pytest.mark.parametrize(("path", "name"), EACH)
def test_trail_cuts_texts_and_lets_nothing_else_out(path, name):
    for at, size in [(0, 64), (TOKENS // 2, 7)]:
        out, report = relayed(path, SCENES[path][name](at), size, choices=2 if name in TWO else 1, one=TRAIL)
        found = leaks(out)

        assert (name in STREAMED[path]) or not found
        assert not found or ("refuse", True) == (report.act, REFUSAL in out.decode())


@pytest.mark.parametrize("path", PATHS)
def test_trail_stops_soon_after_the_word(path):
    for at, size in [(0, 64), (5, 1), (TOKENS // 2, 7), (TOKENS - 1, 33)]:
        parts = tokens(at)
        out, report = relayed(path, answers_saying(path, parts)[0], size, one=TRAIL)
        said = said_in(path, out).removesuffix(REFUSAL).removesuffix("\n\n")

        assert "".join(parts).startswith(said)
        assert (True, "refuse") == (report.late, report.act)
        assert len(said) <= len("".join(parts[: at + 1])) + AFTER
