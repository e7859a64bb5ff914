from __future__ import annotations

import json

import pytest
from tests.guard.server.serving import FILM, film, serving, write

from cosa_guard.exchange import Head, Outgoing
from cosa_guard.messages import Delta
from cosa_guard.server.local import LocalUpstream
from cosa_guard.server.upstream import UpstreamError
from cosa_guard.testing import FakeBackend
from cosa_sdk.errors import BackendError, PromptTooLong

HELLO = [{"role": "system", "content": "Rules."}, {"role": "user", "content": "Hello."}]


def asked(backend, *, stream=False, **fields):
    body = {"model": "m", "messages": HELLO, "stream": stream, **fields}
    head, *pieces = LocalUpstream(backend).stream(Outgoing("/chat/completions", json.dumps(body).encode(), stream))
    return head, b"".join(pieces)


def events(body):
    rows = [row.removeprefix("data: ") for row in body.decode().split("\n\n") if row]
    assert "[DONE]" == rows.pop()
    return [json.loads(row) for row in rows]


class Counting(FakeBackend):
    def count_tokens(self, request):
        return 7

    def next_logprobs(self, request, *, top=64):
        return {}


def test_a_whole_reply():
    head, body = asked(Counting(["Good ", "day."]))
    reply = json.loads(body)

    assert 200 == head.status
    assert ("Good day.", "stop") == (reply["choices"][0]["message"]["content"], reply["choices"][0]["finish_reason"])
    assert {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9} == reply["usage"]


def test_a_stream_with_usage():
    head, body = asked(Counting(["Good ", "day."]), stream=True, stream_options={"include_usage": True})
    given = events(body)

    assert (("content-type", "text/event-stream"),) == head.headers
    assert "Good day." == "".join(event["choices"][0]["delta"].get("content", "") for event in given if event["choices"])
    assert "stop" == given[-2]["choices"][0]["finish_reason"]
    assert 9 == given[-1]["usage"]["total_tokens"]


def test_what_the_request_says_reaches_the_model():
    backend = FakeBackend("x")
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    asked(backend, temperature=0.5, top_p=0.9, max_completion_tokens=5, seed=3, stop="\n", response_format=schema)
    sampling = backend.requests[0].sampling

    assert (0.5, 0.9, 5, 3, ("\n",), '{"type": "object"}') == (
        sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.seed, sampling.stop, sampling.json_schema,
    )  # fmt: skip
    assert ["Rules.", "Hello."] == [message.content for message in backend.requests[0].messages]


@pytest.mark.parametrize("fields", [
    {"n": 2}, {"tools": [{"type": "function"}]}, {"logprobs": True}, {"response_format": {"type": "x"}}, {"temperature": 9}, {"stop": [1]}, {"messages": []},
    {"max_tokens": -1}, {"messages": [{"role": "x", "content": "a"}]}, {"stop": 5}, {"stop": {"a": 1}}, {"stop": [""]}, {"stream_options": "x"},
    {"stream_options": [1]}, {"seed": "x"}, {"seed": -1}, {"seed": 10**30}, {"seed": True}, {"top_p": []}, {"temperature": "x"},
])
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_local_model_cannot_do_is_said(fields, stream):
    head, body = asked(FakeBackend("x"), stream=stream, **fields)

    assert (400, "unsupported_value") == (head.status, json.loads(body)["error"]["code"])


def test_a_prompt_that_is_too_long_is_400():
    def script(request):
        raise PromptTooLong("9 tokens, and the context has 8", tokens=9, budget=8)

    head, body = asked(FakeBackend(script))

    assert (400, "context_length_exceeded") == (head.status, json.loads(body)["error"]["code"])


def test_a_model_that_fails_is_an_upstream_that_fails():
    def script(request):
        raise BackendError("out of memory")

    with pytest.raises(UpstreamError, match="out of memory"):
        asked(FakeBackend(script))


def test_closing_stops_the_model():
    backend = FakeBackend(["a "] * 100)
    stream = LocalUpstream(backend).stream(Outgoing("/chat/completions", json.dumps({"messages": HELLO}).encode(), True))

    assert isinstance(next(stream), Head)
    next(stream)
    next(stream)
    stream.close()
    assert (1, True) == (backend.closed, backend.pulled < 5)


@pytest.mark.parametrize("stream", [False, True])
def test_a_local_model_is_served_under_the_guard(upstream, tmp_path, stream, monkeypatch):
    from cosa_guard import backends

    class Said(FakeBackend):
        def stream(self, request):
            for piece in ("We open", " at nine. ", "Not zorkblat."):
                yield Delta(piece)
            yield Delta("", finish="stop")

    monkeypatch.setattr(backends, "make", lambda spec: Said())
    path = write(tmp_path, upstream, tenants=[film(upstream="laptop")])
    path.write_text(path.read_text().replace("upstreams:", "upstreams:\n- {kind: local, name: laptop}"))
    with serving(path) as proxy:
        answer = proxy.chat(key=FILM, stream=stream)

    assert 200 == answer.status
    assert b"zorkblat" not in answer.body
    assert b"content_filter" in answer.body
    assert [] == upstream.seen
