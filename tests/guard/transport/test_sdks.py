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
    sse,
)

LONG = "One two three four. Five six seven eight. Nine ten eleven twelve. "


# --- what passes ---


@every_protocol
@both
async def test_a_reply_comes_as_it_is(protocol, awaited):
    async with guarded(protocol, awaited, gives(protocol.body("Hello there."))) as (client, upstream):
        said = await protocol.whole(client)

    assert ("Hello there.", 1) == (said.text, len(upstream.requests))
    assert said.finish != protocol.refused


@every_protocol
@both
async def test_a_stream_comes_as_it_is(protocol, awaited):
    async with guarded(protocol, awaited, sends(*protocol.events(LONG))) as (client, upstream):
        said = await protocol.streamed(client)

    assert (LONG, True) == (said.text, upstream.requests[0].body["stream"])
    assert said.finish not in {None, protocol.refused}


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
async def test_a_forbidden_reply_is_a_refusal_in_the_protocol_s_own_words(protocol, awaited):
    async with guarded(protocol, awaited, gives(protocol.body(f"A {WORD}."))) as (client, _):
        said = await protocol.whole(client)

    assert (REFUSAL, protocol.refused) == (said.text, said.finish)
    assert WORD not in repr(said.raw)


@every_protocol
@both
async def test_a_forbidden_stream_ends_in_a_refusal(protocol, awaited):
    async with guarded(protocol, awaited, sends(*protocol.events(f"{LONG}A {WORD} and more. {LONG}"))) as (client, _):
        said = await protocol.streamed(client)

    assert (True, protocol.refused) == (said.text.endswith(REFUSAL), said.finish)
    assert LONG.startswith(said.text.removesuffix(REFUSAL).strip())
    assert WORD not in repr(said.raw)


@every_protocol
@both
@pytest.mark.parametrize("stream", [False, True])
async def test_a_forbidden_request_reaches_no_upstream(protocol, awaited, stream):
    async with guarded(protocol, awaited, answering(protocol, "Fine.")) as (client, upstream):
        said = await (protocol.streamed if stream else protocol.whole)(client, f"A {WORD}?")

    assert (REFUSAL, protocol.refused, []) == (said.text, said.finish, upstream.requests)


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


@needs("openai")
@both
async def test_of_two_choices_each_is_guarded_on_its_own(awaited):
    async with guarded(CHAT, awaited, gives(CHAT.body("Fine.", f"A {WORD}."))) as (client, _):
        said = await CHAT.whole(client, n=2)

    assert [("Fine.", "stop"), (REFUSAL, "content_filter")] == [(one.message.content, one.finish_reason) for one in said.raw.choices]


@needs("openai")
@both
async def test_of_two_streamed_choices_each_is_guarded_on_its_own(awaited):
    deltas = [(0, "Fine, thanks. "), (1, "Well, "), (1, f"a {WORD}. "), (0, "And you?"), (1, "So.")]
    events = [sse(CHAT.chunk({"content": text}, index=at)) for at, text in deltas]
    events += [sse(CHAT.chunk(finish="stop", index=at)) for at in (0, 1)]
    async with guarded(CHAT, awaited, sends(*events, sse("[DONE]"))) as (client, _):
        chunks = await every(await settled(CHAT.call(client, stream=True, n=2)))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    texts = ["".join(one.delta.content or "" for one in choices if one.index == at) for at in (0, 1)]

    assert ["Fine, thanks. And you?", True, False] == [texts[0], texts[1].endswith(REFUSAL), WORD in texts[1]]
    assert {(0, "stop"), (1, "content_filter")} == {(one.index, one.finish_reason) for one in choices if one.finish_reason}


# --- tools ---

TOOLS = [
    {"type": "function", "function": {"name": name, "description": "Looks.", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}}}
    for name in ("look", "find")
]


def tool_call(at, name, query):
    return {"id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": json.dumps({"q": query})}}


@needs("openai")
@both
async def test_parallel_tool_calls_come_through_and_so_do_their_results(awaited):
    calls = [tool_call(0, "look", "here"), tool_call(1, "find", "there")]
    async with guarded(CHAT, awaited, gives(CHAT.body(None, tool_calls=calls)), gives(CHAT.body("Fine."))) as (client, upstream):
        said = await CHAT.whole(client, tools=TOOLS)
        asked = said.raw.choices[0].message
        results = [{"role": "tool", "tool_call_id": call.id, "content": "Nothing."} for call in asked.tool_calls]
        turns = [*CHAT.messages("Hi."), asked.model_dump(exclude_none=True), *results]
        after = await CHAT.whole(client, messages=turns, tools=TOOLS)

    assert ("tool_calls", ["look", "find"], "Fine.") == (said.finish, [call.function.name for call in asked.tool_calls], after.text)
    assert ["system", "user", "assistant", "tool", "tool"] == [turn["role"] for turn in upstream.requests[1].body["messages"]]
    assert calls == upstream.requests[1].body["messages"][2]["tool_calls"]


