"""The clients that people have, against the proxy: base URL and key changed, nothing else."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from tests.guard.backends.upstream import Exchange, gives, refuses
from tests.guard.server.serving import CLINIC, FILM, clinic, film, serving, write
from tests.guard.transport.clients import PROTOCOLS, RESPONSES, WORD, answering, both, every_protocol, needs, settled
from tests.guard.transport.frameworks import FRAMEWORKS
from tests.guard.transport.scenarios import FORBIDDEN, every_basic, every_helper, every_n

every_client = pytest.mark.parametrize("protocol", [*PROTOCOLS, *FRAMEWORKS])


@pytest.fixture(scope="module")
def shared(upstream_server, tmp_path_factory):
    tenants = [film(models=["m"]), clinic(models=["m"])]
    with serving(write(tmp_path_factory.mktemp("clients"), upstream_server, tenants=tenants)) as one:
        yield one


@pytest.fixture
def door(proxy, upstream):
    """The way to the upstream that scenarios take, through the proxy."""

    @asynccontextmanager
    async def through(protocol, awaited, *answers, **options):
        upstream.script = scripted(answers, requests := [])
        key = CLINIC if protocol.path == "/messages" else FILM
        async with protocol.opened(awaited, f"http://127.0.0.1:{proxy.port}/v1", **{"api_key": key, **options}) as client:
            yield client, SimpleNamespace(requests=requests)

    return through


def scripted(answers, requests):
    """Answers in turn, the last one for ever."""
    waiting = [*answers]

    async def script(seen, line):
        requests.append(SimpleNamespace(body=seen.json, headers=seen.headers))
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        await answer(Exchange(requests[-1], line.reader, line.writer, None))

    return script


@every_client
@every_basic
@both
async def test_the_basics(protocol, basic, awaited, door):
    await basic(door, protocol, awaited)


@every_helper
@both
async def test_the_sdk_s_helpers_say_that_it_was_refused(protocol, helper, awaited, door):
    async with door(protocol, awaited, answering(protocol, FORBIDDEN)) as (client, _):
        seen = await helper(client)

    assert WORD not in repr(seen)


@every_n
@both
async def test_of_two_replies_each_is_guarded_on_its_own(protocol, of_two, awaited, door):
    await of_two(door, protocol, awaited)


# --- errors ---


@every_client
@both
@pytest.mark.parametrize("stream", [False, True])
async def test_the_upstream_s_errors_keep_their_status(protocol, awaited, stream, door):
    async with door(protocol, awaited, refuses(429, "not like that", retry_after="9")) as (client, upstream):
        with pytest.raises(Exception, match="not like that") as caught:
            await (protocol.streamed if stream else protocol.whole)(client)

    assert (429, 1) == (caught.value.status_code, len(upstream.requests))


@every_protocol
@both
async def test_a_client_reads_when_to_come_again(protocol, awaited, door):
    async with door(protocol, awaited, refuses(429, "later", retry_after="9")) as (client, _):
        with pytest.raises(Exception, match="later") as caught:
            await protocol.whole(client)

    assert ("RateLimitError", "9") == (type(caught.value).__name__, caught.value.response.headers["retry-after"])
    assert caught.value.response.headers["x-cosa-request"].startswith("req_")


@every_protocol
@both
@pytest.mark.parametrize("status", [429, 500])
async def test_the_sdk_s_own_retries_reach_the_upstream(protocol, awaited, status, door):
    again = refuses(status, "later", retry_after="0.001")
    async with door(protocol, awaited, again, again, gives(protocol.body("Fine.")), max_retries=2) as (client, upstream):
        said = await protocol.whole(client)

    assert ("Fine.", 3) == (said.text, len(upstream.requests))


@every_protocol
@both
async def test_an_upstream_that_refuses_the_proxy_s_own_key_is_no_fault_of_the_client(protocol, awaited, door):
    async with door(protocol, awaited, refuses(401, "wrong key sk-secret")) as (client, _):
        with pytest.raises(Exception) as caught:
            await protocol.whole(client)

    assert ("InternalServerError", 502, False) == (type(caught.value).__name__, caught.value.status_code, "sk-secret" in str(caught.value))


@every_client
@both
async def test_a_key_that_is_none_is_401(protocol, awaited, door):
    async with door(protocol, awaited, gives(protocol.body("Fine.")), api_key="cosa-none") as (client, upstream):
        with pytest.raises(Exception, match="no valid API key") as caught:
            await protocol.whole(client)

    assert (401, []) == (caught.value.status_code, upstream.requests)


@every_client
@both
async def test_a_model_that_is_not_the_key_s_is_404(protocol, awaited, door):
    framework = protocol.framework  # it knows its model from the beginning
    async with door(protocol, awaited, gives(protocol.body("Fine.")), **{"model": "other"} if framework else {}) as (client, upstream):
        with pytest.raises(Exception, match="may not use that model") as caught:
            await protocol.whole(client, **{} if framework else {"model": "other"})

    assert (404, []) == (caught.value.status_code, upstream.requests)


@every_protocol
@both
async def test_a_field_that_is_not_let_through_is_named(protocol, awaited, door):
    async with door(protocol, awaited, gives(protocol.body("Fine."))) as (client, upstream):
        with pytest.raises(Exception, match="chat_template") as caught:
            await protocol.whole(client, extra_body={"chat_template": "{{ x }}"})

    assert ("BadRequestError", []) == (type(caught.value).__name__, upstream.requests)


@every_protocol
@both
async def test_the_guard_s_own_failures_are_not_tried_again(protocol, awaited, door):
    async with door(protocol, awaited, gives({"nonsense": True}), max_retries=2) as (client, upstream):
        with pytest.raises(Exception) as caught:
            await protocol.whole(client)

    assert (424, 1) == (caught.value.status_code, len(upstream.requests))


# --- what else clients ask for ---


@every_protocol
@both
async def test_models_are_listed(protocol, awaited, door):
    async with door(protocol, awaited, gives({})) as (client, upstream):
        models = await settled(client.models.list())

    assert (["m"], []) == ([model.id for model in models.data], upstream.requests)


@needs("openai")
@both
async def test_a_conversation_is_continued_by_the_id_of_a_response(awaited, door):
    async with door(RESPONSES, awaited, gives(RESPONSES.body("Fine."))) as (client, upstream):
        first = await RESPONSES.whole(client, "Who are you?")
        after = await RESPONSES.whole(client, "And I?", previous_response_id=first.raw.id)

    assert ("Fine.", ["user", "assistant", "user"]) == (after.text, [turn["role"] for turn in upstream.requests[1].body["input"]])
