"""Streams of Anthropic's messages, as scenes.py has those of chat completions."""

from __future__ import annotations

import json

from tests.guard.wire.scenes import WORD, sse, tokens

MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 1}}


def named(bodies):
    return b"".join(sse(body, body["type"]) for body in bodies)


def block_events(start, deltas, place=0):
    """The events of a content block."""
    return [
        {"type": "content_block_start", "index": place, "content_block": start},
        *({"type": "content_block_delta", "index": place, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": place},
    ]


def spoken(parts, place=0):
    return block_events({"type": "text", "text": ""}, [{"type": "text_delta", "text": part} for part in parts], place)


def thought(parts, place=0):
    deltas = [*({"type": "thinking_delta", "thinking": part} for part in parts), {"type": "signature_delta", "signature": "c2VhbA=="}]
    return block_events({"type": "thinking", "thinking": "", "signature": ""}, deltas, place)


def called(arguments, name="search", place=0, first=None):
    deltas = [{"type": "input_json_delta", "partial_json": arguments[low : low + 7]} for low in range(0, len(arguments), 7)]
    return block_events({"type": "tool_use", "id": "toolu_1", "name": name, "input": first or {}}, deltas, place)


def events(blocks, reason="end_turn", **fields):
    return [
        {"type": "message_start", "message": {**MESSAGE, **fields}},
        {"type": "ping"},
        *blocks,
        {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]


def stream(*blocks, **options):
    return named(events([event for block in blocks for event in block], **options))


def beside(*extra):
    """A clean text with events of their own at the position."""

    def scene(at):
        block = spoken(tokens())
        return stream([*block[: at + 1], *extra, *block[at + 1 :]])

    return scene


def changed(change, kind):
    """A clean stream in which the first event of a kind is changed."""

    def scene(at):
        bodies = json.loads(json.dumps(events(spoken(tokens()))))
        change(next(body for body in bodies if body["type"] == kind))
        return named(bodies)

    return scene


def between(at):
    """The word cut between two blocks."""
    words = tokens()
    words[at] = " zork"
    return stream(spoken(words[: at + 1]), spoken(["blat", *words[at + 1 :]], 1))


def _delta(**delta):
    return {"type": "content_block_delta", "index": 0, "delta": delta}


CITATION = {"type": "char_location", "cited_text": f"the {WORD}", "document_index": 0, "document_title": "A", "start_char_index": 0, "end_char_index": 1}
RESULT = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"type": "web_search_result", "title": f"The {WORD}", "url": "https://a.example"}]}

ANTHROPIC = {
    "text": lambda at: stream(spoken(tokens(at))),
    "text in two tokens": lambda at: stream(spoken(tokens(at, split=True))),
    "thinking": lambda at: stream(thought(tokens(at))),
    "tool input": lambda at: stream(called(json.dumps({"query": "".join(tokens(at))})), reason="tool_use"),
    "escaped tool input": lambda at: stream(called(json.dumps({"query": "".join(tokens(at))}).replace("zork", "\\u007aork"))),
    "first tool input": lambda at: stream(called("", first={"query": f"the {WORD}"})),
    "input name": lambda at: stream(called(json.dumps({WORD: 1}))),
    "tool name": lambda at: stream(called("{}", name=f"{WORD}_tool")),
    "first text": changed(lambda event: event["content_block"].update(text=f"the {WORD}"), "content_block_start"),
    "first message": changed(lambda event: event["message"].update(content=[{"type": "text", "text": f"the {WORD}"}]), "message_start"),
    "citation": beside(_delta(type="citations_delta", citation=CITATION)),
    "first citation": changed(lambda event: event["content_block"].update(citations=[CITATION]), "content_block_start"),
    "signature that is text": beside(_delta(type="signature_delta", signature=f"signed: the {WORD}")),
    "stop sequence": changed(lambda event: event["delta"].update(stop_sequence=f"\n\n{WORD}:"), "message_delta"),
    "stop details": changed(lambda event: event["delta"].update(stop_details={"type": "refusal", "category": None, "explanation": f"the {WORD}"}), "message_delta"),
    "search result": lambda at: stream(spoken(tokens()), block_events(RESULT, [], 1)),
    "server's tool": lambda at: stream(block_events({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}, [{"type": "input_json_delta", "partial_json": f'{{"query": "{WORD}"}}'}]), spoken(tokens(), 1)),
    "unknown delta": beside(_delta(type="musing_delta", musing=f"the {WORD}")),
    "unknown delta in pieces": beside(_delta(type="musing_delta", musing="the zork"), _delta(type="musing_delta", musing="blat")),
    "unknown event": beside({"type": "musing", "note": f"the {WORD}"}),
    "unknown type": beside({"type": f"the {WORD}"}),
    "unknown field": changed(lambda event: event.update(note=f"the {WORD}"), "content_block_start"),
    "usage": changed(lambda event: event["usage"].update(note=f"what is this {WORD} doing in the usage"), "message_delta"),
    "ping": beside({"type": "ping", "note": f"the {WORD}"}),
    "error": beside({"type": "error", "error": {"type": "api_error", "message": f"the {WORD}"}}),
    "name of an event": lambda at: stream(spoken(tokens())).replace(b"event: ping", f"event: {WORD}".encode()),
    "hidden behind a ping": lambda at: stream(spoken(tokens(at))).replace(b"event: content_block_delta", b"event: ping"),
    "comment": lambda at: stream(spoken(tokens())).replace(b"event: ping", f": the {WORD}\nevent: ping".encode()),
    "after the end": lambda at: stream(spoken(tokens())) + named(spoken([f" {WORD}"])),
    "half an event": lambda at: stream(spoken(tokens()))[:-200] + named(spoken([f" {WORD}"]))[:-2],
}
