"""The real SDK clients, guarded: what they give is what their users expect, and blocks come in their own words."""

from __future__ import annotations

import json

import pytest
from tests.guard.backends.upstream import gives, refuses, sends
from tests.guard.build import terms_config
from tests.guard.transport.clients import (
    CHAT,
    MESSAGES,
    REFUSAL,
    RESPONSES,
    WORD,
    answering,
    both,
    entered,
    every,
    every_protocol,
    guarded,
    made,
    needs,
    settled,
)
from tests.guard.transport.scenarios import FORBIDDEN, LONG, answer_type, every_basic, every_helper, every_n


@every_protocol
@every_basic
@both
async def test_the_basics(protocol, basic, awaited):
    await basic(guarded, protocol, awaited)


@every_protocol
@both
async def test_the_upstream_reads_the_config_first(protocol, awaited):
    guard = made()
    async with guarded(protocol, awaited, gives(protocol.body("Fine.")), guard=guard) as (client, upstream):
        await protocol.whole(client)
    body = upstream.requests[0].body
    system = {"chat": lambda: body["messages"][0]["content"], "responses": lambda: body["instructions"], "messages": lambda: body["system"]}[protocol.name]()

    assert guard.policy.system in (system if isinstance(system, str) else system[0]["text"])


# --- what is stopped ---


@every_protocol
@both
async def test_an_honest_chat_goes_on_after_a_refusal(protocol, awaited):
    name = "input" if protocol is RESPONSES else "messages"
    async with guarded(protocol, awaited, answering(protocol, "Fine.")) as (client, upstream):
        said = await protocol.whole(client, f"A {WORD}?")
        turns = [*protocol.messages(f"A {WORD}?"), {"role": "assistant", "content": said.text}, *protocol.messages("Go on.")]
        after = await protocol.whole(client, **{name: turns})
    sent = [turn for turn in upstream.requests[0].body[name] if turn["role"] != "system"]

    assert ("Fine.", 3, False) == (after.text, len(sent), WORD in json.dumps(sent))


@every_n
@both
async def test_of_two_replies_each_is_guarded_on_its_own(protocol, of_two, awaited):
    await of_two(guarded, protocol, awaited)


# --- tools ---

@needs("openai")
@both
async def test_parallel_tool_calls_come_through_and_so_do_their_results(awaited):
    async with guarded(CHAT, awaited, gives(CHAT.calling("here", "there")), gives(CHAT.body("Fine."))) as (client, upstream):
        asked = (await CHAT.whole(client, tools=CHAT.tools)).raw.choices[0].message
        results = [{"role": "tool", "tool_call_id": call.id, "content": "Nothing."} for call in asked.tool_calls]
        turns = [*CHAT.messages("Hi."), asked.model_dump(exclude_none=True), *results]
        after = await CHAT.whole(client, messages=turns, tools=CHAT.tools)
    sent = upstream.requests[1].body["messages"]

    assert ("Fine.", ["system", "user", "assistant", "tool", "tool"]) == (after.text, [turn["role"] for turn in sent])
    assert CHAT.calling("here", "there")["choices"][0]["message"]["tool_calls"] == sent[2]["tool_calls"]


@needs("openai")
@both
async def test_a_bad_tool_result_is_refused(awaited):
    turns = [*CHAT.messages("Hi."), {"role": "assistant", "content": None, "tool_calls": CHAT.calling("here")["choices"][0]["message"]["tool_calls"]},
             {"role": "tool", "tool_call_id": "call_0", "content": f"It says {WORD}."}]
    async with guarded(CHAT, awaited, gives(CHAT.body("Fine."))) as (client, upstream):
        said = await CHAT.whole(client, messages=turns, tools=CHAT.tools)

    assert (REFUSAL, []) == (said.text, upstream.requests)


# --- errors ---


@every_protocol
@both
@pytest.mark.parametrize(
    ("status", "named"),
    [(400, "BadRequestError"), (401, "AuthenticationError"), (404, "NotFoundError"), (429, "RateLimitError"), (500, "InternalServerError")],
)
async def test_the_upstream_s_errors_are_the_sdk_s_own(protocol, awaited, status, named):
    error = {"type": "error", "error": {"message": "not like that", "type": "t"}}
    script = sends(json.dumps(error), status=status, content_type="application/json", x_request_id="req_7", request_id="req_7", retry_after="9", set_cookie="a=b")
    async with guarded(protocol, awaited, script) as (client, upstream):
        with pytest.raises(Exception, match="not like that") as caught:
            await protocol.whole(client)
    raised = caught.value

    assert (named, status, "req_7", 1) == (type(raised).__name__, raised.status_code, raised.request_id, len(upstream.requests))
    assert ("9", None) == (raised.response.headers.get("retry-after"), raised.response.headers.get("set-cookie"))


@every_protocol
@both
@pytest.mark.parametrize("status", [429, 500])
async def test_the_sdk_s_own_retries_reach_the_upstream(protocol, awaited, status):
    again = refuses(status, "later", retry_after_ms="1", retry_after="0.001")
    async with guarded(protocol, awaited, again, again, gives(protocol.body("Fine.")), max_retries=2) as (client, upstream):
        said = await protocol.whole(client)

    assert ("Fine.", 3) == (said.text, len(upstream.requests))
    assert ["1", "2"] == [seen.headers.get("x-stainless-retry-count") for seen in upstream.requests[1:]]


