"""What a client's user sees, whichever client it is and whichever door stands between it and the upstream.

A door is what `guarded` is: `door(protocol, awaited, *answers)` gives a client and what the upstream got.
"""

from __future__ import annotations

import json

import pytest
from tests.guard.backends.upstream import gives, sends
from tests.guard.transport.clients import (
    CHAT,
    MESSAGES,
    REFUSAL,
    RESPONSES,
    WORD,
    answering,
    entered,
    every,
    needs,
    settled,
    sse,
)
from tests.guard.transport.frameworks import LANGCHAIN_CHAT

LONG = "One two three four. Five six seven eight. Nine ten eleven twelve. "
FORBIDDEN = json.dumps({"word": WORD})
TURNS = CHAT.messages("Hi.")


async def a_reply_comes_as_it_is(door, protocol, awaited):
    async with door(protocol, awaited, gives(protocol.body("Hello there."))) as (client, upstream):
        said = await protocol.whole(client)

    assert ("Hello there.", 1) == (said.text, len(upstream.requests))
    assert said.finish not in {None, protocol.refused}


async def a_stream_comes_as_it_is(door, protocol, awaited):
    async with door(protocol, awaited, sends(*protocol.events(LONG))) as (client, upstream):
        said = await protocol.streamed(client)

    assert (LONG, True) == (said.text, upstream.requests[0].body["stream"])
    assert said.finish not in {None, protocol.refused}


async def a_forbidden_reply_is_a_refusal_in_the_protocol_s_own_words(door, protocol, awaited):
    async with door(protocol, awaited, gives(protocol.body(f"A {WORD}."))) as (client, _):
        said = await protocol.whole(client)

    assert (REFUSAL, protocol.refused, False) == (said.text, said.finish, WORD in repr(said))


async def a_forbidden_stream_ends_in_a_refusal(door, protocol, awaited):
    async with door(protocol, awaited, sends(*protocol.events(f"{LONG}A {WORD} and more. {LONG}"))) as (client, _):
        said = await protocol.streamed(client)

    assert (True, protocol.refused_stream) == (said.text.endswith(REFUSAL), said.finish)
    assert LONG.startswith(said.text.removesuffix(REFUSAL).strip())
    assert WORD not in repr(said)


async def a_forbidden_request_reaches_no_upstream(door, protocol, awaited):
    async with door(protocol, awaited, answering(protocol, "Fine.")) as (client, upstream):
        whole, streamed = await protocol.whole(client, f"A {WORD}?"), await protocol.streamed(client, f"A {WORD}?")

    assert [(REFUSAL, protocol.refused), (REFUSAL, protocol.refused_stream)] == [(one.text, one.finish) for one in (whole, streamed)]
    assert [] == upstream.requests


async def tool_calls_come_through(door, protocol, awaited):
    done = answering(protocol, "Done.")  # an agent goes on with the results
    async with door(protocol, awaited, gives(protocol.calling("here", "there")), done) as (client, _):
        said = await protocol.whole(client, tools=protocol.tools)

    assert [("look", {"q": "here"}), ("look", {"q": "there"})] == said.calls


async def streamed_tool_calls_come_through(door, protocol, awaited):
    done = answering(protocol, "Done.")
    async with door(protocol, awaited, sends(*protocol.calling_events("here", "there")), done) as (client, _):
        said = await protocol.streamed(client, tools=protocol.tools)

    assert [("look", {"q": "here"}), ("look", {"q": "there"})] == said.calls


async def forbidden_tool_calls_are_a_refusal(door, protocol, awaited):
    async with door(protocol, awaited, gives(protocol.calling("here", WORD))) as (client, _):
        said = await protocol.whole(client, tools=protocol.tools)

    assert (REFUSAL, protocol.refused, []) == (said.text, said.finish, said.calls)
    assert WORD not in repr(said)


async def forbidden_streamed_tool_calls_are_held(door, protocol, awaited):
    async with door(protocol, awaited, sends(*protocol.calling_events("here", WORD))) as (client, _):
        said = await protocol.streamed(client, tools=protocol.tools)

    assert (protocol.refused_stream, False) == (said.finish, WORD in repr(said))


async def of_two_choices_each_is_guarded_on_its_own(door, protocol, awaited):
    async with door(protocol, awaited, gives(protocol.body("Fine.", f"A {WORD}."))) as (client, upstream):
        said = await protocol.whole(client, n=2)

    assert [("Fine.", "stop"), (REFUSAL, "content_filter")] == [(one.message.content, one.finish_reason) for one in said.raw.choices]
    assert 2 == upstream.requests[0].body["n"]


async def of_two_streamed_choices_each_is_guarded_on_its_own(door, protocol, awaited):
    deltas = [(0, "Fine, thanks. "), (1, "Well, "), (1, f"a {WORD}. "), (0, "And you?"), (1, "So.")]
    events = [sse(protocol.chunk({"content": text}, index=at)) for at, text in deltas]
    events += [sse(protocol.chunk(finish="stop", index=at)) for at in (0, 1)]
    async with door(protocol, awaited, sends(*events, sse("[DONE]"))) as (client, _):
        chunks = await every(await settled(protocol.call(client, stream=True, n=2)))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    texts = ["".join(one.delta.content or "" for one in choices if one.index == at) for at in (0, 1)]

    assert ["Fine, thanks. And you?", True, False] == [texts[0], texts[1].endswith(REFUSAL), WORD in texts[1]]
    assert {(0, "stop"), (1, "content_filter")} == {(one.index, one.finish_reason) for one in choices if one.finish_reason}


