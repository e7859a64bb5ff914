"""Anything at all as a request and as an answer: an answer or a declared error, never the word, sync as async.

COSA_FUZZ says how many examples each property tries.
"""

from __future__ import annotations

import copy
import json
import os
import re
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.guard.wire.answers import EVENTS, JSON, PATHS, REPLIES, STREAMS, Upstream, exchanged, parsed, streamed
from tests.guard.wire.places import places, put
from tests.guard.wire.scenes import WORD, readable, strings
from tests.guard.wire.test_wire_history import ONE, PROXY, REQUESTS, is_the_application_s

from cosa_guard.exchange import Exchange
from cosa_guard.wire import protocols
from cosa_sdk.errors import CosaError

EXAMPLES = int(os.environ.get("COSA_FUZZ", "60"))
fuzzed = settings(max_examples=EXAMPLES)

# --- the oracle ---

SAID = re.compile(rf"(?<![^\W_]){WORD}(?![^\W_])")
"""As the term is defined: a word of its own."""
OPEN = re.compile(r"(?:model|provider|signature|encrypted_content|data)\Z")


def leaks(out):
    """Where a client reads the word: in one string of an event, or in what the events' strings make together."""
    found = []
    for body in parsed(out) if out.lstrip().startswith((b"data:", b"event:", b":")) else [json.loads(out)]:
        found += [path for path, text in strings(body) if SAID.search(text) and not (OPEN.search(path) and " " not in text)]
    joined = readable(out)
    del joined[""]
    return found + [path for path, text in joined.items() if SAID.search(text) and not OPEN.search(path)]


# --- what is said ---

TEXTS = st.sampled_from(
    [WORD, f"the {WORD} is here, now and then", f" {WORD}.", f'{{"q": "{WORD}"}}', '{"q": "\\u007aorkblat"}', "", "a", "fine", "\ud83d", "\ude00", "call_1", "0", "1", "[DONE]", "\r\n\r\ndata: x", "\u2028",
     "function", "message", "text", "tool_use", "text_delta", "input_json_delta", "content_block_delta", "response.output_text.delta", "response.completed", "message_stop", "reasoning", "stop", "assistant"]
)  # fmt: skip
NAMES = st.sampled_from(
    [WORD, f"the {WORD} is here, now and then", "x", "id", "type", "role", "index", "content", "text", "delta", "name", "input", "arguments", "function", "tool_calls", "logprobs", "token", "top_logprobs", "choices", "message",
     "output", "output_index", "content_index", "item", "part", "response", "usage", "finish_reason", "refusal", "error", "citations", "summary", "annotations", "instructions"]
)  # fmt: skip
NUMBERS = st.integers(-2, 3) | st.sampled_from([2**70, 0.0, 1.0, -1.5, 1e300])
VALUES = st.recursive(st.none() | st.booleans() | NUMBERS | TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=6)


@st.composite
def changed(draw, body):
    """A body with up to three changes."""
    body = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        place, how = draw(st.sampled_from([*places(body)]))
        if how == "value" and draw(st.booleans()):
            holder = body
            for step in place[:-1]:
                holder = holder[step]
            del holder[place[-1]]
        elif how in {"key", "new key"}:
            body = put(body, place, how, draw(NAMES), draw(VALUES))
        else:
            body = put(body, place, how, draw(VALUES))
    return body


@st.composite
def events_of(draw, path):
    """Events of a protocol: some changed, doubled, left out, moved, or from elsewhere."""
    events = copy.deepcopy(STREAMS[path])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(events) - 1))
        do = draw(st.sampled_from(["change", "change", "change", "double", "drop", "move", "other"]))
        if do == "change" and isinstance(events[at], dict):
            events[at] = draw(changed(events[at]))
        elif do == "double":
            events.insert(draw(st.integers(0, len(events))), copy.deepcopy(events[at]))
        elif do == "drop" and len(events) > 1:
            del events[at]
        elif do == "move":
            events.insert(draw(st.integers(0, len(events) - 1)), events.pop(at))
        else:
            events[at] = draw(OBJECTS)
    return events


MODES = st.sampled_from(["hold", "hold", "whole"])
SIZES = st.sampled_from([1, 7, 64, 1000, 100_000])
PATH = st.sampled_from(PATHS)


