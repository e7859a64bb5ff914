"""One answer of each protocol that uses every field and event, and what a caller gets of it."""

from __future__ import annotations

import asyncio
import json

from tests.guard.build import terms_config
from tests.guard.wire import scenes_anthropic, scenes_responses
from tests.guard.wire.scenes import WORD, anthropic, block, chat, chunk, pieces, sse

from cosa_guard import Guard
from cosa_guard.exchange import Exchange, Head
from cosa_guard.wire import protocols

CHAT, RESPONSES, ANTHROPIC = "/chat/completions", "/responses", "/messages"
PATHS = (CHAT, RESPONSES, ANTHROPIC)
JSON, EVENTS = "application/json", "text/event-stream"
REFUSAL = "This assistant can't help with that."
CITATION = {"type": "url_citation", "title": "t", "url": "https://a.example", "start_index": 0, "end_index": 1}
TOKEN = {"token": "Fine.", "logprob": -0.1, "bytes": [*b"Fine."], "top_logprobs": [{"token": "Good.", "logprob": -1.0, "bytes": None}]}

ASKED = {
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "Hello."}], "tools": [{"type": "function", "function": {"name": "search"}}]},
    RESPONSES: {"model": "m", "input": "Hello.", "tools": [{"type": "function", "name": "search", "parameters": {}, "strict": False}]},
    ANTHROPIC: {"model": "m", "max_tokens": 500, "messages": [{"role": "user", "content": "Hello."}], "tools": [{"name": "search", "input_schema": {"type": "object"}}]},
}
STRUCTURED = {
    CHAT: {"response_format": {"type": "json_object"}},
    RESPONSES: {"text": {"format": {"type": "json_object"}}},
    ANTHROPIC: {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
}

# --- chat completions ---

FILTERED = {"hate": {"filtered": False, "severity": "safe"}}
CALLS = [
    {"index": 0, "id": "call_1", "type": "function", "function": {"name": "search", "arguments": '{"q":"a"}'}},
    {"index": 1, "id": "call_2", "type": "custom", "custom": {"name": "search", "input": "ls"}},
]
MESSAGE = {
    "role": "assistant", "content": "Fine.", "refusal": "No.", "reasoning": "Hm.", "reasoning_content": "So.", "tool_calls": CALLS,
    "function_call": {"name": "search", "arguments": "{}"}, "annotations": [{"type": "url_citation", "url_citation": CITATION}],
    "audio": {"id": "a", "expires_at": 1, "transcript": "Fine."},
}  # fmt: skip
ENVELOPE = {
    "id": "chatcmpl-1", "created": 1, "model": "m", "service_tier": "default", "system_fingerprint": "fp_1", "usage": {"prompt_tokens": 1, "details": {"cached": 0}},
    "timings": {"ms": 1.5}, "provider": "P", "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": FILTERED}],
}  # fmt: skip
CHOICE = {"index": 0, "finish_reason": "stop", "native_finish_reason": "stop", "stop_reason": None, "content_filter_results": FILTERED, "logprobs": {"content": [TOKEN], "refusal": None}}


def chunked(delta, **choice):
    return {**ENVELOPE, "object": "chat.completion.chunk", "obfuscation": "xx", "choices": [{"index": 0, "delta": delta, "finish_reason": None, **choice}]}


CHUNKS = [
    chunked({"role": "assistant", "content": ""}),
    *(chunked({name: MESSAGE[name]}) for name in ("reasoning", "reasoning_content")),
    chunked({"content": "Fine."}, logprobs=CHOICE["logprobs"]),
    *(chunked({name: MESSAGE[name]}) for name in ("refusal", "tool_calls", "function_call", "annotations", "audio")),
    chunked({"tool_calls": [{"index": 0, "function": {"arguments": " "}}]}),
    chunked({}, finish_reason="stop"),
    {**ENVELOPE, "choices": []},
]

# --- responses ---

SPOKEN = scenes_responses.message(scenes_responses.part_of("Fine.", annotations=[CITATION], logprobs=[TOKEN]), {"type": "refusal", "refusal": "No."})
SPOT = {**scenes_responses.SPOT, "output_index": 2}


def at(pair, place):
    """An item and its events, moved to another place."""
    return pair[0], [{**event, "output_index": place} for event in pair[1]]


ITEMS = [
    scenes_responses.thought(["Hm."]),
    at(scenes_responses.thought(["So."], "content"), 1),
    (SPOKEN, [
        *scenes_responses.text_events(["Fine."], place=2, beside=lambda _: {"logprobs": [TOKEN], "obfuscation": "xx"}),
        {"type": "response.refusal.delta", **SPOT, "content_index": 1, "delta": "No."},
        {"type": "response.refusal.done", **SPOT, "content_index": 1, "refusal": "No."},
        {"type": "response.output_text.annotation.added", **SPOT, "annotation_index": 0, "annotation": CITATION},
    ]),
    at(scenes_responses.called('{"q":"a"}'), 3),
    at(scenes_responses.called("ls", "custom_tool_call"), 4),
]  # fmt: skip
RESPONSE_EVENTS = scenes_responses.response(ITEMS, service_tier="auto", tool_choice={"type": "function", "name": "search"})
RESPONSE_EVENTS.insert(2, {"type": "keepalive"})
RESPONSE = {**RESPONSE_EVENTS[-1]["response"], "output": [*(item for item, _ in ITEMS)], "output_text": "Fine."}
RESPONSE["output"][1] = {**RESPONSE["output"][1], "encrypted_content": "c2Vh"}