async def of_two_generations_each_is_guarded_on_its_own(door, protocol, awaited):
    """LangChain's word for choices; it streams only one."""
    from langchain_core.messages import HumanMessage

    async with door(protocol, awaited, gives(protocol.body("Fine.", f"A {WORD}.")), n=2) as (client, upstream):
        turns = [[HumanMessage("Hi.")]]
        result = await settled(client.model.agenerate(turns) if awaited else client.model.generate(turns))

    assert ["Fine.", REFUSAL] == [one.text for one in result.generations[0]]
    assert 2 == upstream.requests[0].body["n"]


every_n = pytest.mark.parametrize(
    ("protocol", "of_two"),
    [
        pytest.param(CHAT, of_two_choices_each_is_guarded_on_its_own, id="whole", marks=needs("openai")),
        pytest.param(CHAT, of_two_streamed_choices_each_is_guarded_on_its_own, id="streamed", marks=needs("openai")),
        pytest.param(LANGCHAIN_CHAT, of_two_generations_each_is_guarded_on_its_own, id="langchain", marks=needs("langchain_openai")),
    ],
)


BASICS = [
    a_reply_comes_as_it_is,
    a_stream_comes_as_it_is,
    a_forbidden_reply_is_a_refusal_in_the_protocol_s_own_words,
    a_forbidden_stream_ends_in_a_refusal,
    a_forbidden_request_reaches_no_upstream,
    tool_calls_come_through,
    streamed_tool_calls_come_through,
    forbidden_tool_calls_are_a_refusal,
    forbidden_streamed_tool_calls_are_held,
]
every_basic = pytest.mark.parametrize("basic", BASICS, ids=lambda basic: basic.__name__)


# --- the SDKs' higher forms, in front of an upstream that says FORBIDDEN: each gives what its user got to see ---


def answer_type():
    import pydantic

    return pydantic.create_model("Answer", word=(str, ...))


async def chat_parse(client):
    import openai

    with pytest.raises(openai.ContentFilterFinishReasonError) as caught:
        await settled(client.chat.completions.parse(model="m", messages=TURNS, response_format=answer_type()))
    return caught.value


async def chat_create_with_a_schema(client):
    """The refusal stands in its own place."""
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
    said = await CHAT.whole(client, model="m", response_format=schema)
    message = said.raw.choices[0].message
    assert (None, REFUSAL, "content_filter") == (message.content, message.refusal, said.finish)
    return said


async def chat_stream(client):
    import openai

    async with entered(client.chat.completions.stream(model="m", messages=TURNS)) as stream:
        events = await every(stream)
        with pytest.raises(openai.ContentFilterFinishReasonError):
            await settled(stream.get_final_completion())
    said = CHAT.gathered([event.chunk for event in events if event.type == "chunk"])
    assert (REFUSAL, "content_filter") == (said.text.strip(), said.finish)
    return events


async def chat_stream_that_parses(client):
    import openai

    async with entered(client.chat.completions.stream(model="m", messages=TURNS, response_format=answer_type())) as stream:
        with pytest.raises(openai.ContentFilterFinishReasonError) as caught:
            await every(stream)
    return caught.value


async def responses_parse(client):
    said = await settled(client.responses.parse(model="m", input="Hi.", text_format=answer_type()))
    assert (None, "incomplete", "content_filter") == (said.output_parsed, said.status, said.incomplete_details.reason)
    assert [REFUSAL] == [part.refusal for item in said.output for part in item.content]
    return said


async def responses_stream(client):
    async with entered(client.responses.stream(model="m", input="Hi.")) as stream:
        events = await every(stream)
        with pytest.raises(RuntimeError, match=r"Didn't receive a `response.completed` event"):
            await settled(stream.get_final_response())
    assert ("response.incomplete", REFUSAL) == (events[-1].type, events[-1].response.output_text.strip())
    return events


async def messages_parse(client):
    said = await settled(client.messages.parse(model="m", max_tokens=9, messages=TURNS, output_format=answer_type()))
    assert (None, "refusal", REFUSAL) == (said.parsed_output, said.stop_reason, said.stop_details.explanation)
    return said


async def messages_stream(client):
    async with entered(client.messages.stream(model="m", max_tokens=9, messages=TURNS)) as stream:
        texts = await every(stream.text_stream)
        final = await settled(stream.get_final_message())
    assert ("refusal", REFUSAL, REFUSAL) == (final.stop_reason, final.content[-1].text.strip(), "".join(texts).strip())
    return final


HELPERS = [
    pytest.param(protocol, helper, id=helper.__name__, marks=needs(protocol.sdk))
    for protocol, helpers in {
        CHAT: (chat_parse, chat_create_with_a_schema, chat_stream, chat_stream_that_parses),
        RESPONSES: (responses_parse, responses_stream),
        MESSAGES: (messages_parse, messages_stream),
    }.items()
    for helper in helpers
]
every_helper = pytest.mark.parametrize(("protocol", "helper"), HELPERS)
