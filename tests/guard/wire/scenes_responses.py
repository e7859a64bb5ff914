"""Streams of OpenAI's responses, as scenes.py has those of chat completions."""

from __future__ import annotations

import json

from tests.guard.wire.scenes import WORD, sse, tokens

RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "in_progress",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
    "model": "m",
    "output": [],
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "usage": None,
}
USAGE = {"input_tokens": 3, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}, "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 8}


def numbered(bodies):
    """Events with their names and numbers."""
    return b"".join(sse({**body, "sequence_number": number}, body["type"]) for number, body in enumerate(bodies))


def part_of(text, **fields):
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": [], **fields}


def message(*parts, status="completed", name="msg_1"):
    return {"id": name, "type": "message", "role": "assistant", "status": status, "content": list(parts)}


def item_events(item, events, place=0, done=None):
    """An item between its first and last event."""
    empty = {**item, **({"status": "in_progress"} if "status" in item else {}), **{name: type(item[name])() for name in ("content", "summary", "arguments", "input") if name in item}}
    return [
        {"type": "response.output_item.added", "output_index": place, "item": empty},
        *events,
        {"type": "response.output_item.done", "output_index": place, "item": done or item},
    ]


def text_events(parts, place=0, index=0, beside=lambda at: {}, annotations=()):
    """The events of a text part."""
    spot = {"item_id": "msg_1", "output_index": place, "content_index": index}
    text = "".join(parts)
    return [
        {"type": "response.content_part.added", **spot, "part": part_of("")},
        *({"type": "response.output_text.delta", **spot, "delta": part, "logprobs": [], **beside(at)} for at, part in enumerate(parts)),
        {"type": "response.output_text.done", **spot, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **spot, "part": part_of(text, annotations=list(annotations))},
    ]


def response(items, last="completed", **fields):
    """The events of a response; items are pairs of an item and its events."""
    started = {**RESPONSE, **fields}
    whole = {**started, "status": last, "output": [item for item, _ in items], "usage": USAGE}
    return [
        {"type": "response.created", "response": started},
        {"type": "response.in_progress", "response": started},
        *(event for _, events in items for event in events),
        {"type": f"response.{last}", "response": whole},
    ]


def spoken(parts, **options):
    """A message with one text part, and its events."""
    item = message(part_of("".join(parts)))
    return item, item_events(item, text_events(parts, **options))


def called(arguments, kind="function_call", name="search", place=0):
    key = "arguments" if kind == "function_call" else "input"
    item = {"id": "fc_1", "type": kind, "call_id": "call_1", "name": name, key: arguments, "status": "completed"}
    spot = {"item_id": "fc_1", "output_index": place}
    event = f"response.{kind}_arguments" if key == "arguments" else f"response.{kind}_input"
    deltas = [{"type": f"{event}.delta", **spot, "delta": arguments[low : low + 7]} for low in range(0, len(arguments), 7)]
    return item, item_events(item, [*deltas, {"type": f"{event}.done", **spot, key: arguments}], place)


def thought(parts, field="summary"):
    """A reasoning item: its summary, or its own text."""
    text, kind = "".join(parts), "summary_text" if field == "summary" else "reasoning_text"
    item = {"id": "rs_1", "type": "reasoning", "summary": [], field: [{"type": kind, "text": text}]}
    spot = {"item_id": "rs_1", "output_index": 0, f"{field}_index": 0}
    stem = "response.reasoning_summary_text" if field == "summary" else "response.reasoning_text"
    added = "response.reasoning_summary_part" if field == "summary" else "response.content_part"
    events = [
        {"type": f"{added}.added", **spot, "part": {"type": kind, "text": ""}},
        *({"type": f"{stem}.delta", **spot, "delta": part} for part in parts),
        {"type": f"{stem}.done", **spot, "text": text},
        {"type": f"{added}.done", **spot, "part": {"type": kind, "text": text}},
    ]
    return item, item_events(item, events)


def stream(*items, **options):
    return numbered(response(items, **options))