@every_protocol
@both
@pytest.mark.parametrize("stream", [False, True])
async def test_a_time_out_is_the_sdk_s_own(protocol, awaited, stream):
    async with guarded(protocol, awaited, lambda exchange: exchange.hang(), timeout=0.2) as (client, upstream):
        with pytest.raises(Exception) as caught:
            await (protocol.streamed if stream else protocol.whole)(client)
        assert upstream.wait_for_open(0)

    assert ("APITimeoutError", 1) == (type(caught.value).__name__, len(upstream.requests))


@every_protocol
@both
async def test_the_guard_s_own_failures_are_not_tried_again(protocol, awaited):
    async with guarded(protocol, awaited, gives({"nonsense": True}), max_retries=2) as (client, upstream):
        with pytest.raises(Exception) as caught:
            await protocol.whole(client)

    assert (424, 1) == (caught.value.status_code, len(upstream.requests))


# --- the SDKs' higher forms ---


@every_helper
@both
async def test_the_sdk_s_helpers_say_that_it_was_refused(protocol, helper, awaited):
    async with guarded(protocol, awaited, answering(protocol, FORBIDDEN)) as (client, _):
        seen = await helper(client)

    assert WORD not in repr(seen)


@needs("openai")
@both
async def test_what_passes_is_parsed(awaited):
    answer = answering(CHAT, json.dumps({"word": "fine"}))
    async with guarded(CHAT, awaited, answer) as (client, _):
        options = {"model": "m", "messages": CHAT.messages("Hi."), "response_format": answer_type()}
        whole = await settled(client.chat.completions.parse(**options))
        async with entered(client.chat.completions.stream(**options)) as stream:
            streamed = await settled(stream.get_final_completion())

    assert ["fine"] * 2 == [one.choices[0].message.parsed.word for one in (whole, streamed)]


@needs("openai")
@both
async def test_what_passes_is_parsed_by_responses(awaited):
    async with guarded(RESPONSES, awaited, answering(RESPONSES, json.dumps({"word": "fine"}))) as (client, _):
        whole = await settled(client.responses.parse(model="m", input="Hi.", text_format=answer_type()))
        async with entered(client.responses.stream(model="m", input="Hi.", text_format=answer_type())) as stream:
            streamed = await settled(stream.get_final_response())

    assert ["fine"] * 2 == [one.output_parsed.word for one in (whole, streamed)]


@needs("anthropic")
@both
async def test_what_passes_is_parsed_by_messages(awaited):
    async with guarded(MESSAGES, awaited, answering(MESSAGES, json.dumps({"word": "fine"}))) as (client, _):
        options = {"model": "m", "max_tokens": 9, "messages": MESSAGES.messages("Hi."), "output_format": answer_type()}
        whole = await settled(client.messages.parse(**options))
        async with entered(client.messages.stream(**options)) as stream:
            streamed = await settled(stream.get_final_message())

    assert ["fine"] * 2 == [one.parsed_output.word for one in (whole, streamed)]


@needs("anthropic")
@both
async def test_the_stream_of_messages_cannot_parse_a_refusal(awaited):
    """The SDK parses each block of text, an empty one too."""
    import pydantic

    async with guarded(MESSAGES, awaited, sends(*MESSAGES.events(FORBIDDEN))) as (client, _):
        stream = client.messages.stream(model="m", max_tokens=9, messages=MESSAGES.messages("Hi."), output_format=answer_type())
        async with entered(stream) as events:
            with pytest.raises(pydantic.ValidationError) as caught:
                await every(events)

    assert WORD not in str(caught.value)


@every_protocol
@both
async def test_raw_responses_have_what_their_readers_ask_for(protocol, awaited):
    digest = made().config.digest
    async with guarded(protocol, awaited, gives(protocol.body("Fine.")), gives(protocol.body(f"A {WORD}."))) as (client, _):
        source = {"chat": lambda: client.chat.completions, "responses": lambda: client.responses, "messages": lambda: client.messages}[protocol.name]()
        raw, refused = [await settled(protocol.call(_Raw(source, protocol.name))) for _ in range(2)]

    assert (200, digest, "pass") == (raw.status_code, raw.headers["x-cosa-config"], raw.headers["x-cosa-act"])
    assert (200, digest, "refuse") == (refused.status_code, refused.headers["x-cosa-config"], refused.headers["x-cosa-act"])
    assert raw.elapsed.total_seconds() > 0


class _Raw:
    """A client whose calls give raw responses."""

    def __init__(self, source, name):
        inner = source.with_raw_response
        self.responses = self.messages = inner
        self.chat = type("Chat", (), {"completions": inner})


@every_protocol
@both
async def test_reports_come_when_a_call_has_ended(protocol, awaited):
    reports = []
    async with guarded(protocol, awaited, answering(protocol, f"A {WORD}."), wrapping={"on_report": reports.append}) as (client, _):
        await protocol.whole(client)
        await protocol.streamed(client)
        await protocol.whole(client, WORD)

    assert ["refuse"] * 3 == [report.act for report in reports]
    assert [1, 1, 0] == [report.candidates for report in reports]


@every_protocol
@both
async def test_redacted_streams_read_well(protocol, awaited):
    async with guarded(protocol, awaited, answering(protocol, f"{LONG}A {WORD} here."), guard=made(terms_config(WORD, output="redact"))) as (client, _):
        said = await protocol.streamed(client)
        whole = await protocol.whole(client)

    assert [f"{LONG}A [redacted] here."] * 2 == [said.text, whole.text]
