"""LangChain and pydantic-ai over guarded clients: what they give, and how each shows a block."""

from __future__ import annotations

import functools

import pytest
from tests.guard.backends.upstream import Upstream, gives, refuses
from tests.guard.transport.clients import CHAT, REFUSAL, WORD, answering, both, guarded, made, needs, settled
from tests.guard.transport.frameworks import LANGCHAIN, LANGCHAIN_CHAT, PYDANTIC, every_framework, family
from tests.guard.transport.scenarios import FORBIDDEN, answer_type, every_basic

from cosa_guard.transport import GuardTransport
from cosa_sdk.errors import UsageError

pytestmark = pytest.mark.slow  # the same scenarios run through the proxy in the fast suite

every_langchain = pytest.mark.parametrize("protocol", LANGCHAIN)
every_agent = pytest.mark.parametrize("protocol", PYDANTIC)


@every_framework
@every_basic
@both
async def test_the_basics(protocol, basic, awaited):
    await basic(guarded, protocol, awaited)


@every_framework
@both
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_upstream_s_errors_keep_their_status(protocol, awaited, status, stream):
    async with guarded(protocol, awaited, refuses(status, "not like that", retry_after="9")) as (client, upstream):
        with pytest.raises(Exception, match="not like that") as caught:
            await (protocol.streamed if stream else protocol.whole)(client)

    assert (status, 1) == (caught.value.status_code, len(upstream.requests))


@every_framework
@both
async def test_the_guard_s_own_failures_are_errors(protocol, awaited):
    async with guarded(protocol, awaited, gives({"nonsense": True})) as (client, upstream):
        with pytest.raises(Exception, match="the guard could not answer safely") as caught:
            await protocol.whole(client)

    assert (424, 1) == (caught.value.status_code, len(upstream.requests))


# --- LangChain ---


def invoked(client, runnable, *given, verb="invoke"):
    return settled(getattr(runnable, f"a{verb}" if client.awaited else verb)(*given))


@every_langchain
@both
async def test_what_is_derived_from_a_guarded_model_is_guarded(protocol, awaited):
    from langchain_core.runnables import ConfigurableField

    async with guarded(protocol, awaited, answering(protocol, f"A {WORD}.")) as (client, upstream):
        model = client.model
        field = ConfigurableField(id="t")
        derived = [
            model.bind(temperature=0.5),
            model.with_config(tags=["x"]),
            model.with_retry(),
            model.configurable_fields(temperature=field).with_config(configurable={"t": 0.5}),
            model.model_copy(update={"temperature": 0.5}),
        ]
        said = [(await invoked(client, one, "Hi.")).text for one in derived]
        many = [one.text for one in await invoked(client, model, ["Hi.", "Ho."], verb="batch")]

    assert ([REFUSAL] * 5, [REFUSAL] * 2) == (said, many)
    assert [0.5, None, None, 0.5, 0.5] == [seen.body.get("temperature") for seen in upstream.requests[:5]]


@every_langchain
@both
async def test_the_given_model_stays_as_it_was(protocol, awaited):
    seen = []

    def wrap(model):
        seen.append(model)
        return made().wrap(model)

    with Upstream(answering(protocol, f"A {WORD}.")) as upstream:
        async with protocol.opened(awaited, upstream.url, wrap) as client:
            said = [(await invoked(client, model, "Hi.")).text for model in (client.model, seen[0])]

    assert [REFUSAL, f"A {WORD}."] == said
    assert type(client.model) is type(seen[0])


@every_langchain
@both
async def test_a_chat_goes_on_after_a_refusal_and_a_bad_tool_result_is_refused(protocol, awaited):
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

    async with guarded(protocol, awaited, answering(protocol, "Fine.")) as (client, upstream):
        ask = functools.partial(invoked, client, client.model.bind_tools(protocol.tools))
        refused = await ask([HumanMessage(f"A {WORD}?")])
        after = await ask([HumanMessage(f"A {WORD}?"), refused, HumanMessage("Go on.")])
        called = AIMessage("", tool_calls=[{"name": "look", "args": {"q": "here"}, "id": "call_1"}])
        found = [await ask([HumanMessage("Hi."), called, ToolMessage(text, tool_call_id="call_1")]) for text in ("Nothing.", f"A {WORD}.")]

    assert [REFUSAL, "Fine.", "Fine.", REFUSAL] == [one.text for one in (refused, after, *found)]
    assert (2, False) == (len(upstream.requests), WORD in repr([seen.body for seen in upstream.requests]))


@every_langchain
@both
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_structured_output_raises_on_a_block(protocol, awaited, method):
    async with guarded(protocol, awaited, answering(protocol, FORBIDDEN)) as (client, _):
        with pytest.raises(Exception) as caught:
            await invoked(client, client.model.with_structured_output(answer_type(), method=method), "Hi.")

    parsed_by_the_sdk = protocol is LANGCHAIN_CHAT and method != "function_calling"
    assert ("ContentFilterFinishReasonError" if parsed_by_the_sdk else "OpenAIRefusalError") == type(caught.value).__name__
    assert WORD not in str(caught.value)


