"""The SDKs' own clients in front of a scriptable upstream, one face for all: a protocol, sync or awaited.

A scenario is a coroutine that awaits what an SDK gives (`settled`), so that it is written once; `both` runs it with
blocking and with awaiting clients, and asserts that no task and no thread is left behind.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import pytest
from tests.guard.backends.upstream import Upstream, gives, sends
from tests.guard.build import PATIENCE, terms_config

from cosa_guard import Guard

pytest.register_assert_rewrite("tests.guard.transport.scenarios")

WORD = "zorkblat"
REFUSAL = "This assistant can't help with that."
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def made(config=None, **options):
    return Guard(config or terms_config(WORD), **{"judge": "rules", "accept_unexamined": True, **options})


def major(package):
    """The major version that is installed; 0 where none is."""
    if find_spec(package) is None:
        return 0
    from importlib.metadata import version

    return int(version(package).split(".")[0])


def needs(*packages):
    missing = [package for package in packages if find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


async def settled(value):
    """What a blocking or an awaited call gave."""
    return await value if inspect.isawaitable(value) else value


async def every(stream):
    """Everything in an iterator of either kind."""
    if hasattr(stream, "__aiter__"):
        return [item async for item in stream]
    return [*stream]


async def first(stream):
    """The next item of an iterator of either kind."""
    return await anext(stream) if hasattr(stream, "__anext__") else next(stream)


@asynccontextmanager
async def entered(manager):
    """A context manager of either kind."""
    if hasattr(manager, "__aenter__"):
        async with manager as inside:
            yield inside
    else:
        with manager as inside:
            yield inside


async def closed(client):
    await settled((client.aclose if hasattr(client, "aclose") else client.close)())


async def others(patience=PATIENCE):
    """Tasks beside this one, when the loop has had the time to close the generators that an SDK dropped."""
    end = asyncio.get_running_loop().time() + patience
    for _ in range(20):  # what was dropped gets a task that closes it
        await asyncio.sleep(0)
    while (left := asyncio.all_tasks() - {asyncio.current_task()}) and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.001)
    return left


def both(scenario):
    """Runs a coroutine with `awaited=False` and `awaited=True`; nothing of it may be left behind."""

    @functools.wraps(scenario)
    def test(*args, **given):
        threads = {*threading.enumerate()}

        async def run():
            await scenario(*args, **given)
            assert set() == await others()

        asyncio.run(run())
        left = {thread for thread in threading.enumerate() if thread.name != "cosa-judge"} - threads
        for thread in left:  # one that ends has until then
            thread.join(PATIENCE)
        assert [] == [thread for thread in left if thread.is_alive()]

    return pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])(test)


# --- answers of an upstream ---


def sse(body, name=""):
    data = body if isinstance(body, str) else json.dumps(body)
    return (f"event: {name}\n" if name else "") + f"data: {data}\n\n"


def named(events):
    return [sse(event, event["type"]) for event in events]


def words(text):
    """Pieces as a model would write them: a word each."""
    return [f" {word}" if at else word for at, word in enumerate(text.split(" "))]


SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}}
"""What the tool `look` takes."""


def arguments(query):
    return json.dumps({"q": query})


def parsed(text):
    """What arguments say; as they are where they are cut off."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def bits(text):
    return [text[low : low + 4] for low in range(0, len(text), 4)]


@dataclass
class Said:
    """What a client made of an answer."""

    text: str
    finish: str | None
    raw: Any = None
    calls: list = field(default_factory=list)
    """Of tools: name and arguments."""


