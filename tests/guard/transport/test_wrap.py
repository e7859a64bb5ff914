"""`guard.wrap(client)`: the same class, the caller's own HTTP client underneath, and no way around the guard."""

from __future__ import annotations

import inspect
import socketserver
import ssl
import threading
from contextlib import contextmanager

import pytest
from tests.guard.backends.upstream import Upstream, gives, sends
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
    major,
    needs,
    settled,
)

from cosa_guard.transport import families
from cosa_sdk.errors import UnguardedRoute, UsageError

# --- what it is ---


@every_protocol
@both
async def test_the_same_class_comes_back_and_the_given_client_stays_as_it_was(protocol, awaited):
    with Upstream(answering(protocol, f"A {WORD}.")) as upstream:
        client = protocol.client(awaited, upstream.url)
        wrapped = made().wrap(client)
        stopped, open_ = await protocol.whole(wrapped), await protocol.whole(client)
        await settled(wrapped.close())

    assert (type(client), REFUSAL, f"A {WORD}.") == (type(wrapped), stopped.text, open_.text)


@every_protocol
@both
async def test_settings_of_the_client_stay(protocol, awaited):
    options = {"max_retries": 5, "timeout": 7.5, "default_headers": {"x-mine": "1"}, "default_query": {"v": "2"}}
    async with guarded(protocol, awaited, gives(protocol.body("Fine.")), **options) as (client, upstream):
        await protocol.whole(client)
    seen = upstream.requests[0]

    assert (5, 7.5, "sk-mine") == (client.max_retries, client.timeout, client.api_key)
    assert ("1", True, True) == (seen.headers["x-mine"], seen.path.endswith("?v=2"), "sk-mine" in repr(seen.headers))


@every_protocol
@both
async def test_copies_stay_guarded(protocol, awaited):
    async with guarded(protocol, awaited, answering(protocol, f"A {WORD}.")) as (client, _):
        copies = [client.with_options(timeout=3), client.copy(max_retries=1), client.with_options(timeout=3).with_options(api_key="other")]
        said = [(await protocol.whole(copy)).text for copy in copies]

    assert [REFUSAL] * 3 == said


@needs("openai")
@both
async def test_azure_s_client_is_guarded_and_so_are_its_copies(awaited):
    import openai

    with Upstream(answering(CHAT, f"A {WORD}.")) as upstream:
        kind = openai.AsyncAzureOpenAI if awaited else openai.AzureOpenAI
        client = made().wrap(kind(api_key="x", azure_endpoint=upstream.url.removesuffix("/v1"), api_version="2024-10-21"))
        said = [(await CHAT.whole(one)).text for one in (client, client.with_options(timeout=3))]
        await settled(client.close())

    assert (kind, [REFUSAL] * 2) == (type(client), said)
    assert "/openai/deployments/m/chat/completions?api-version=2024-10-21" == upstream.requests[0].path


@every_protocol
@both
async def test_closing_the_wrapped_client_closes_the_inner(protocol, awaited):
    with Upstream(gives(protocol.body("Fine."))) as upstream:
        client = protocol.client(awaited, upstream.url)
        wrapped = made().wrap(client)
        async with entered(wrapped):
            await protocol.whole(wrapped)
            before = client.is_closed(), wrapped.is_closed()
        after = client.is_closed(), wrapped.is_closed()
        assert upstream.wait_for_open(0)

    assert ((False, False), (True, True)) == (before, after)


@every_protocol
@both
async def test_a_wrapped_client_outlives_the_given_one(protocol, awaited):
    with Upstream(gives(protocol.body("Fine."))) as upstream:
        wrapped = made().wrap(protocol.client(awaited, upstream.url))
        said = [(await protocol.whole(wrapped)).text for _ in range(2)]
        await settled(wrapped.close())

    assert (["Fine."] * 2, 1) == (said, upstream.connections)


@every_protocol
@both
async def test_two_guards_around_one_client_both_hold(protocol, awaited):
    from tests.guard.build import terms_config

    async with guarded(protocol, awaited, answering(protocol, "An acme."), guard=made(terms_config("acme"))) as (client, _):
        twice = made().wrap(client)
        outer, inner = await protocol.whole(twice, WORD), await protocol.whole(twice)

    assert [REFUSAL] * 2 == [outer.text, inner.text]