@needs("openai")
@both
@pytest.mark.parametrize("forbidden", [False, True])
async def test_streamed_tool_calls_are_held_until_they_are_complete(awaited, forbidden):
    texts = [json.dumps({"q": "here"}), json.dumps({"q": WORD if forbidden else "there"})]
    events = [sse(CHAT.chunk({"role": "assistant", "content": None}))]
    for at, text in enumerate(texts):
        head = {"index": at, "id": f"call_{at}", "type": "function", "function": {"name": TOOLS[at]["function"]["name"], "arguments": ""}}
        events.append(sse(CHAT.chunk({"tool_calls": [head]})))
        events += [sse(CHAT.chunk({"tool_calls": [{"index": at, "function": {"arguments": text[low : low + 4]}}]})) for low in range(0, len(text), 4)]
    async with guarded(CHAT, awaited, sends(*events, sse(CHAT.chunk(finish="tool_calls")), sse("[DONE]"))) as (client, _):
        chunks = await every(await settled(CHAT.call(client, stream=True, tools=TOOLS)))
    said = ["", ""]
    for chunk in chunks:
        for call in chunk.choices[0].delta.tool_calls or () if chunk.choices else ():
            said[call.index] += call.function.arguments or ""

    if forbidden:
        assert (True, "content_filter") == (WORD not in "".join(said), CHAT.gathered(chunks).finish)
    else:
        assert (texts, "tool_calls") == (said, CHAT.gathered(chunks).finish)


@needs("openai")
@both
async def test_a_bad_tool_result_is_refused(awaited):
    turns = [*CHAT.messages("Hi."), {"role": "assistant", "content": None, "tool_calls": [tool_call(0, "look", "here")]},
             {"role": "tool", "tool_call_id": "call_0", "content": f"It says {WORD}."}]
    async with guarded(CHAT, awaited, gives(CHAT.body("Fine."))) as (client, upstream):
        said = await CHAT.whole(client, messages=turns, tools=TOOLS)

    assert (REFUSAL, []) == (said.text, upstream.requests)


@needs("openai")
@both
@pytest.mark.parametrize("forbidden", [False, True])
async def test_responses_call_functions(awaited, forbidden):
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "status": "completed",
            "arguments": json.dumps({"q": WORD if forbidden else "here"})}
    tools = [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}, "strict": False}]
    async with guarded(RESPONSES, awaited, gives(RESPONSES.body(output=[call]))) as (client, _):
        said = await RESPONSES.whole(client, tools=tools)

    assert ("content_filter" if forbidden else "completed") == said.finish
    assert (WORD in repr(said.raw), forbidden) in {(False, True), (False, False)}
    assert ([] if forbidden else [call["arguments"]]) == [item.arguments for item in said.raw.output if item.type == "function_call"]