class Chat:
    """Chat completions."""

    name, sdk, path = "chat", "openai", "/chat/completions"
    refused = "content_filter"
    framework = False
    tools = ({"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA}},)

    @property
    def refused_stream(self):
        return self.refused

    def client(self, awaited, url, **options):
        import openai

        kind = openai.AsyncOpenAI if awaited else openai.OpenAI
        return kind(base_url=url, **{"api_key": "sk-mine", "max_retries": 0, **options})

    @asynccontextmanager
    async def opened(self, awaited, url, wrap=lambda client: client, **options):
        client = wrap(self.client(awaited, url, **options))
        try:
            yield client
        finally:
            await settled(client.close())

    @staticmethod
    def messages(text):
        return [{"role": "user", "content": text}]

    def call(self, client, text="Hi.", **fields):
        return client.chat.completions.create(**{"model": "m", "messages": self.messages(text), **fields})

    async def whole(self, client, text="Hi.", **fields):
        raw = await settled(self.call(client, text, **fields))
        choice = raw.choices[0]
        calls = [(call.function.name, parsed(call.function.arguments)) for call in choice.message.tool_calls or ()]
        return Said(choice.message.content, choice.finish_reason, raw, calls)

    async def streamed(self, client, text="Hi.", **fields):
        chunks = await every(await settled(self.call(client, text, stream=True, **fields)))
        return self.gathered(chunks)

    @staticmethod
    def gathered(chunks):
        choices = [choice for chunk in chunks for choice in chunk.choices]
        finish = next((choice.finish_reason for choice in choices if choice.finish_reason), None)
        names, written = {}, {}
        for call in (call for choice in choices for call in choice.delta.tool_calls or ()):
            names[call.index] = names.get(call.index) or call.function.name
            written[call.index] = written.get(call.index, "") + (call.function.arguments or "")
        calls = [(names[at], parsed(text)) for at, text in sorted(written.items())]
        return Said("".join(choice.delta.content or "" for choice in choices), finish, chunks, calls)

    @staticmethod
    def body(*texts, **message):
        choices = [
            {"index": at, "finish_reason": "tool_calls" if "tool_calls" in message else "stop", "logprobs": None,
             "message": {"role": "assistant", "content": text, **message}}
            for at, text in enumerate(texts)
        ]
        return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": USAGE}

    @staticmethod
    def chunk(delta=None, finish=None, index=0):
        choice = {"index": index, "delta": delta or {}, "finish_reason": finish, "logprobs": None}
        return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

    def events(self, text):
        deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in words(text))]
        return [*(sse(self.chunk(delta)) for delta in deltas), sse(self.chunk(finish="stop")), sse("[DONE]")]

    def calling(self, *queries):
        """A reply that calls `look` for each of them."""
        return self.body(None, tool_calls=[
            {"id": f"call_{at}", "type": "function", "function": {"name": "look", "arguments": arguments(query)}}
            for at, query in enumerate(queries)
        ])

    def calling_events(self, *queries):
        """As `calling`, streamed."""
        deltas = [{"role": "assistant", "content": None}]
        for at, query in enumerate(queries):
            head = {"index": at, "id": f"call_{at}", "type": "function", "function": {"name": "look", "arguments": ""}}
            deltas += [{"tool_calls": [head]}]
            deltas += [{"tool_calls": [{"index": at, "function": {"arguments": piece}}]} for piece in bits(arguments(query))]
        return [*(sse(self.chunk(delta)) for delta in deltas), sse(self.chunk(finish="tool_calls")), sse("[DONE]")]