@pytest.mark.parametrize("client", [object(), "https://api.example", None])
def test_what_is_no_client_is_named(client):
    with pytest.raises(UsageError, match="give a client of the openai or anthropic package"):
        made().wrap(client)


@every_protocol
def test_a_class_is_no_client(protocol):
    with pytest.raises(UsageError, match=r"OpenAI\(\)"):
        made().wrap(type(protocol.client(False, "http://127.0.0.1:1/v1")))


def test_passthrough_is_a_list_of_path_ends():
    for wrong in ("/embeddings", ["embeddings"]):
        with pytest.raises(UsageError, match="give a list of path ends"):
            made().wrap(CHAT.client(False, "http://127.0.0.1:1/v1"), passthrough=wrong)


@every_protocol
@pytest.mark.parametrize("awaited", [False, True])
def test_the_one_private_attribute_is_where_it_is_expected(protocol, awaited):
    """Pinned for each supported major version."""
    client = protocol.client(awaited, "http://127.0.0.1:1/v1")
    family = families.family_of(client._client)

    assert isinstance(client._client, family.AsyncClient if awaited else family.Client)
    assert {"openai": {2: "httpx", 3: "httpx2"}, "anthropic": {0: "httpx", 1: "httpx2", 2: "httpx2"}}[protocol.sdk][major(protocol.sdk)] == family.__name__


# --- the caller's own HTTP client ---