# --- Anthropic's messages ---

CITED = {"type": "char_location", "cited_text": "x", "document_title": "t"}
BLOCKS = [
    {"type": "thinking", "thinking": "Hm.", "signature": "c2Vh"},
    {"type": "redacted_thinking", "data": "c2Vh"},
    {"type": "text", "text": "Fine.", "citations": [CITED]},
    {"type": "tool_use", "id": "toolu_1", "name": "search", "input": {"q": "a"}},
]
ENDED = {"stop_reason": "end_turn", "stop_sequence": "END", "stop_details": {"type": "refusal", "category": None, "explanation": "why"}, "container": {"id": "c_1", "expires_at": "2026-01-01"}}
ANTHROPIC_REPLY = {**scenes_anthropic.MESSAGE, "content": BLOCKS, **ENDED}


def parsed(stream):
    return [json.loads(line[6:]) for line in stream.decode().split("\n") if line.startswith("data: {")]


ANTHROPIC_EVENTS = parsed(scenes_anthropic.stream(scenes_anthropic.thought(["Hm."]), scenes_anthropic.spoken(["Fine."], 1), scenes_anthropic.called('{"q":"a"}', place=2)))
ANTHROPIC_EVENTS.insert(-6, {"type": "content_block_delta", "index": 1, "delta": {"type": "citations_delta", "citation": CITED}})

REPLIES = {CHAT: {**ENVELOPE, "object": "chat.completion", "choices": [{**CHOICE, "message": MESSAGE}]}, RESPONSES: RESPONSE, ANTHROPIC: ANTHROPIC_REPLY}
STREAMS = {CHAT: CHUNKS, RESPONSES: RESPONSE_EVENTS, ANTHROPIC: ANTHROPIC_EVENTS}


def streamed(path, events):
    """Events as bytes, with their names and the protocol's end."""
    named = (sse(event, "" if path == CHAT else str(event.get("type"))) for event in events)
    return b"".join(named) + (sse("[DONE]") if path == CHAT else b"")


def answers_saying(path, parts):
    """A stream and a whole reply that say the parts, and nothing else."""
    text = "".join(parts)
    if path == CHAT:
        return chat([chunk({"content": part}) for part in parts]), {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
    if path == ANTHROPIC:
        return anthropic(block("text", "text", parts)), {**scenes_anthropic.MESSAGE, "content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}
    item = scenes_responses.message(scenes_responses.part_of(text))
    return scenes_responses.stream(scenes_responses.spoken(parts)), {**scenes_responses.RESPONSE, "status": "completed", "output": [item]}


def said_in(path, out):
    """The text of a streamed answer."""
    events = parsed(out)
    if path == CHAT:
        return "".join(choice["delta"].get("content") or "" for event in events for choice in event.get("choices", ()))
    field = "text" if path == ANTHROPIC else None
    deltas = [event["delta"] for event in events if event["type"] in {"content_block_delta", "response.output_text.delta"}]
    return "".join(one[field] if field else one for one in deltas)


# --- through the guard ---


class Upstream:
    """Answers with these bytes, in pieces of a size."""

    def __init__(self, given, kind=JSON, *, size=97, status=200, headers=()):
        self._given = given if isinstance(given, bytes) else json.dumps(given).encode()
        self._kind, self._size, self._status, self._headers = kind, size, status, headers
        self.bodies = []

    def stream(self, request):
        self.bodies.append(request.body)
        yield Head(self._status, (*((("content-type", self._kind),) if self._kind else ()), *self._headers))
        yield from pieces(self._given, self._size)

    async def astream(self, request):
        for piece in self.stream(request):
            yield piece


def guard(**enforcement):
    return Guard(terms_config(WORD, **enforcement), judge="rules", accept_unexamined=True)


GUARDS = {"hold": guard(), "whole": guard(stream="whole"), "trail": guard(stream="trail", default="forbid")}


def exchanged(path, upstream, *, one=None, mode="hold", awaited=False, **body):
    """Head, body and report."""
    exchange = Exchange(one or GUARDS[mode], protocols[path], {**ASKED[path], **body}, request="r")
    if awaited:

        async def run():
            return [piece async for piece in exchange.astream(upstream)]

        head, *out = asyncio.run(run())
    else:
        head, *out = exchange.stream(upstream)
    return head, b"".join(out), exchange.report


def of_events(path, events, *, size=97, **options):
    given = events if isinstance(events, bytes) else streamed(path, events)
    return exchanged(path, Upstream(given, EVENTS, size=size), stream=True, **options)


def of_reply(path, reply, **options):
    return exchanged(path, Upstream(reply), **options)