def _refusal(at):
    parts = tokens(at)
    text, spot = "".join(parts), {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    item = message({"type": "refusal", "refusal": text})
    events = [
        {"type": "response.content_part.added", **spot, "part": {"type": "refusal", "refusal": ""}},
        *({"type": "response.refusal.delta", **spot, "delta": part} for part in parts),
        {"type": "response.refusal.done", **spot, "refusal": text},
        {"type": "response.content_part.done", **spot, "part": {"type": "refusal", "refusal": text}},
    ]
    return stream((item, item_events(item, events)))


def beside(make):
    """A clean message with an event of its own at the position."""

    def scene(at):
        item, events = spoken(tokens())
        return stream((item, [*events[: at + 2], make(at), *events[at + 2 :]]))

    return scene


def changed(change, which=-1):
    """A clean stream in which one event is changed."""

    def scene(at):
        events = json.loads(json.dumps(response([spoken(tokens())])))
        found = which if isinstance(which, int) else next(place for place, event in enumerate(events) if event["type"] == which)
        change(events[found])
        return numbered(events)

    return scene


def _logged(make):
    def scene(at):
        def logs(here):
            entry = {"token": tokens()[here], "logprob": -0.1, "bytes": [*tokens()[here].encode()], "top_logprobs": []}
            return {"logprobs": [make(entry) if here == at else entry]}

        return stream(spoken(tokens(), beside=logs))

    return scene


def between(at):
    """The word cut between two parts of one message."""
    words = tokens()
    words[at] = " zork"
    item = message(part_of("".join(words[: at + 1])), part_of("".join(["blat", *words[at + 1 :]])))
    return stream((item, item_events(item, [*text_events(words[: at + 1]), *text_events(["blat", *words[at + 1 :]], index=1)])))


CITATION = {"type": "url_citation", "title": f"The {WORD}", "url": "https://a.example", "start_index": 0, "end_index": 1}
SPOT = {"item_id": "msg_1", "output_index": 0, "content_index": 0}

RESPONSES = {
    "text": lambda at: stream(spoken(tokens(at))),
    "text in two tokens": lambda at: stream(spoken(tokens(at, split=True))),
    "refusal": _refusal,
    "reasoning": lambda at: stream(thought(tokens(at), "content")),
    "reasoning summary": lambda at: stream(thought(tokens(at, split=True))),
    "function arguments": lambda at: stream(called(json.dumps({"query": "".join(tokens(at))}))),
    "escaped arguments": lambda at: stream(called(json.dumps({"query": "".join(tokens(at))}).replace("zork", "\\u007aork"))),
    "argument name": lambda at: stream(called(json.dumps({WORD: 1}))),
    "custom tool input": lambda at: stream(called("".join(tokens(at)), "custom_tool_call")),
    "tool name": lambda at: stream(called("{}", name=f"{WORD}_tool")),
    "tool name in the end": lambda at: numbered([*response([called("{}")])[:-2], {"type": "response.output_item.done", "output_index": 0, "item": {**called("{}")[0], "name": WORD}}, response([called("{}")])[-1]]),
    "done text": changed(lambda event: event.update(text=f"the {WORD}"), "response.output_text.done"),
    "done part": changed(lambda event: event["part"].update(text=f"the {WORD}"), "response.content_part.done"),
    "done item": changed(lambda event: event["item"]["content"][0].update(text=f"the {WORD}"), "response.output_item.done"),
    "done response": changed(lambda event: event["response"]["output"][0]["content"][0].update(text=f"the {WORD}")),
    "another item in the end": changed(lambda event: event["response"]["output"].append(message(part_of(f"the {WORD}"), name="msg_2"))),
    "first item": changed(lambda event: event["item"].update(content=[part_of(f"the {WORD}")]), "response.output_item.added"),
    "first part": changed(lambda event: event["part"].update(text=f"the {WORD}"), "response.content_part.added"),
    "first response": changed(lambda event: event["response"].update(output=[message(part_of(f"the {WORD}"))]), "response.created"),
    "output_text": changed(lambda event: event["response"].update(output_text=f"the {WORD}")),
    "instructions": changed(lambda event: event["response"].update(instructions=f"Never say {WORD}."), "response.created"),
    "instructions in the end": changed(lambda event: event["response"].update(instructions=[message(part_of(f"Never say {WORD}."))])),
    "tools": changed(lambda event: event["response"].update(tools=[{"type": "function", "name": "x", "description": f"a {WORD}"}]), "response.in_progress"),
    "metadata": changed(lambda event: event["response"].update(metadata={"note": WORD}), "response.created"),
    "error of a response": changed(lambda event: event["response"].update(error={"code": "server_error", "message": f"the {WORD}"})),
    "annotation": beside(lambda at: {"type": "response.output_text.annotation.added", **SPOT, "annotation_index": 0, "annotation": CITATION}),
    "annotation in the end": changed(lambda event: event["item"]["content"][0].update(annotations=[CITATION]), "response.output_item.done"),
    "transcript": beside(lambda at: {"type": "response.audio.transcript.delta", "delta": f" the {WORD}"}),
    "sound": beside(lambda at: {"type": "response.audio.delta", "delta": WORD}),
    "picture": beside(lambda at: {"type": "response.image_generation_call.partial_image", "output_index": 1, "item_id": "ig_1", "partial_image_b64": WORD, "partial_image_index": 0}),
    "code": beside(lambda at: {"type": "response.code_interpreter_call_code.delta", "output_index": 1, "item_id": "ci_1", "delta": f"print('{WORD}')"}),
    "code in pieces": lambda at: numbered([*response([spoken(tokens())])[:-1], *({"type": "response.code_interpreter_call_code.delta", "output_index": 1, "item_id": "ci_1", "delta": half} for half in ("zork", "blat")), response([spoken(tokens())])[-1]]),
    "arguments of a server's tool": beside(lambda at: {"type": "response.mcp_call_arguments.delta", "output_index": 1, "item_id": "mcp_1", "delta": f'{{"a": "{WORD}"}}'}),
    "unknown event": beside(lambda at: {"type": "response.musing.delta", "output_index": 0, "delta": f"the {WORD}"}),
    "unknown type": beside(lambda at: {"type": f"the {WORD}"}),
    "unknown field": changed(lambda event: event.update(note=f"the {WORD}"), "response.content_part.added"),
    "unknown item": changed(lambda event: event["response"]["output"].append({"id": "x_1", "type": "program", "code": f"print('{WORD}')"})),
    "id that is a sentence": changed(lambda event: event["item"].update(id=f"this is not an id but a whole {WORD} sentence"), "response.output_item.added"),
    "logprobs alternatives": _logged(lambda entry: {**entry, "top_logprobs": [{"token": f" {WORD}", "logprob": -1.0, "bytes": None}]}),
    "logprobs of another text": _logged(lambda entry: {**entry, "token": f" {WORD}"}),
    "error": beside(lambda at: {"type": "error", "code": "server_error", "message": f"the {WORD}", "param": None}),
    "name of an event": lambda at: stream(spoken(tokens())).replace(b"event: response.in_progress", f"event: {WORD}".encode()),
    "after the end": lambda at: stream(spoken(tokens())) + numbered(text_events([f" {WORD}"])),
    "half an event": lambda at: stream(spoken(tokens()))[:-900] + numbered(text_events([f" {WORD}"]))[:-2],
}