@contextmanager
def hanging_up():
    """A port whose server takes the first bytes of each connection and closes it."""

    class HangUp(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(1)

    with socketserver.TCPServer(("127.0.0.1", 0), HangUp) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield server.server_address[1]
        server.shutdown()
        serving.join()


def http_families(protocol):
    """The families whose clients an SDK takes, openai's both (but for the early 2.x), anthropic's its own alone."""
    if protocol.sdk == "openai":
        return ["httpx2", "httpx"]
    return ["httpx2" if major("anthropic") >= 1 else "httpx"]


OWN = [
    pytest.param(protocol, name, id=f"{protocol.name}-{name}", marks=needs(protocol.sdk, name))
    for protocol in (CHAT, MESSAGES)
    for name in http_families(protocol)
]
own_client = pytest.mark.parametrize(("protocol", "name"), OWN)


def http_client(name, awaited, **options):
    family = pytest.importorskip(name)
    return (family.AsyncClient if awaited else family.Client)(**options)


def hook(awaited, function):
    async def awaiting(thing):
        function(thing)

    return awaiting if awaited else function


@own_client
@both
async def test_hooks_headers_and_cookies_of_the_caller_s_client_stay_in_use(protocol, name, awaited):
    asked, answered = [], []
    hooks = {"request": [hook(awaited, lambda request: asked.append(str(request.url)))], "response": [hook(awaited, lambda answer: answered.append(answer.status_code))]}
    own = http_client(name, awaited, event_hooks=hooks, headers={"x-own": "yes"}, cookies={"c": "1"})
    async with guarded(protocol, awaited, gives(protocol.body(f"A {WORD}.")), http_client=own) as (client, upstream):
        said = await protocol.whole(client)

    assert (REFUSAL, 1, [200]) == (said.text, len(asked), answered)
    assert ("yes", "c=1") == (upstream.requests[0].headers["x-own"], upstream.requests[0].headers["cookie"])


@own_client
@both
async def test_a_transport_of_the_caller_is_used_and_gets_the_time_out(protocol, name, awaited):
    family = pytest.importorskip(name)
    seen = []

    class Mine(family.HTTPTransport):
        def handle_request(self, request):
            seen.append(request.extensions["timeout"])
            return super().handle_request(request)

    class AsyncMine(family.AsyncHTTPTransport):
        async def handle_async_request(self, request):
            seen.append(request.extensions["timeout"])
            return await super().handle_async_request(request)

    own = http_client(name, awaited, transport=(AsyncMine if awaited else Mine)())
    async with guarded(protocol, awaited, gives(protocol.body("Fine.")), http_client=own) as (client, _):
        await protocol.whole(client)
        await protocol.whole(client, timeout=3.5)
        await protocol.whole(client.with_options(timeout=4.5))

    assert [3.5, 4.5] == [one["read"] for one in seen[1:]]
    assert 3 == len(seen)


@own_client
@both
async def test_a_proxy_of_the_caller_is_used(protocol, name, awaited):
    with Upstream(gives(protocol.body("Fine."))) as proxy:
        own = http_client(name, awaited, proxy=proxy.url.removesuffix("/v1"))
        client = made().wrap(protocol.client(awaited, "http://api.example/v1", http_client=own))
        said = await protocol.whole(client)
        await settled(client.close())

    assert ("Fine.", True) == (said.text, proxy.requests[0].path.startswith("http://api.example/v1/"))


@own_client
@both
async def test_tls_settings_of_the_caller_are_used(protocol, name, awaited):
    """The context is asked to shake hands, with a server that hangs up on it."""
    shaken = []

    class Context(ssl.SSLContext):
        def wrap_bio(self, *args, **options):
            shaken.append(self)
            return super().wrap_bio(*args, **options)

        def wrap_socket(self, *args, **options):
            shaken.append(self)
            return super().wrap_socket(*args, **options)

    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    own = http_client(name, awaited, verify=context)
    with hanging_up() as port:
        client = made().wrap(protocol.client(awaited, f"https://127.0.0.1:{port}/v1", http_client=own))
        with pytest.raises(Exception, match="[Cc]onnection error"):
            await protocol.whole(client)
        await settled(client.close())

    assert [context] == [*{*shaken}]


@own_client
@both
async def test_connection_limits_of_the_caller_stay(protocol, name, awaited):
    family = pytest.importorskip(name)
    own = http_client(name, awaited, limits=family.Limits(max_connections=1), timeout=family.Timeout(5, pool=0.05))
    async with guarded(protocol, awaited, lambda exchange: exchange.hang(), http_client=own, timeout=family.Timeout(5, pool=0.05)) as (client, upstream):
        first = protocol.call(client, stream=True) if awaited else None
        if first is None:
            assert 1 == own._transport._pool._max_connections
            return
        import asyncio

        waiting = asyncio.ensure_future(first)
        while not upstream.hanging.is_set():
            await asyncio.sleep(0.001)
        with pytest.raises(Exception) as caught:
            await protocol.whole(client)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    assert ("APITimeoutError", 1) == (type(caught.value).__name__, len(upstream.requests))


@own_client
@both
async def test_auth_of_the_caller_s_client_is_used(protocol, name, awaited):
    family = pytest.importorskip(name)

    class Token(family.Auth):
        def auth_flow(self, request):
            request.headers["x-token"] = "t"
            yield request

    own = http_client(name, awaited, auth=Token())
    async with guarded(protocol, awaited, gives(protocol.body("Fine.")), http_client=own) as (client, upstream):
        await protocol.whole(client)

    assert "t" == upstream.requests[0].headers["x-token"]


@needs("anthropic")
@both
async def test_tokens_that_an_sdk_fetches_reach_the_upstream(awaited):
    from anthropic.lib.credentials import AccessToken

    async def later(**_):
        return AccessToken(token="fetched")

    provider = later if awaited and major("anthropic") >= 1 else lambda **_: AccessToken(token="fetched")
    async with guarded(MESSAGES, awaited, gives(MESSAGES.body("Fine.")), api_key=None, credentials=provider) as (client, upstream):
        await MESSAGES.whole(client)

    assert "Bearer fetched" == upstream.requests[0].headers["authorization"]


@own_client
@both
async def test_whoever_reaches_for_the_transport_gets_the_guarded_one(protocol, name, awaited):
    """openai 3 does, for workload identities with certificates."""
    family = pytest.importorskip(name)
    with Upstream(answering(protocol, f"A {WORD}.")) as upstream:
        url = upstream.url + protocol.path
        wrapped = made().wrap(protocol.client(awaited, upstream.url, http_client=http_client(name, awaited)))
        request = family.Request("POST", url, json={"model": "m", "max_tokens": 5, "messages": protocol.messages("Hi.")})
        transport = wrapped._client._transport_for_url(request.url)
        answer = await settled(transport.handle_async_request(request) if awaited else transport.handle_request(request))
        body = (await answer.aread()) if awaited else answer.read()
        await settled(wrapped.close())

    assert (False, True) == (WORD.encode() in body, REFUSAL.encode() in body)


# --- WebSockets ---

SOCKETS = ["realtime", "beta.realtime", "realtime.translations", "live", "live.sideband", "live.forks", "responses", "beta.responses"]


def changed(client):
    """The client, and every kind of copy of it."""
    yield client
    yield client.with_options(timeout=3)
    yield client.copy(base_url="http://127.0.0.1:9/v1")
    yield client.with_options(websocket_base_url="ws://127.0.0.1:9/v1")
    if "data_residency" in inspect.signature(type(client).copy).parameters:
        yield client.with_options(data_residency="eu")
        yield client.with_options(data_residency="eu").with_options(timeout=3)


def part(client, path):
    for name in path.split("."):
        client = getattr(client, name)
    return client


@needs("openai")
@pytest.mark.skipif(not major("websockets"), reason="the SDK's realtime extra (websockets) is not installed")
@pytest.mark.parametrize("path", SOCKETS)
@both
async def test_websocket_entry_points_refuse_on_originals_and_copies(path, awaited):
    wrapped = made().wrap(CHAT.client(awaited, "http://127.0.0.1:9/v1"))
    for client in changed(wrapped):
        try:
            connect = part(client, path).connect
        except AttributeError:
            pytest.skip(f"this version has no {path}.connect")
        wanted = {name: "x" for name, parameter in inspect.signature(connect).parameters.items() if parameter.default is parameter.empty or name == "model"}
        with pytest.raises(UnguardedRoute, match="would go past the guard"):
            async with entered(connect(**wanted)):
                pass
        with pytest.raises(UnguardedRoute):
            await settled(connect(**wanted).enter())
    await settled(wrapped.close())


# --- other routes ---


@both
@needs("openai")
async def test_routes_that_nobody_guards_are_refused(awaited):
    import openai

    async with guarded(CHAT, awaited, gives({})) as (client, upstream):
        calls = {
            "/embeddings": lambda: client.embeddings.create(model="m", input="x"),
            "/completions": lambda: client.completions.create(model="m", prompt="x"),
            "/audio/speech": lambda: client.audio.speech.create(model="m", voice="alloy", input="x"),
            "/moderations": lambda: client.moderations.create(input="x"),
            "/images/generations": lambda: client.images.generate(prompt="x"),
            "/responses/resp_1": lambda: client.responses.retrieve("resp_1"),
            "/responses/resp_1/cancel": lambda: client.responses.cancel("resp_1"),
            "/chat/completions/chatcmpl-1": lambda: client.chat.completions.retrieve("chatcmpl-1"),
            "/files": lambda: client.files.create(file=b"x", purpose="batch"),
            "/batches": lambda: client.batches.create(input_file_id="f", endpoint="/v1/chat/completions", completion_window="24h"),
            "/threads/t/messages": lambda: client.post("/threads/t/messages", body={"role": "user", "content": "x"}, cast_to=object),
        }
        for path, call in calls.items():
            with pytest.raises(openai.BadRequestError, match="is not guarded, so it was not sent") as caught:
                await settled(call())
            assert (path, "unguarded_route") == (str(caught.value).split("/v1")[1].split(" ")[0], caught.value.code)

    assert [] == upstream.requests


@both
@needs("anthropic")
async def test_routes_of_anthropic_that_nobody_guards_are_refused(awaited):
    import anthropic

    turns = MESSAGES.messages("Hi.")
    async with guarded(MESSAGES, awaited, gives({})) as (client, upstream):
        for call in (
            lambda: client.messages.count_tokens(model="m", messages=turns),
            lambda: client.messages.batches.create(requests=[{"custom_id": "1", "params": {"model": "m", "max_tokens": 5, "messages": turns}}]),
            lambda: client.post("/v1/complete", body={"model": "m", "prompt": "x", "max_tokens_to_sample": 5}, cast_to=object),
            lambda: client.post("/model/m/invoke-with-response-stream", body={"messages": turns}, cast_to=object),  # Bedrock's
            lambda: client.post("/v1/publishers/anthropic/models/m:streamRawPredict", body={"messages": turns}, cast_to=object),  # Vertex's
        ):
            with pytest.raises(anthropic.BadRequestError, match="is not guarded"):
                await settled(call())

    assert [] == upstream.requests


@both
@needs("openai")
async def test_named_routes_and_the_list_of_models_go_through(awaited):
    embedding = {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    model = {"id": "m", "object": "model", "created": 1, "owned_by": "o"}
    answers = [gives(embedding), gives({"object": "list", "data": [model]}), gives(model)]
    async with guarded(CHAT, awaited, *answers, wrapping={"passthrough": ["/embeddings"]}) as (client, upstream):
        found = await settled(client.embeddings.create(model="m", input=WORD, encoding_format="float"))
        models = await settled(client.models.list())
        one = await settled(client.models.retrieve("m"))

    assert ([1.0], ["m"], "m") == (found.data[0].embedding, [entry.id for entry in models.data], one.id)
    assert WORD == upstream.requests[0].body["input"]


@both
@needs("openai")
async def test_beta_forms_of_guarded_routes_are_guarded(awaited):
    async with guarded(RESPONSES, awaited, gives(RESPONSES.body(f"A {WORD}."))) as (client, _):
        if hasattr(client.beta, "responses"):
            raw = await settled(client.beta.responses.create(model="m", input="Hi."))
            assert WORD not in repr(raw)


@both
@needs("anthropic")
async def test_anthropic_s_beta_messages_are_guarded(awaited):
    async with guarded(MESSAGES, awaited, answering(MESSAGES, f"A {WORD}.")) as (client, upstream):
        whole = await settled(client.beta.messages.create(model="m", max_tokens=9, messages=MESSAGES.messages("Hi.")))
        events = await every(await settled(client.beta.messages.create(model="m", max_tokens=9, messages=MESSAGES.messages("Hi."), stream=True)))

    assert ("refusal", False, 2) == (whole.stop_reason, WORD in repr([whole, events]), len(upstream.requests))


@every_protocol
@both
async def test_fields_that_could_switch_the_guard_off_are_refused(protocol, awaited):
    async with guarded(protocol, awaited, gives(protocol.body("Fine."))) as (client, upstream):
        with pytest.raises(Exception, match="not let through") as caught:
            await protocol.whole(client, extra_body={"chat_template": "{{ x }}"})

    assert (400, []) == (caught.value.status_code, upstream.requests)


@every_protocol
@both
async def test_redirects_are_not_followed(protocol, awaited):
    away = sends("", status=307, content_type=None, location="http://127.0.0.1:9/v1/chat/completions")
    family = families.family_of(protocol.client(awaited, "http://127.0.0.1:1/v1")._client)
    own = (family.AsyncClient if awaited else family.Client)(follow_redirects=True)
    async with guarded(protocol, awaited, away, http_client=own) as (client, upstream):
        with pytest.raises(Exception, match="redirects are not followed") as caught:
            await protocol.whole(client)

    assert (424, 1) == (caught.value.status_code, len(upstream.requests))


@every_protocol
@both
async def test_a_compressed_answer_is_read_all_the_same(protocol, awaited):
    import gzip
    import json

    text = json.dumps(protocol.body(f"A {WORD}.")).encode()
    events = "".join(protocol.events(f"A {WORD}.")).encode()
    answers = [
        sends(gzip.compress(text), content_type="application/json", content_encoding="gzip"),
        sends(gzip.compress(events), content_encoding="gzip"),
    ]
    async with guarded(protocol, awaited, *answers) as (client, upstream):
        said = [await protocol.whole(client), await protocol.streamed(client)]

    assert ([protocol.refused] * 2, False) == ([one.finish for one in said], WORD in repr(said))
    assert {"identity"} == {seen.headers["accept-encoding"] for seen in upstream.requests}