@needs("langchain_openai")
@both
async def test_http_clients_over_a_guarded_transport_are_another_way(awaited):
    """Both of them: LangChain makes the one that it is not given."""
    from langchain_openai import ChatOpenAI

    transports = GuardTransport(made(), family().HTTPTransport()), GuardTransport(made(), family().AsyncHTTPTransport())
    with Upstream(answering(CHAT, f"A {WORD}.")) as upstream, family().Client(transport=transports[0]) as blocking:
        async with family().AsyncClient(transport=transports[1]) as awaiting:
            model = ChatOpenAI(model="m", api_key="x", base_url=upstream.url, http_client=blocking, http_async_client=awaiting)
            said = await settled(model.ainvoke("Hi.") if awaited else model.invoke("Hi."))

    assert REFUSAL == said.text


@needs("langchain_openai")
@both
async def test_a_model_that_can_only_be_awaited_is_guarded(awaited):
    from langchain_openai import ChatOpenAI

    async def key():
        return "x"

    model = ChatOpenAI(model="m", api_key=key, base_url="http://127.0.0.1:9/v1", http_async_client=family().AsyncClient())
    wrapped = made().wrap(model)

    assert (None, None) == (wrapped.client, wrapped.root_client)
    assert wrapped.async_client is wrapped.root_async_client.chat.completions is not model.async_client
    await model.root_async_client.close()


@needs("langchain_openai")
def test_what_could_not_be_guarded_whole_is_refused():
    import openai
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    given = {"model": "m", "api_key": "x", "base_url": "http://127.0.0.1:9/v1"}
    own = openai.OpenAI(api_key="x").chat.completions
    for model, why in [
        (ChatOpenAI(**given, client=own), "it has no root_client to guard"),
        (OpenAIEmbeddings(api_key="x", check_embedding_ctx_length=False), "it has no root_client to guard"),
        (ChatOpenAI(**given).bind(stop=["x"]), "give a client of the openai or anthropic package"),
        (ChatOpenAI, "give a client of the openai or anthropic package"),
    ]:
        with pytest.raises(UsageError, match=why):
            made().wrap(model)


@needs("langchain_openai")
@both
async def test_azure_s_model_raises_on_a_block(awaited):
    from langchain_openai import AzureChatOpenAI

    with Upstream(answering(CHAT, f"A {WORD}.")) as upstream:
        own = {"http_client": family().Client(), "http_async_client": family().AsyncClient()}
        endpoint = upstream.url.removesuffix("/v1")
        model = made().wrap(AzureChatOpenAI(azure_deployment="m", api_version="2024-10-21", api_key="x", azure_endpoint=endpoint, **own))
        with pytest.raises(ValueError, match="content filter"):
            await settled(model.ainvoke("Hi.") if awaited else model.invoke("Hi."))
        own["http_client"].close()
        await own["http_async_client"].aclose()

    assert "/openai/deployments/m/chat/completions?api-version=2024-10-21" == upstream.requests[0].path


# --- pydantic-ai ---


@every_agent
@both
async def test_an_agent_goes_on_after_a_refusal(protocol, awaited):
    async with guarded(protocol, awaited, answering(protocol, "Fine.")) as (client, upstream):
        agent, _ = protocol.agent(client.model)
        refused = await protocol.run(client, agent, f"A {WORD}?")
        after = await protocol.run(client, agent, "Go on.", message_history=refused.all_messages())

    assert [REFUSAL, "Fine."] == [refused.output, after.output]
    assert (1, False) == (len(upstream.requests), WORD in repr(upstream.requests[0].body))


@every_agent
@both
async def test_a_bad_result_of_an_agent_s_tool_is_refused(protocol, awaited):
    async with guarded(protocol, awaited, gives(protocol.calling("here"))) as (client, upstream):
        said = await protocol.whole(client, tools=protocol.tools, found=f"A {WORD}.")

    assert (REFUSAL, [("look", {"q": "here"})], 1) == (said.text, said.calls, len(upstream.requests))


@pytest.mark.parametrize("protocol", PYDANTIC[:2])
@both
@pytest.mark.parametrize("stream", [False, True])
async def test_native_output_raises_pydantic_ai_s_own_error_on_a_block(protocol, awaited, stream):
    from pydantic_ai import NativeOutput
    from pydantic_ai.exceptions import ContentFilterError

    async with guarded(protocol, awaited, answering(protocol, FORBIDDEN)) as (client, upstream):
        with pytest.raises(ContentFilterError) as caught:
            await (protocol.streamed if stream else protocol.whole)(client, output_type=NativeOutput(answer_type()))

    assert (1, True, False) == (len(upstream.requests), REFUSAL in str(caught.value), WORD in str(caught.value))


@every_agent
@both
async def test_output_by_tools_is_asked_for_again_and_then_given_up(protocol, awaited):
    """A refusal is text, and pydantic-ai tells the model to call the tool instead."""
    from pydantic_ai.exceptions import UnexpectedModelBehavior

    async with guarded(protocol, awaited, answering(protocol, FORBIDDEN)) as (client, upstream):
        with pytest.raises(UnexpectedModelBehavior) as caught:
            await protocol.whole(client, output_type=answer_type())

    assert (2, False) == (len(upstream.requests), WORD in str(caught.value) + repr(upstream.requests[1].body))