class Responses(Chat):
    """Responses."""

    name, path = "responses", "/responses"
    tools = ({"type": "function", "name": "look", "description": "Looks.", "parameters": SCHEMA, "strict": False},)

    def call(self, client, text="Hi.", **fields):
        return client.responses.create(**{"model": "m", "input": text, **fields})

    async def whole(self, client, text="Hi.", **fields):
        raw = await settled(self.call(client, text, **fields))
        return self.read(raw)

    @staticmethod
    def read(raw):
        why = raw.incomplete_details.reason if raw.incomplete_details else raw.status
        calls = [(item.name, parsed(item.arguments)) for item in raw.output if item.type == "function_call"]
        return Said(raw.output_text, why, raw, calls)

    async def streamed(self, client, text="Hi.", **fields):
        events = await every(await settled(self.call(client, text, stream=True, **fields)))
        said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        last = self.read(events[-1].response)
        assert said == last.text
        return Said(said, last.finish, events, last.calls)

    @staticmethod
    def message(text, status="completed"):
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"type": "message", "id": "msg_1", "status": status, "role": "assistant", "content": [part]}

    def body(self, *texts, output=None, status="completed"):
        usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7,
                 "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        return {"id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": "m", "error": None,
                "incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": True,
                "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0, "usage": usage,
                "output": [self.message(text) for text in texts] if output is None else output}

    def events(self, text):
        at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        empty = {**self.message("", "in_progress"), "content": []}
        begun = self.body(output=[], status="in_progress") | {"usage": None}
        events = [
            {"type": "response.created", "response": begun},
            {"type": "response.in_progress", "response": begun},
            {"type": "response.output_item.added", "output_index": 0, "item": empty},
            {"type": "response.content_part.added", **at, "part": part},
            *({"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []} for piece in words(text)),
            {"type": "response.output_text.done", **at, "text": text, "logprobs": []},
            {"type": "response.content_part.done", **at, "part": {**part, "text": text}},
            {"type": "response.output_item.done", "output_index": 0, "item": self.message(text)},
            {"type": "response.completed", "response": self.body(text)},
        ]
        return self.numbered(events)

    @staticmethod
    def numbered(events):
        return named([{**event, "sequence_number": at} for at, event in enumerate(events)])

    @staticmethod
    def function_call(at, query, status="completed"):
        return {"type": "function_call", "id": f"fc_{at}", "call_id": f"call_{at}", "name": "look", "status": status,
                "arguments": arguments(query) if status == "completed" else ""}

    def calling(self, *queries):
        return self.body(output=[self.function_call(at, query) for at, query in enumerate(queries)])

    def calling_events(self, *queries):
        begun = self.body(output=[], status="in_progress") | {"usage": None}
        events = [{"type": "response.created", "response": begun}]
        for at, query in enumerate(queries):
            here = {"item_id": f"fc_{at}", "output_index": at}
            events += [
                {"type": "response.output_item.added", "output_index": at, "item": self.function_call(at, query, "in_progress")},
                *({"type": "response.function_call_arguments.delta", **here, "delta": piece} for piece in bits(arguments(query))),
                {"type": "response.function_call_arguments.done", **here, "name": "look", "arguments": arguments(query)},
                {"type": "response.output_item.done", "output_index": at, "item": self.function_call(at, query)},
            ]
        return self.numbered([*events, {"type": "response.completed", "response": self.calling(*queries)}])


class Messages(Chat):
    """Anthropic's messages."""

    name, sdk, path = "messages", "anthropic", "/messages"
    refused = "refusal"
    tools = ({"name": "look", "description": "Looks.", "input_schema": SCHEMA},)

    def client(self, awaited, url, **options):
        import anthropic

        kind = anthropic.AsyncAnthropic if awaited else anthropic.Anthropic
        return kind(base_url=url.removesuffix("/v1"), **{"api_key": "sk-mine", "max_retries": 0, **options})

    def call(self, client, text="Hi.", **fields):
        return client.messages.create(**{"model": "m", "max_tokens": 50, "messages": self.messages(text), **fields})

    async def whole(self, client, text="Hi.", **fields):
        raw = await settled(self.call(client, text, **fields))
        calls = [(block.name, block.input) for block in raw.content if block.type == "tool_use"]
        return Said("".join(block.text for block in raw.content if block.type == "text"), raw.stop_reason, raw, calls)

    async def streamed(self, client, text="Hi.", **fields):
        events = await every(await settled(self.call(client, text, stream=True, **fields)))
        deltas = [event.delta for event in events if event.type == "content_block_delta"]
        finish = next((event.delta.stop_reason for event in events if event.type == "message_delta"), None)
        names = {event.index: event.content_block.name for event in events
                 if event.type == "content_block_start" and event.content_block.type == "tool_use"}
        pieces = [(event.index, event.delta.partial_json) for event in events
                  if event.type == "content_block_delta" and event.delta.type == "input_json_delta"]
        calls = [(name, parsed("".join(piece for at, piece in pieces if at == index))) for index, name in names.items()]
        return Said("".join(delta.text for delta in deltas if delta.type == "text_delta"), finish, events, calls)

    @staticmethod
    def body(*texts, content=None, stop_reason="end_turn"):
        blocks = [{"type": "text", "text": text} for text in texts]
        return {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": stop_reason,
                "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 4},
                "content": blocks if content is None else content}

    def events(self, text):
        start = self.body(content=[], stop_reason=None)
        return named([
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
            *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}} for piece in words(text)),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 4}},
            {"type": "message_stop"},
        ])

    @staticmethod
    def tool_use(at, query):
        return {"type": "tool_use", "id": f"toolu_{at}", "name": "look", "input": {"q": query}}

    def calling(self, *queries):
        return self.body(content=[self.tool_use(at, query) for at, query in enumerate(queries)], stop_reason="tool_use")

    def calling_events(self, *queries):
        events = [{"type": "message_start", "message": self.body(content=[], stop_reason=None)}]
        for at, query in enumerate(queries):
            events += [
                {"type": "content_block_start", "index": at, "content_block": {**self.tool_use(at, query), "input": {}}},
                *({"type": "content_block_delta", "index": at, "delta": {"type": "input_json_delta", "partial_json": piece}} for piece in bits(arguments(query))),
                {"type": "content_block_stop", "index": at},
            ]
        return named([
            *events,
            {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {"output_tokens": 4}},
            {"type": "message_stop"},
        ])


CHAT, RESPONSES, MESSAGES = Chat(), Responses(), Messages()
PROTOCOLS = [
    pytest.param(one, id=one.name, marks=needs(one.sdk)) for one in (CHAT, RESPONSES, MESSAGES)
]
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


def answering(protocol, text):
    """Answers as it is asked to: whole or as a stream."""
    whole, streamed = gives(protocol.body(text)), sends(*protocol.events(text))

    async def answer(exchange):
        await (streamed if exchange.seen.body.get("stream") else whole)(exchange)

    return answer


@asynccontextmanager
async def guarded(protocol, awaited, *answers, guard=None, wrapping=None, **options):
    """A guarded client and its upstream; when it is closed, the upstream has no connection left."""
    wrap = functools.partial((guard or made()).wrap, **(wrapping or {}))
    with Upstream(*answers) as upstream:
        async with protocol.opened(awaited, upstream.url, wrap, **options) as client:
            yield client, upstream
        assert upstream.wait_for_open(0)
