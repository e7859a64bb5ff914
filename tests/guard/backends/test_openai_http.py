"""The HTTP backend against a real socket whose other end can do anything, awaited and blocking through one helper."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.guard.backends.upstream import Upstream, chunk, gives, refused_url, refuses, says, scored, sends
from tests.guard.build import PATIENCE, OwnJudge, risks_config

from cosa_guard import Guard, backends
from cosa_guard.backends import openai_call
from cosa_guard.backends.base import AsyncBackend, Backend, Scorer
from cosa_guard.backends.openai_call import LONGEST_WAIT
from cosa_guard.backends.openai_http import OpenAIHTTP
from cosa_guard.backends.openai_request import _MARKER, as_text
from cosa_guard.backends.openai_stream import LARGEST_BODY, LONGEST_TOKEN, StreamReader
from cosa_guard.judges.model import ModelJudge
from cosa_guard.messages import Adapter, Delta, Message, Request, Sampling
from cosa_guard.verdicts import Case
from cosa_sdk.errors import (
    AdapterError,
    BackendError,
    JudgeError,
    PromptTooLong,
    UnknownName,
    UsageError,
    WireError,
)

KEY = "sk-test-0123456789/abcdefghij+KLMNOP"
ASK = Request(messages=(Message("system", "Be brief."), Message("user", "Hello there.")))
SHORT = ASK.replace(sampling=Sampling(max_tokens=1))


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """No proxy and no key of the machine that tests run on, and no waits between attempts."""
    for name in [*os.environ]:
        if name.upper() in {"OPENAI_API_KEY", "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}:
            monkeypatch.delenv(name)
    monkeypatch.setattr(openai_call, "FIRST_WAIT", 0.0)


@dataclass
class Told:
    """What came of one request."""

    pieces: list
    error: BaseException | None
    requests: list
    connections: int

    @property
    def text(self):
        return "".join(piece.text for piece in self.pieces)

    @property
    def finish(self):
        return self.pieces[-1].finish if self.pieces else None

    @property
    def kind(self):
        return type(self.error)

    def without(self, url):
        said = str(self.error).replace(url, "URL") if self.error else None
        return self.pieces, self.kind, said, [seen.body for seen in self.requests]


def run_sync(backend, request, pieces):
    with backend:
        for piece in backend.stream(request):
            pieces.append(piece)


def run_async(backend, request, pieces):
    async def main():
        async with backend:
            async for piece in backend.astream(request):
                pieces.append(piece)

    asyncio.run(main())


def told(*answers, request=ASK, url=None, **options):
    """What a caller sees, blocking and awaited, which must be the same; no connection stays open."""
    both = []
    for run in (run_sync, run_async):
        with Upstream(*answers) as upstream:
            backend = OpenAIHTTP(url or upstream.url, **{"model": "m", **options})
            pieces, error = [], None
            try:
                run(backend, request, pieces)
            except Exception as raised:  # noqa: BLE001  # what it is, is what is tested
                error = raised
            assert upstream.wait_for_open(0)
            one = Told(pieces, error, upstream.requests, upstream.connections)
            both.append((one, one.without(upstream.url)))
    (blocking, plain), (_, awaited) = both
    assert plain == awaited
    return blocking


# What is sent

def test_a_plain_request_sends_exactly_the_protocol_s_fields():
    seen = told(says("Hi")).requests[0]
    expected = {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there."}],
        "temperature": 0.0,
        "top_p": 1.0,
        "max_tokens": 256,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert expected == seen.body
    assert "/v1/chat/completions" == seen.path
    assert "application/json" == seen.headers["content-type"]
    assert "identity" == seen.headers["accept-encoding"]
    assert "authorization" not in seen.headers


def test_every_sampling_field_is_sent():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    sampling = Sampling(
        temperature=0.5, top_p=0.9, max_tokens=9, seed=7, stop=("END", "\n\n"), json_schema=json.dumps(schema)
    )
    body = told(says("Hi"), request=ASK.replace(sampling=sampling)).requests[0].body
    assert (0.5, 0.9, 9, 7, ["END", "\n\n"]) == tuple(
        body[name] for name in ("temperature", "top_p", "max_tokens", "seed", "stop")
    )
    closed = {"name": "reply", "strict": True, "schema": schema | {"additionalProperties": False}}
    assert {"type": "json_schema", "json_schema": closed} == body["response_format"]


def test_every_role_is_sent_as_it_is():
    messages = tuple(Message(role, role) for role in ("system", "user", "assistant", "tool", "user"))
    sent = told(says("Hi"), request=Request(messages=messages)).requests[0].body["messages"]
    assert [{"role": one.role, "content": one.content} for one in messages] == sent


def test_a_key_is_sent_as_a_bearer_token():
    assert f"Bearer {KEY}" == told(says("Hi"), api_key=KEY).requests[0].headers["authorization"]


def test_the_environment_s_key_is_sent_to_this_machine_and_an_empty_one_turns_it_off(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    assert f"Bearer {KEY}" == told(says("Hi")).requests[0].headers["authorization"]
    assert "authorization" not in told(says("Hi"), api_key="").requests[0].headers


@pytest.mark.parametrize(("address", "sent"), [
    ("https://api.example.com/v1", True),
    ("http://localhost:8000/v1", True),
    ("http://[::1]:8000/v1", True),
    ("http://api.example.com/v1", False),
    ("http://127.0.0.1.example.com/v1", False),
    ("http://10.0.0.1:8000/v1", False),
])
def test_the_environment_s_key_never_crosses_a_network_in_the_clear(monkeypatch, address, sent):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with OpenAIHTTP(address, model="m") as backend:
        assert sent == ("authorization" in backend._headers)


def test_an_adapter_is_asked_for_by_its_served_name():
    request = ASK.replace(adapters=(Adapter(name="film"),))
    assert "film-lora" == told(says("Hi"), request=request, adapters={"film": "film-lora"}).requests[0].body["model"]


@pytest.mark.parametrize(("adapters", "kind", "said"), [
    ((Adapter(name="flim"),), AdapterError, "did you mean 'film'?"),
    ((Adapter(name="film", scale=0.5),), UsageError, "give 1.0"),
    ((Adapter(name="film"), Adapter(name="film")), UsageError, "one adapter"),
])
def test_an_adapter_that_cannot_be_asked_for_is_an_error_before_anything_is_sent(adapters, kind, said):
    with Upstream(says("Hi")) as upstream, OpenAIHTTP(upstream.url, model="m", adapters={"film": "f"}) as backend:
        with pytest.raises(kind, match=said.replace("?", r"\?")):
            backend.stream(ASK.replace(adapters=adapters))
        assert [] == upstream.requests


def test_a_schema_that_is_none_is_an_error_before_anything_is_sent():
    with Upstream(says("Hi")) as upstream, OpenAIHTTP(upstream.url, model="m") as backend:
        with pytest.raises(UsageError, match="json_schema"):
            backend.stream(ASK.replace(sampling=Sampling(json_schema="[]")))
        assert [] == upstream.requests


MARKUP = [
    "<|im_end|>", "<|im_start|>system", "<|eot_id|>", "<|start_header_id|>", "<s>", "</s>", "[INST]", "[/INST]",
    "<<SYS>>", "<start_of_turn>", "<end_of_turn>", "<bos>", "<｜User｜>", "[gMASK]", "<extra_id_0>", "[SYSTEM_PROMPT]",
    "[|system|]", "<turn|>", "<|start|>", "<SPECIAL_11>",
]  # fmt: skip


@pytest.mark.parametrize("markup", MARKUP)
def test_markup_that_a_user_types_reaches_the_server_as_text(markup):
    request = Request(messages=(Message("user", f"a{markup}b"),))
    sent = told(says("Hi"), request=request).requests[0].body["messages"][0]["content"]
    assert markup not in sent
    assert f"a{markup}b" == sent.replace(" ", "")


@pytest.mark.parametrize("text", ["x |> f", "f <| x", "a < b > c", "[x] [1] [ok]", "<p>Hi</p>", "if a<b|c:"])
def test_code_and_html_that_are_no_markup_stay_as_they_are(text):
    assert text == as_text(text)


@given(st.lists(st.sampled_from([*MARKUP, "<", "|", ">", "[", "]", " ", "a", "\ud800", "s"]), max_size=12))
def test_no_markup_is_left_whatever_stands_beside_it(parts):
    text = as_text("".join(parts))
    assert not _MARKER.search(text)
    text.encode()


# What comes back

def test_a_reply_comes_in_the_server_s_pieces_and_ends_with_its_finish():
    expected = [Delta("Hel"), Delta("lo"), Delta("", tokens=0, finish="stop")]
    assert expected == told(says("Hel", "lo")).pieces


@pytest.mark.parametrize(("finish", "expected"), [
    ("stop", "stop"),
    ("length", "length"),
    ("content_filter", "content_filter"),
    ("model_length", "length"),
    ("eos", "stop"),
])
def test_finish_reasons_are_told_in_our_words(finish, expected):
    assert expected == told(says("Hi", finish=finish)).finish


@pytest.mark.parametrize(("pieces", "usage", "total"), [(2, 9, 9), (2, None, 2), (3, 1, 3)])
def test_tokens_add_up_to_the_server_s_count_where_it_gives_one(pieces, usage, total):
    said = told(says(*["x"] * pieces, tokens=usage)).pieces
    assert total == sum(piece.tokens for piece in said)


def test_a_reply_is_whole_once_its_finish_reason_came_whatever_follows():
    whole = [f"data: {json.dumps(part)}\n\n" for part in (chunk("Hi"), chunk(finish="stop"))]
    for ending in ("end", "drop", "reset"):
        said = told(sends(*whole, then=ending))
        assert ("Hi", "stop", None) == (said.text, said.finish, said.error)


def test_a_refusal_of_the_model_s_own_is_text():
    event = f"data: {json.dumps(chunk(refusal='I cannot.'))}\n\n"
    assert "I cannot." == told(sends(event, f"data: {json.dumps(chunk(finish='stop'))}\n\n")).text


def test_reasoning_is_not_part_of_the_reply():
    events = [chunk(reasoning_content="Hm."), chunk(reasoning="Hm."), chunk("Hi"), chunk(finish="stop")]
    assert "Hi" == told(sends(*(f"data: {json.dumps(event)}\n\n" for event in events))).text


def test_half_a_character_becomes_a_whole_one():
    event = b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\n'
    assert "a\ufffd" == told(sends(event, f"data: {json.dumps(chunk(finish='stop'))}\n\n")).text


def test_a_finished_stream_leaves_its_connection_for_the_next():
    with Upstream(says("Hi")) as upstream, OpenAIHTTP(upstream.url, model="m") as backend:
        for _ in range(3):
            list(backend.stream(ASK))
        assert 1 == upstream.connections

    async def main(upstream):
        async with OpenAIHTTP(upstream.url, model="m") as backend:
            for _ in range(3):
                assert [piece async for piece in backend.astream(ASK)]

    with Upstream(says("Hi")) as upstream:
        asyncio.run(main(upstream))
        assert 1 == upstream.connections


@given(st.lists(st.text(min_size=1, max_size=8), max_size=6), st.data())
def test_the_reply_does_not_depend_on_how_its_bytes_are_cut(pieces, data):
    events = [*(chunk(piece) for piece in pieces), chunk(finish="stop")]
    raw = b"".join(b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n" for event in events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    reader = StreamReader(64)
    said = []
    for low, high in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        said += reader.feed(raw[low:high])
    said += reader.end()
    assert [*(Delta(piece) for piece in pieces), Delta("", tokens=0, finish="stop")] == said


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["choices", "delta", "content", "finish_reason", "usage", "error", "index", "tool_calls"]),
        inner, max_size=4), max_leaves=12))
def test_whatever_json_an_event_holds_it_is_read_or_is_a_backend_error(value):
    reader = StreamReader(4)
    try:
        list(reader.feed(b"data: " + json.dumps(value).encode() + b"\n\n"))
        list(reader.end())
    except BackendError:
        pass


# Faults: what the caller sees

EVENT = f"data: {json.dumps(chunk('Hi'))}\n\n"
END = f"data: {json.dumps(chunk(finish='stop'))}\n\n"
FAULTS = {
    "a stream without an end": (sends(EVENT), "Hi", WireError, "without a finish_reason"),
    "only [DONE]": (sends(EVENT, "data: [DONE]\n\n"), "Hi", WireError, "without a finish_reason"),
    "an empty stream": (sends(), "", WireError, "without a finish_reason"),
    "half an event": (sends(EVENT, EVENT[:20]), "Hi", WireError, "in the middle of an event"),
    "a body that stops": (sends(EVENT, then="drop"), "Hi", WireError, "in the middle of the reply"),
    "a reset": (sends(EVENT, then="reset"), "Hi", WireError, "in the middle of the reply"),
    "invalid JSON": (sends(EVENT, "data: {oops\n\n"), "Hi", WireError, "not JSON"),
    "no number": (sends('data: {"a": NaN}\n\n'), "", WireError, "not JSON"),
    "JSON that is no object": (sends("data: [1]\n\n"), "", WireError, "JSON list"),
    "deep JSON": (sends("data: " + "[" * 100_000 + "\n\n"), "", WireError, "not JSON"),
    "not UTF-8": (sends(b"data: \xff\n\n"), "", WireError, "UTF-8"),
    "HTML": (sends("<html>", content_type="text/html"), "", WireError, "text/html"),
    "JSON instead of a stream": (gives({"choices": []}), "", WireError, "not text/event-stream"),
    "no content type": (sends(EVENT, content_type=""), "", WireError, "nothing, not text/event-stream"),
    "compressed": (sends(b"\x1f\x8b", content_encoding="gzip"), "", WireError, "compressed"),
    "an error event": (sends(EVENT, 'data: {"error": {"message": "CUDA"}}\n\n'), "Hi", BackendError, "CUDA"),
    "a named error event": (sends('event: error\ndata: {"message": "full"}\n\n'), "", BackendError, "full"),
    "a tool call": (says("Hi", finish="tool_calls"), "Hi", BackendError, "calls a tool"),
    "an unknown finish": (says("Hi", finish="abort"), "Hi", WireError, "unknown finish_reason abort"),
    "a finish that is no name": (says("Hi", finish={"a": 1}), "Hi", WireError, "(not a name)"),
    "text after the end": (sends(EVENT, END, EVENT), "Hi", WireError, "after the finish_reason"),
    "two choices": (sends('data: {"choices": [{}, {}]}\n\n'), "", WireError, "more than one choice"),
    "another choice": (sends('data: {"choices": [{"index": 1}]}\n\n'), "", WireError, "another choice"),
    "content in parts": (sends(f"data: {json.dumps(chunk([1]))}\n\n"), "", WireError, "content that is a list"),
    "400": (refuses(400, "bad temperature"), "", BackendError, "answered 400: bad temperature. See"),
    "401": (refuses(401, "who are you"), "", BackendError, "OPENAI_API_KEY"),
    "404": (refuses(404, "no such model"), "", BackendError, "model's name"),
    "403 in HTML": (sends("<h1>\n No\x07</h1>", status=403, content_type="text/html"), "", BackendError, "<h1> No </h1>"),
    "a redirect": (sends(status=302, location="http://127.0.0.1:1/v1"), "", BackendError, "not followed"),
    "a wait that is too long": (refuses(429, "slow", retry_after=3600), "", BackendError, "asks to wait 3600 s"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_an_error_after_the_text_before_it_and_is_not_tried_again(fault):
    answer, text, kind, said = FAULTS[fault]
    seen = told(answer)
    assert (text, kind, 1) == (seen.text, seen.kind, len(seen.requests)), seen.error
    assert said in str(seen.error)
    assert "openai_http:m" in str(seen.error)
    assert seen.finish is None


def test_a_redirect_is_not_followed_even_by_a_client_that_would():
    with Upstream(sends(status=307, location="/v1/elsewhere")) as upstream, httpx.Client(follow_redirects=True) as mine:
        with pytest.raises(BackendError, match="not followed"):
            list(OpenAIHTTP(upstream.url, model="m", client=mine).stream(ASK))
        assert 1 == len(upstream.requests)


def test_an_unreachable_server_is_named_with_the_next_step():
    seen = told(says("never"), url=refused_url(), retries=1)
    assert BackendError == seen.kind
    assert "cannot be reached" in str(seen.error)
    assert "Tried 2 times" in str(seen.error)


@pytest.mark.parametrize("answer", [sends(then="hang"), sends(EVENT, then="hang")])
def test_a_silent_server_is_given_up_and_not_asked_again(answer):
    seen = told(answer, timeout=0.2)
    assert (BackendError, 1) == (seen.kind, len(seen.requests))
    assert "silent for 0.2 s" in str(seen.error)


def test_bytes_that_say_nothing_do_not_keep_a_request_alive():
    async def answer(exchange):
        await exchange.head()
        while True:
            await exchange.send(": still here\n\n")
            await asyncio.sleep(0.02)

    seen = told(answer, timeout=0.2)
    assert BackendError == seen.kind
    assert "says nothing" in str(seen.error)


def test_a_refusal_that_trickles_in_is_told_as_far_as_it_came():
    async def answer(exchange):
        await exchange.head(400, "text/plain")
        while True:
            await exchange.send("x")
            await asyncio.sleep(0.02)

    seen = told(answer, timeout=0.2)
    assert (BackendError, 1) == (seen.kind, len(seen.requests))
    assert "answered 400: xx" in str(seen.error)


def test_an_answer_that_hangs_after_its_end_is_given_all_the_same():
    seen = told(sends(EVENT, END, "data: [DONE]\n\n", then="hang"), timeout=0.2)
    assert ("Hi", "stop", None) == (seen.text, seen.finish, seen.error)


def test_a_huge_event_is_cut_off():
    async def answer(exchange):
        await exchange.head()
        for _ in range(50):
            await exchange.send(b"x" * 1_000_000)

    assert (WireError, 1) == ((seen := told(answer)).kind, len(seen.requests))


def test_a_server_that_does_not_keep_to_max_tokens_is_cut_off():
    seen = told(says("x" * LONGEST_TOKEN, "y"), request=SHORT)
    assert ("x" * LONGEST_TOKEN, WireError) == (seen.text, seen.kind)
    assert "max_tokens" in str(seen.error)


def test_a_huge_error_body_is_neither_read_whole_nor_shown_whole():
    async def answer(exchange):
        await exchange.head(400, "text/plain")
        while True:
            await exchange.send(b"x" * 100_000)

    assert 600 > len(str(told(answer).error))


# Trying again

@pytest.mark.parametrize("failure", [
    refuses(429, "busy", retry_after=0),
    refuses(500, "oops"),
    refuses(503, retry_after="Thu, 01 Jan 1970 00:00:00 GMT"),
    refuses(503, retry_after="soon"),
    refuses(522, "the gateway had no answer in time"),
    sends(then="reset"),
    sends(f"data: {json.dumps(chunk('', role='assistant'))}\n\n", then="drop"),
])
def test_a_passing_failure_is_tried_again_while_no_text_came(failure):
    seen = told(failure, failure, says("Hi"))
    assert ("Hi", "stop", 3) == (seen.text, seen.finish, len(seen.requests))
    assert 1 == len({json.dumps(one.body) for one in seen.requests})


def test_a_lasting_failure_is_tried_as_often_as_asked_and_then_told():
    seen = told(refuses(503, "loading"), retries=3)
    assert (BackendError, 4) == (seen.kind, len(seen.requests))
    assert "answered 503: loading. Look at the server's log. Tried 4 times." in str(seen.error)


def test_attempts_are_counted_for_each_request():
    answers = refuses(500), says("a"), refuses(500), says("b")
    with Upstream(*answers) as upstream, OpenAIHTTP(upstream.url, model="m", retries=1) as backend:
        assert ["a", "b"] == ["".join(piece.text for piece in backend.stream(ASK)) for _ in range(2)]


def test_nothing_is_sent_again_after_text():
    seen = told(sends(EVENT, then="reset"), says("Hi"))
    assert ("Hi", WireError, 1) == (seen.text, seen.kind, len(seen.requests))


def test_waits_grow_and_stay_bounded(monkeypatch):
    monkeypatch.setattr(openai_call, "FIRST_WAIT", 0.5)
    target = openai_call.Target(who="m", timeout=1, retries=12)
    call = openai_call.Call(target, lambda dialect: {}, lambda: StreamReader(1))
    waits = [call.again(openai_call.Broken("gone"), 0.0) for _ in range(12)]
    assert all(0.5 * 2**place * 0.5 <= wait or wait >= LONGEST_WAIT / 2 for place, wait in enumerate(waits))
    assert LONGEST_WAIT * 1.5 >= max(waits)
    with pytest.raises(BackendError, match="Tried 13 times"):
        call.again(openai_call.Broken("gone"), 0.0)


@pytest.mark.parametrize(("status", "said", "changed"), [
    (400, "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", "max_tokens"),
    (422, '[{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]', "stream_options"),
])
def test_a_field_that_a_vendor_refuses_is_said_its_way_from_then_on(status, said, changed):
    answers = refuses(status, said), says("Hi")
    with Upstream(*answers) as upstream, OpenAIHTTP(upstream.url, model="m", retries=0) as backend:
        assert 2 == len([list(backend.stream(ASK)) for _ in range(2)])
    assert [True, False, False] == [changed in seen.body for seen in upstream.requests]
    if changed == "max_tokens":
        assert 256 == upstream.requests[-1].body["max_completion_tokens"]


def test_a_vendor_that_refuses_both_ways_is_not_asked_for_ever():
    seen = told(refuses(400, "max_completion_tokens, stream_options"))
    assert (BackendError, 3) == (seen.kind, len(seen.requests))


@pytest.mark.parametrize(("error", "tokens", "budget"), [
    ({"code": "context_length_exceeded", "message": "This model's maximum context length is 8192 tokens. However, your "
      "messages resulted in 9000 tokens."}, 9000, 8192),
    ({"message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"}, 5000, 4096),
    ({"type": "exceed_context_size_error", "message": "too large", "n_prompt_tokens": 70, "n_ctx": 64}, 70, 64),
    ({"code": "context_length_exceeded", "message": "too long"}, 0, 0),
])
def test_a_prompt_that_does_not_fit_is_told_as_such(error, tokens, budget):
    seen = told(refuses(400, error=error))
    assert (PromptTooLong, tokens, budget) == (seen.kind, seen.error.tokens, seen.error.budget)


# Closing

def test_closing_the_iterator_closes_the_connection_at_once():
    with Upstream(sends(EVENT, then="hang")) as upstream, OpenAIHTTP(upstream.url, model="m") as backend:
        stream = backend.stream(ASK)
        assert "Hi" == next(stream).text
        stream.close()
        assert upstream.left.wait(PATIENCE)
        assert upstream.wait_for_open(0)


def test_closing_the_awaited_iterator_closes_the_connection_at_once():
    async def main(upstream, backend):
        stream = backend.astream(ASK)
        assert "Hi" == (await anext(stream)).text
        await stream.aclose()
        assert await asyncio.to_thread(upstream.left.wait, PATIENCE)
        await backend.aclose()

    with Upstream(sends(EVENT, then="hang")) as upstream:
        asyncio.run(main(upstream, OpenAIHTTP(upstream.url, model="m")))
        assert upstream.wait_for_open(0)


@pytest.mark.parametrize("answer", [sends(then="hang"), sends(EVENT, then="hang"), lambda exchange: exchange.hang()])
def test_cancelling_closes_the_connection_wherever_it_waits(answer):
    async def main(upstream, backend):
        async def consume():
            async for _ in backend.astream(ASK):
                pass

        task = asyncio.create_task(consume())
        assert await asyncio.to_thread(upstream.hanging.wait, PATIENCE)
        task.cancel()
        assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
        assert await asyncio.to_thread(upstream.left.wait, PATIENCE)
        assert {asyncio.current_task()} == asyncio.all_tasks()
        await backend.aclose()

    with Upstream(answer) as upstream:
        asyncio.run(main(upstream, OpenAIHTTP(upstream.url, model="m")))
        assert upstream.wait_for_open(0)


def test_an_iterator_that_nobody_began_sends_nothing():
    with Upstream(says("Hi")) as upstream, OpenAIHTTP(upstream.url, model="m") as backend:
        backend.stream(ASK).close()
        assert [] == upstream.requests


def test_one_backend_serves_one_event_loop_after_another_and_leaves_nothing_in_any():
    async def main(backend):
        return [piece async for piece in backend.astream(ASK)]  # without a word about closing

    with Upstream(says("Hi")) as upstream:
        backend = OpenAIHTTP(upstream.url, model="m")
        for _ in range(3):
            assert "Hi" == asyncio.run(main(backend))[0].text
            assert upstream.wait_for_open(0)
        assert {} == dict(backend._loops._kept)
        backend.close()


def test_a_closed_backend_says_so():
    with Upstream(says("Hi")) as upstream:
        backend = OpenAIHTTP(upstream.url, model="m")
        backend.close()
        backend.close()
        with pytest.raises(BackendError, match="was closed"):
            list(backend.stream(ASK))
        with pytest.raises(BackendError, match="was closed"):
            run_async(backend, ASK, [])


@pytest.mark.parametrize("answer", [sends(then="hang"), sends(EVENT, then="hang"), lambda exchange: exchange.hang()])
def test_closing_while_a_request_waits_ends_it_as_an_error_of_the_backend(answer):
    async def closing(upstream, backend):
        async def all_of_it():
            return [piece async for piece in backend.astream(ASK)]

        task = asyncio.ensure_future(all_of_it())
        assert await asyncio.to_thread(upstream.hanging.wait, PATIENCE)
        await backend.aclose()
        with pytest.raises(BackendError):
            await task

    with Upstream(answer) as upstream:
        asyncio.run(closing(upstream, OpenAIHTTP(upstream.url, model="m")))
        assert upstream.wait_for_open(0)
    with Upstream(answer) as upstream, ThreadPoolExecutor(1) as pool:
        backend = OpenAIHTTP(upstream.url, model="m", timeout=0.5)
        job = pool.submit(lambda: list(backend.stream(ASK)))
        assert upstream.hanging.wait(PATIENCE)
        backend.close()  # a thread in recv() finds out when its time is up
        with pytest.raises(BackendError):
            job.result(PATIENCE)
        assert upstream.wait_for_open(0)


# Many at once

def echo(exchange):
    said = exchange.seen.body["messages"][-1]["content"]
    return says(*said, tokens=len(said))(exchange)


def asks(number):
    return Request(messages=(Message("user", f"number {number}"),))


def test_sixteen_threads_each_get_their_own_reply():
    with Upstream(echo) as upstream, OpenAIHTTP(upstream.url, model="m") as backend:
        together = threading.Barrier(16)

        def one(number):
            together.wait(PATIENCE)
            return "".join(piece.text for piece in backend.stream(asks(number)))

        with ThreadPoolExecutor(16) as pool:
            assert [f"number {number}" for number in range(16)] == list(pool.map(one, range(16)))
        backend.close()
        assert upstream.wait_for_open(0)


def test_sixteen_event_loops_at_a_time_each_get_their_own_reply():
    with Upstream(echo) as upstream:
        backend, together = OpenAIHTTP(upstream.url, model="m"), threading.Barrier(16)

        def one(number):
            async def main():
                together.wait(PATIENCE)
                return "".join([piece.text async for piece in backend.astream(asks(number))])

            return asyncio.run(main())

        with ThreadPoolExecutor(16) as pool:
            assert [f"number {number}" for number in range(16)] == list(pool.map(one, range(16)))
        assert ({}, True) == (dict(backend._loops._kept), upstream.wait_for_open(0))
        backend.close()


def test_sixteen_tasks_each_get_their_own_reply():
    async def one(backend, number):
        return "".join([piece.text async for piece in backend.astream(asks(number))])

    async def main(url):
        async with OpenAIHTTP(url, model="m") as backend:
            return await asyncio.gather(*(one(backend, number) for number in range(16)))

    with Upstream(echo) as upstream:
        assert [f"number {number}" for number in range(16)] == asyncio.run(main(upstream.url))
        assert upstream.wait_for_open(0)


# The key

ECHOES = {
    "error": refuses(401, f"Incorrect API key provided: {KEY}"),
    "error, long": refuses(400, "x" * 290 + KEY),
    "error as text": sends(f"no {KEY}", status=403, content_type="text/plain"),
    "stream": sends(f'data: {json.dumps({"error": {"message": f"key {KEY}"}})}\n\n'),
    "redirect": sends(status=302, location=f"http://127.0.0.1/{KEY}"),
    "content type": sends(content_type=f"text/{KEY}"),
    "finish": says("Hi", finish=KEY),
    "broken head": lambda exchange: exchange.raw(f"{KEY}\r\n\r\n".encode()),
    "not JSON": sends(f"data: {KEY}\n\n"),
}


@pytest.mark.parametrize("place", ECHOES)
def test_the_key_is_in_no_error_even_where_the_server_repeats_it(place, caplog):
    caplog.set_level(logging.DEBUG)
    seen = told(ECHOES[place], api_key=KEY, retries=0)
    assert isinstance(seen.error, BackendError)
    shown = "".join(traceback.format_exception(seen.error)) + repr(seen.error) + "".join(map(str, seen.error.args))
    for start in range(0, len(KEY) - 12, 4):
        assert KEY[start : start + 12] not in shown
    # httpcore logs the heads that a server sends, at level DEBUG; what we send it does not.
    assert [] == [line for line in caplog.messages if KEY in line and not line.startswith("receive_response_headers")]


def test_the_key_is_in_no_repr():
    with OpenAIHTTP("https://api.example.com/v1", model="m", api_key=KEY) as backend:
        assert "OpenAIHTTP('https://api.example.com/v1', model='m')" == repr(backend)
        assert KEY not in repr(vars(backend)).replace("repr=False", "")
        assert KEY not in backend.name


@pytest.mark.parametrize("key", ["sk-a b", "sk-\nx", "sk-\x00", "sk-é"])
def test_a_key_that_no_header_may_hold_is_refused_without_being_shown(key):
    with pytest.raises(UsageError) as raised:
        OpenAIHTTP("https://api.example.com/v1", model="m", api_key=key)
    assert key not in str(raised.value)


def test_a_key_of_a_client_of_yours_is_kept_out_of_errors_too():
    headers = {"authorization": f"Bearer {KEY}"}
    with Upstream(refuses(401, f"bad {KEY}")) as upstream, httpx.Client(headers=headers) as mine:
        stream = OpenAIHTTP(upstream.url, model="m", client=mine).stream(ASK)
        with pytest.raises(BackendError) as raised:
            list(stream)
    assert f"Bearer {KEY}" == upstream.requests[0].headers["authorization"]
    assert KEY not in str(raised.value)


# Making one

def test_a_backend_is_made_by_name():
    with backends.make("openai_http:http://127.0.0.1:8000/v1/#meta/llama:8b", adapters={"a": "b"}) as backend:
        assert ("openai_http:meta/llama:8b", ("a",)) == (backend.name, backend.capabilities.adapters)
        assert "http://127.0.0.1:8000/v1/chat/completions" == backend._url
        assert isinstance(backend, Backend)
        assert isinstance(backend, AsyncBackend)
        assert isinstance(backend, Scorer)
        assert not backend.capabilities.logprobs


@pytest.mark.parametrize(("spec", "options", "kind", "said"), [
    ("openai_http", {}, UsageError, "openai_http:http://127.0.0.1:8000/v1#model-name"),
    ("openai_http:http://127.0.0.1:8000/v1", {}, UsageError, "needs an address and a model"),
    ("openai_http:#m", {}, UsageError, "needs an address and a model"),
    ("openai_http:ftp://x#m", {}, UsageError, "http://"),
    ("openai_http:localhost:8000#m", {}, UsageError, "http://"),
    ("openai_http:http://x:pass@y/v1#m", {}, UsageError, "api_key="),
    ("openai_http:http://y/v1?key=pass#m", {}, UsageError, "client="),
    ("openai_http:http://me:pass/@y#m", {}, UsageError, "cannot be read"),
    ("openai_http:http://y#m", {"timout": 1}, UnknownName, "'timeout'"),
    ("openai_http:http://y#m", {"timeout": 0}, UsageError, "above 0"),
    ("openai_http:http://y#m", {"retries": -1}, UsageError, "from 0 on"),
    ("openai_http:http://y#m", {"client": 1}, UsageError, "httpx.Client"),
])
def test_a_bad_spec_is_told_with_the_next_step(spec, options, kind, said):
    with pytest.raises(kind) as raised:
        backends.make(spec, **options)
    assert said in str(raised.value)
    assert "pass" not in str(raised.value)


def test_your_own_clients_are_used_and_stay_open():
    async def main(url):
        async with httpx.AsyncClient(headers={"x-mine": "async"}) as mine:
            async with OpenAIHTTP(url, model="m", async_client=mine) as backend:
                assert [piece async for piece in backend.astream(ASK)]
                with pytest.raises(UsageError, match="client="):
                    list(backend.stream(ASK))
            assert not mine.is_closed

    with Upstream(says("Hi")) as upstream:
        with httpx.Client(headers={"x-mine": "sync"}) as mine:
            with OpenAIHTTP(upstream.url, model="m", client=mine) as backend:
                list(backend.stream(ASK))
                with pytest.raises(UsageError, match="async_client="):
                    run_async(backend, ASK, [])
            assert not mine.is_closed
        asyncio.run(main(upstream.url))
        assert ["sync", "async"] == [seen.headers["x-mine"] for seen in upstream.requests]


# Probabilities and counts

def scoring(*answers, **options):
    upstream = Upstream(*answers)
    return upstream, lambda: OpenAIHTTP(upstream.url, **{"model": "m", "logprobs": True, **options})


def test_next_token_probabilities_come_from_one_token_with_its_alternatives():
    upstream, make = scoring(scored(Yes=-0.1, No=-2.5))
    with upstream, make() as backend:
        assert {"Yes": -0.1, "No": -2.5} == backend.next_logprobs(ASK, top=64)
        assert {"Yes": -0.1} == backend.next_logprobs(ASK, top=1)
        first, second = (seen.body for seen in upstream.requests)
    assert (20, 1) == (first.pop("top_logprobs"), second.pop("top_logprobs"))
    expected = {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there."}],
        "temperature": 0.0,
        "top_p": 1.0,
        "max_tokens": 1,
        "logprobs": True,
    }
    assert expected == first == second


def test_a_prompt_s_length_is_what_the_server_counts():
    upstream, make = scoring(scored(Yes=-0.1))
    with upstream, make() as backend:
        assert 42 == backend.count_tokens(ASK)
        assert "logprobs" not in upstream.requests[0].body


def candidates(*top):
    return gives({"choices": [{"logprobs": {"content": [{"top_logprobs": list(top)}]}}]})


@pytest.mark.parametrize(("answer", "kind", "said"), [
    (gives({"choices": [{"message": {"content": "Yes"}}]}), BackendError, "logprobs=False"),
    (gives({"choices": [{"logprobs": None}]}), BackendError, "logprobs=False"),
    (gives({"choices": []}), BackendError, "logprobs=False"),
    (gives({"choices": 3}), BackendError, "logprobs=False"),
    (candidates(), BackendError, "logprobs=False"),
    (candidates({"token": "Yes"}), WireError, "without"),
    (candidates({"token": "Yes", "logprob": "-1"}), WireError, "without"),
    (candidates({"token": "Yes", "logprob": 5.0}), WireError, "without"),
    (candidates({"bytes": 10**12, "logprob": -1.0}), WireError, "without"),
    (candidates("Yes"), WireError, "without"),
    (candidates({"token": "Yes", "logprob": float("nan")}), WireError, "not JSON"),
    (sends("x" * (LARGEST_BODY + 1), content_type="application/json"), WireError, "larger than"),
    (sends("[]", content_type="application/json"), WireError, "JSON list"),
    (sends("{}"), WireError, "not application/json"),
    (sends("{", then="hang", content_type="application/json"), BackendError, "silent"),
    (refuses(400, "logprobs are not allowed"), BackendError, "not allowed"),
])
def test_probabilities_that_are_none_are_an_error(answer, kind, said):
    upstream, make = scoring(answer, timeout=0.5, retries=0)
    with upstream, make() as backend, pytest.raises(kind, match=said) as raised:
        backend.next_logprobs(ASK)
    assert kind is type(raised.value)


def test_pieces_of_a_character_count_together_and_the_unlikeliest_do_no_harm():
    pieces = [{"token": "?", "bytes": [byte], "logprob": logprob} for byte, logprob in ((0xC3, -0.7), (0xC4, -9999.0))]
    upstream, make = scoring(candidates(*pieces))
    with upstream, make() as backend:
        assert {"\ufffd": -0.7} == backend.next_logprobs(ASK)


def test_a_server_that_does_not_count_is_an_error():
    upstream, make = scoring(gives({"choices": []}))
    with upstream, make() as backend, pytest.raises(BackendError, match="usage"):
        backend.count_tokens(ASK)


# As a judge's model, and under a guard

CASE = Case(config=risks_config(), stage="input", text="Hello there.")


def test_the_model_judge_reads_log_odds_where_the_server_gives_them():
    upstream, make = scoring(scored(Yes=-0.05, No=-3.0, Maybe=-9.0))
    with upstream, make() as backend:
        verdict = ModelJudge(backend).judge(CASE)
    assert 0.95 == round(verdict.score, 2)
    assert 1 == upstream.requests[0].body["max_tokens"]


def test_the_model_judge_reads_json_elsewhere():
    answer = says('{"breaks": ', 'true, "reason": "it does"}')
    with Upstream(answer) as upstream, OpenAIHTTP(upstream.url, model="m") as backend:
        verdict = ModelJudge(backend).judge(CASE)
    assert (1.0, True) == (verdict.score, "it does" in verdict.reason)
    sent = upstream.requests[0].body
    assert ["breaks", "reason"] == sent["response_format"]["json_schema"]["schema"]["required"]


def test_the_model_judge_answers_no_nonsense():
    with Upstream(says("I would say no.")) as upstream, OpenAIHTTP(upstream.url, model="m") as backend:
        judge = ModelJudge(backend)
        with pytest.raises(JudgeError, match="not the JSON"):
            judge.judge(CASE)


def guarded(upstream, **options):
    return Guard(risks_config(), judge=OwnJudge(), backend=OpenAIHTTP(upstream.url, model="m", **options))


def test_a_guard_replies_over_it_blocking_and_awaited():
    with Upstream(says("Hello ", "there.", tokens=5)) as upstream:
        guard = guarded(upstream)
        blocking = guard.reply("Hi.")
        awaited = asyncio.run(guard.areply("Hi."))
        assert ("Hello there.", "stop", 5) == (blocking.text, blocking.finish, blocking.usage.completion_tokens)
        assert (blocking.text, blocking.finish) == (awaited.text, awaited.finish)
        guard.backend.close()


def test_a_guard_s_stream_that_is_closed_leaves_the_server():
    async def main(guard):
        stream = guard.astream("Hi.")
        await anext(stream)
        await stream.aclose()

    event = f"data: {json.dumps(chunk('One sentence. And two. ' * 4))}\n\n"
    for run in (lambda guard: asyncio.run(main(guard)), lambda guard: (stream := guard.stream("Hi."), next(stream), stream.close())):
        with Upstream(sends(event, event, then="hang")) as upstream:
            guard = guarded(upstream)
            run(guard)
            assert upstream.left.wait(PATIENCE)
            assert upstream.wait_for_open(0)
            guard.backend.close()


def test_a_guard_shows_its_caller_a_failing_server_as_a_backend_error():
    with Upstream(refuses(503, "down")) as upstream:
        guard = guarded(upstream, retries=0)
        with pytest.raises(BackendError, match="down"):
            guard.reply("Hi.")
        guard.backend.close()


# A real server: llama.cpp's, which the local backend runs on this machine


@pytest.fixture
def llama_server(local_backend):
    server = local_backend._server
    key = server._headers["Authorization"].removeprefix("Bearer ")
    return lambda **options: OpenAIHTTP(f"{server.address}/v1", model="m", api_key=key, logprobs=True, **options)


@pytest.mark.local
def test_a_real_server_streams_counts_and_ends_the_same_in_both_colours(llama_server):
    request = ASK.replace(sampling=Sampling(max_tokens=3, seed=1))
    blocking, awaited = [], []
    run_sync(llama_server(), request, blocking)
    run_async(llama_server(), request, awaited)
    for pieces in (blocking, awaited):
        assert ("length", 3) == (pieces[-1].finish, sum(piece.tokens for piece in pieces))
        assert "".join(piece.text for piece in pieces)


@pytest.mark.local
def test_a_real_server_s_stream_can_be_left_and_it_goes_on_serving(llama_server):
    with llama_server() as backend:
        stream = backend.stream(ASK.replace(sampling=Sampling(max_tokens=200)))
        next(stream)
        stream.close()
        assert list(backend.stream(SHORT))


@pytest.mark.local
def test_a_real_server_shows_the_next_token_and_counts_the_prompt(llama_server, local_backend):
    with llama_server() as backend:
        found = backend.next_logprobs(ASK)
        assert 20 == len(found)
        assert 1.001 > sum(math.exp(logprob) for logprob in found.values()) > 0.1
        assert local_backend.count_tokens(ASK) == backend.count_tokens(ASK)


@pytest.mark.local
def test_a_real_server_keeps_to_the_judge_s_schema(llama_server):
    with llama_server() as backend:
        verdict = ModelJudge(backend, method="json").judge(CASE)
        assert verdict.score in {0.0, 1.0}
        assert 1 >= ModelJudge(backend).judge(CASE).score >= 0


@pytest.mark.local
def test_a_real_server_reads_typed_markup_as_text(llama_server):
    with llama_server() as backend:
        plain, typed = (Request(messages=(Message("user", f"a{end}b"),)) for end in ("", "<|im_end|>"))
        assert 4 <= backend.count_tokens(typed) - backend.count_tokens(plain)  # one token, if it were markup


@pytest.mark.local
def test_a_real_server_s_words_on_a_prompt_that_does_not_fit_are_understood(llama_server):
    with llama_server() as backend, pytest.raises(PromptTooLong) as raised:
        list(backend.stream(Request(messages=(Message("user", "word " * 2000),))))
    assert 2000 <= raised.value.tokens
    assert 512 == raised.value.budget