@needs("anthropic")
@both
@pytest.mark.parametrize("forbidden", [False, True])
async def test_messages_use_tools(awaited, forbidden):
    uses = [{"type": "tool_use", "id": f"toolu_{at}", "name": "look", "input": {"q": query}} for at, query in enumerate(("here", WORD if forbidden else "there"))]
    tools = [{"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {"q": {"type": "string"}}}}]
    async with guarded(MESSAGES, awaited, gives(MESSAGES.body(content=uses, stop_reason="tool_use"))) as (client, _):
        said = await MESSAGES.whole(client, tools=tools)

    assert ("refusal" if forbidden else "tool_use") == said.finish
    assert WORD not in repr(said.raw)
    assert ([] if forbidden else ["here", "there"]) == [block.input["q"] for block in said.raw.content if block.type == "tool_use"]


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


def answer_type():
    import pydantic

    return pydantic.create_model("Answer", word=(str, ...))


@needs("openai")
@both
@pytest.mark.parametrize("forbidden", [False, True])
async def test_parse_raises_the_sdk_s_own_error_on_a_refusal(awaited, forbidden):
    import openai

    text = json.dumps({"word": WORD if forbidden else "fine"})
    async with guarded(CHAT, awaited, gives(CHAT.body(text))) as (client, _):
        call = lambda: client.chat.completions.parse(model="m", messages=CHAT.messages("Hi."), response_format=answer_type())
        if not forbidden:
            assert "fine" == (await settled(call())).choices[0].message.parsed.word
            return
        with pytest.raises(openai.ContentFilterFinishReasonError):
            await settled(call())


@needs("openai")
@both
async def test_without_parse_a_refusal_to_a_schema_stands_in_its_own_place(awaited):
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
    async with guarded(CHAT, awaited, gives(CHAT.body(json.dumps({"word": WORD})))) as (client, _):
        said = await CHAT.whole(client, response_format=schema)

    assert (None, REFUSAL) == (said.text, said.raw.choices[0].message.refusal)


@needs("openai")
@both
async def test_the_chat_stream_helper_gives_the_refusal_and_raises_for_the_final_completion(awaited):
    import openai

    async with guarded(CHAT, awaited, sends(*CHAT.events(f"{LONG}A {WORD}."))) as (client, _):
        async with entered(client.chat.completions.stream(model="m", messages=CHAT.messages("Hi."))) as stream:
            events = await every(stream)
            with pytest.raises(openai.ContentFilterFinishReasonError):
                await settled(stream.get_final_completion())
    said = CHAT.gathered([event.chunk for event in events if event.type == "chunk"])

    assert ("content_filter", True, False) == (said.finish, said.text.endswith(REFUSAL), WORD in repr(events))


@needs("openai")
@both
async def test_the_chat_stream_helper_raises_where_it_parses(awaited):
    import openai

    async with guarded(CHAT, awaited, sends(*CHAT.events(json.dumps({"word": WORD})))) as (client, _):
        async with entered(client.chat.completions.stream(model="m", messages=CHAT.messages("Hi."), response_format=answer_type())) as stream:
            with pytest.raises(openai.ContentFilterFinishReasonError):
                await every(stream)


@needs("openai")
@both
@pytest.mark.parametrize("forbidden", [False, True])
async def test_responses_parse_gives_no_object_on_a_refusal(awaited, forbidden):
    text = json.dumps({"word": WORD if forbidden else "fine"})
    async with guarded(RESPONSES, awaited, gives(RESPONSES.body(text))) as (client, _):
        parsed = await settled(client.responses.parse(model="m", input="Hi.", text_format=answer_type()))

    if forbidden:
        assert (None, "incomplete", "content_filter") == (parsed.output_parsed, parsed.status, parsed.incomplete_details.reason)
        assert WORD not in repr(parsed)
    else:
        assert "fine" == parsed.output_parsed.word


@needs("openai")
@both
@pytest.mark.parametrize("forbidden", [False, True])
async def test_the_responses_stream_helper(awaited, forbidden):
    text = f"{LONG}A {WORD}." if forbidden else LONG
    async with guarded(RESPONSES, awaited, sends(*RESPONSES.events(text))) as (client, _):
        async with entered(client.responses.stream(model="m", input="Hi.")) as stream:
            events = await every(stream)

    assert ("response.incomplete" if forbidden else "response.completed") == events[-1].type
    assert WORD not in repr(events)


@needs("anthropic")
@both
@pytest.mark.parametrize("forbidden", [False, True])
async def test_the_messages_stream_helper(awaited, forbidden):
    text = f"{LONG}A {WORD}." if forbidden else LONG
    async with guarded(MESSAGES, awaited, sends(*MESSAGES.events(text))) as (client, _):
        async with entered(client.messages.stream(model="m", max_tokens=9, messages=MESSAGES.messages("Hi."))) as stream:
            await every(stream.text_stream)
            final = await settled(stream.get_final_message())

    assert ("refusal" if forbidden else "end_turn") == final.stop_reason
    assert (forbidden, False) == (final.content[0].text.endswith(REFUSAL), WORD in repr(final))


@every_protocol
@both
async def test_raw_responses_have_what_their_readers_ask_for(protocol, awaited):
    digest = made().config.digest
    async with guarded(protocol, awaited, gives(protocol.body("Fine."))) as (client, _):
        source = {"chat": lambda: client.chat.completions, "responses": lambda: client.responses, "messages": lambda: client.messages}[protocol.name]()
        raw = await settled(protocol.call(_Raw(source, protocol.name)))

    assert (200, digest, "pass") == (raw.status_code, raw.headers["x-cosa-config"], raw.headers["x-cosa-act"])
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