def same(path, make, **options):
    """Sync and async: the same head, the same body, the same act; and nobody reads the word."""
    head, out, report = exchanged(path, make(), **options)
    awaited = exchanged(path, make(), awaited=True, **options)

    assert (head.status, out, report.act, report.error) == (awaited[0].status, awaited[1], awaited[2].act, awaited[2].error)
    assert head.status in {200, 424}
    out.decode()
    assert [] == leaks(out)
    return out, report


# --- answers ---


@fuzzed
@given(st.data(), PATH, MODES)
def test_any_change_to_a_reply(data, path, mode):
    body = data.draw(changed(REPLIES[path]))

    same(path, lambda: Upstream(body), mode=mode)


@fuzzed
@given(st.data(), PATH, MODES, SIZES, SIZES)
def test_any_change_to_a_stream(data, path, mode, size, other):
    given_ = streamed(path, data.draw(events_of(path)))
    out, report = same(path, lambda: Upstream(given_, EVENTS, size=size), mode=mode, stream=True)
    cut = exchanged(path, Upstream(given_, EVENTS, size=other), mode=mode, stream=True)

    if report.error is None:  # an error may come while text before it is still judged
        assert (of_choices(out), report.act) == (of_choices(cut[1]), cut[2].act)


def of_choices(out):
    """The events of answers: signs of life and token counts may overtake them, or come too late for a refused one."""
    return sorted(event for event in out.split(b"\n\n") if re.search(rb'"choices": ?\[[^\]]|"type": ?"(?!keepalive|ping)', event))


@fuzzed
@given(OBJECTS | VALUES, PATH)
def test_anything_as_a_reply(body, path):
    same(path, lambda: Upstream(body))


@fuzzed
@given(st.lists(OBJECTS | VALUES, max_size=6), PATH, SIZES)
def test_anything_as_events(bodies, path, size):
    given_ = b"".join(b"data: " + json.dumps(body).encode() + b"\n\n" for body in bodies)

    same(path, lambda: Upstream(given_, EVENTS, size=size), stream=True)


LINES = st.sampled_from([b"data: ", b"data:", b"event: ", b": ", b"id: ", b"\n", b"\r", b"\r\n", b"\n\n", b"{", b"}", b'{"type":"ping"}', b'{"choices":[]}', b"\xef\xbb\xbf", b"\xff", b"[DONE]", WORD.encode(), b'"', b"\\u007a", b"1e999", b"\x00"])


@fuzzed
@given(st.lists(LINES | st.binary(max_size=4), max_size=14).map(b"".join), PATH, st.sampled_from([JSON, EVENTS, "", "text/plain"]), SIZES, st.sampled_from([200, 200, 204, 301, 400, 401, 500]))
def test_any_bytes(raw, path, kind, size, status):
    head, out, report = exchanged(path, Upstream(raw, kind, size=size, status=status))
    awaited = exchanged(path, Upstream(raw, kind, size=size, status=status), awaited=True)

    assert (head, out, report.act) == (awaited[0], awaited[1], awaited[2].act)
    seen = "".join(char for char in out.decode() if unicodedata.category(char) not in {"Cc", "Cf"} or char.isspace())
    assert not SAID.search(seen)  # what nobody sees ends no word


# --- requests ---


def asked(path, body, *, proxy):
    """The request is read and sent on, refused by a judge, or a declared error; the word does not get through."""
    upstream = Upstream(REPLIES[path])
    try:
        exchange = Exchange(PROXY if proxy else ONE, protocols[path], json.dumps(body).encode(), proxy=proxy)
    except CosaError:
        return None
    head, *out = exchange.stream(upstream)
    assert head.status in {200, 424}
    json.loads(b"".join(out)) if head.header("content-type") == JSON else None
    return upstream.bodies


@fuzzed
@given(st.data(), PATH, st.booleans())
def test_any_change_to_a_request(data, path, proxy):
    body = data.draw(changed(REQUESTS[path]))
    sent = asked(path, body, proxy=proxy)

    if sent and proxy:
        for where, text in strings(json.loads(sent[0])):
            assert not SAID.search(text.replace("\u200b", "")) or where.endswith((".model", ".signature")), where


@fuzzed
@given(OBJECTS, PATH, st.booleans())
def test_anything_as_a_request(body, path, proxy):
    asked(path, body, proxy=proxy)


def test_what_the_application_sets_is_what_the_attacks_leave_out():
    """The two suites mean the same by it."""
    assert not is_the_application_s(PATHS[0], ("messages", 2, "content"), proxy=False)
    assert is_the_application_s(PATHS[0], ("model",), proxy=True)
