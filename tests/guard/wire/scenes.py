"""Streams of 200 tokens with a forbidden word in any field and event that a protocol has, and what a client reads of them.

A scene is a function from the word's position to the bytes of a stream. What a client could read is found here by
other means than the code under test: every string of every event, put together by the path where it stands.
"""

from __future__ import annotations

import contextlib
import json

WORD = "zorkblat"
TOKENS = 200


def tokens(position=None, split=False):
    """200 tokens, a sentence every ten; the word at a position, in one piece or in two."""
    out = [f" word{at}" + ("." if at % 10 == 9 else "") for at in range(TOKENS)]
    if position is not None:
        out[position : position + 1] = [" zork", "blat"] if split else [f" {WORD}"]
    return out


def sse(body, name="", prefix=""):
    data = body if isinstance(body, str) else json.dumps(body)
    return (prefix + (f"event: {name}\n" if name else "") + f"data: {data}\n\n").encode()


# --- chat completions ---


def chunk(delta=None, finish=None, index=0, choice=None, **top):
    choices = [{"index": index, "delta": delta or {}, "finish_reason": finish, **(choice or {})}]
    return sse({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **top})


def chat(events, finish="stop"):
    return b"".join([chunk({"role": "assistant", "content": ""}), *events, chunk({}, finish), sse("[DONE]")])


def chat_text(field, split=False):
    return lambda at: chat([chunk({field: token}) for token in tokens(at, split)])


def chat_beside(make):
    """A clean stream of content with an event of its own at the position."""

    def scene(at):
        events = [chunk({"content": token}) for token in tokens()]
        return chat([*events[:at], *make(at), *events[at:]])

    return scene


def call(**function):
    return chunk({"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]})


def chat_arguments(at):
    text = json.dumps({"query": "".join(tokens(at))})
    return chat([call(name="search", arguments=""), *(call(arguments=text[low : low + 7]) for low in range(0, len(text), 7))], "tool_calls")


def chat_escaped(at):
    text = json.dumps({"query": "".join(tokens(at))}).replace("zork", "\\u007aork")
    return chat([call(name="search", arguments=text[low : low + 7]) for low in range(0, len(text), 7)], "tool_calls")


def logged(token, *others):
    def entry(text):
        return {"token": text, "logprob": -0.1, "bytes": list(text.encode())}

    return {"logprobs": {"content": [{**entry(token), "top_logprobs": [entry(other) for other in others]}]}}


def chat_other_tokens(at):
    return chat([chunk({"content": token}, choice=logged(token, f" {WORD}" if here == at else " x")) for here, token in enumerate(tokens())])


def chat_false_tokens(at):
    return chat([chunk({"content": token}, choice=logged(f" {WORD}" if here == at else token)) for here, token in enumerate(tokens())])


def chat_choices(at):
    clean = [chunk({"content": token}, index=0) for token in tokens()]
    bad = [chunk({"content": token}, index=1) for token in tokens(at)]
    return b"".join([*(one for pair in zip(clean, bad, strict=True) for one in pair), chunk({}, "stop", 0), chunk({}, "stop", 1), sse("[DONE]")])


def chat_together(at):
    def both(left, right):
        choices = [{"index": index, "delta": {"content": text}, "finish_reason": None} for index, text in enumerate((left, right))]
        return sse({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices})

    return b"".join([*(both(*pair) for pair in zip(tokens(), tokens(at), strict=True)), chunk({}, "stop", 0), chunk({}, "stop", 1), sse("[DONE]")])


def chat_switching(at):
    """Reasoning and content in turns, the word cut between them."""
    words = tokens()
    words[at] = " zork"
    events = [chunk({"content" if here % 2 else "reasoning_content": token}) for here, token in enumerate(words)]
    kind = "content" if at % 2 else "reasoning_content"
    return chat([*events[: at + 1], chunk({"reasoning_content" if kind == "content" else "content": " so"}), chunk({kind: "blat"}), *events[at + 1 :]])


CHAT = {
    "content": chat_text("content"),
    "content in two tokens": chat_text("content", split=True),
    "refusal": chat_text("refusal"),
    "reasoning_content": chat_text("reasoning_content"),
    "reasoning": chat_text("reasoning", split=True),
    "tool arguments": chat_arguments,
    "escaped tool arguments": chat_escaped,
    "tool name": chat_beside(lambda at: [call(name=f"{WORD}_tool", arguments="{}")]),
    "argument name": chat_beside(lambda at: [call(name="search", arguments=json.dumps({WORD: 1}))]),
    "custom tool input": chat_beside(
        lambda at: [chunk({"tool_calls": [{"index": 0, "id": "c", "type": "custom", "custom": {"name": "search", "input": f"a {WORD}"}}]})]
    ),
    "function_call": chat_beside(lambda at: [chunk({"function_call": {"name": "search", "arguments": f'{{"a": "{WORD}"}}'}})]),
    "citation": chat_beside(
        lambda at: [chunk({"annotations": [{"type": "url_citation", "url_citation": {"title": f"The {WORD}", "url": "https://a.example"}}]})]
    ),
    "transcript": chat_beside(lambda at: [chunk({"audio": {"id": "a", "transcript": f"the {WORD}"}})]),
    "logprobs alternatives": chat_other_tokens,
    "logprobs of another text": chat_false_tokens,
    "second choice": chat_choices,
    "two choices in one event": chat_together,
    "in turns with reasoning": chat_switching,
    "unknown delta field": chat_beside(lambda at: [chunk({"musings": f"the {WORD}"})]),
    "unknown delta field in pieces": chat_beside(lambda at: [chunk({"musings": "the zork"}), chunk({"musings": "blat"})]),
    "unknown choice field": chat_beside(lambda at: [chunk({}, choice={"extra": {"deep": [WORD]}})]),
    "unknown top field": chat_beside(lambda at: [chunk({}, vendor={"note": f"some {WORD} here"})]),
    "unknown name": chat_beside(lambda at: [chunk({}, choice={"extra": {WORD: 1}})]),
    "character codes": chat_beside(lambda at: [chunk({}, choice={"extra": [*WORD.encode()]})]),
    "content as parts": chat_beside(lambda at: [chunk({"content": [{"type": "text", "text": WORD}]})]),
    "id that is a sentence": chat_beside(lambda at: [chunk({}, id=f"this is not an id but a whole {WORD} sentence")]),
    "usage": chat_beside(lambda at: [sse({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": {"note": f"what is this {WORD} doing in the usage"}})]),
    "error": chat_beside(lambda at: [sse({"error": {"message": f"the {WORD}", "type": "t", "code": "c"}})]),
    "comment": chat_beside(lambda at: [f": the {WORD}\n\n".encode()]),
    "comment in an event": chat_beside(lambda at: [sse(json.loads(chunk({"content": "x"})[6:]), prefix=f": the {WORD}\n")]),
    "event id": chat_beside(lambda at: [sse(json.loads(chunk({"content": "x"})[6:]), prefix=f"id: {WORD}\n")]),
    "after the end": lambda at: chat([chunk({"content": token}) for token in tokens()]) + chunk({"content": WORD}),
    "after the choice's end": lambda at: chat([chunk({"content": "a"}), chunk({}, "stop"), chunk({"content": f" {WORD}"})]),
    "half an event": lambda at: chat_text("content")(None)[:-40] + chunk({"content": WORD})[:-2],
}


# --- Anthropic messages ---


def named(kind, **body):
    return sse({"type": kind, **body}, kind)


def begun(*content, **message):
    usage = {"input_tokens": 5, "output_tokens": 1}
    whole = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [*content], "stop_reason": None, "stop_sequence": None, "usage": usage}
    return named("message_start", message={**whole, **message})


def started(index, **content):
    return named("content_block_start", index=index, content_block=content)


def delta(index, **content):
    return named("content_block_delta", index=index, delta=content)


def stopped(index):
    return named("content_block_stop", index=index)


def over(reason="end_turn", **more):
    return named("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage={"output_tokens": 9}, **more) + named("message_stop")


def block(kind, name, texts, index=0):
    initial = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}[kind]
    return [started(index, type=kind, **initial), *(delta(index, type=f"{name}_delta", **{name: text}) for text in texts), stopped(index)]


def anthropic(events, **end):
    return b"".join([begun(), *events, over(**end)])


def anthropic_beside(make):
    """A clean text with events of their own at the position."""

    def scene(at):
        events = block("text", "text", tokens())
        return anthropic([*events[: at + 1], *make(at), *events[at + 1 :]])

    return scene


def anthropic_tool(at, split=True):
    text = json.dumps({"query": "".join(tokens(at))})
    parts = [text[low : low + 7] for low in range(0, len(text), 7)]
    return anthropic(
        [started(0, type="tool_use", id="toolu_1", name="search", input={}), *(delta(0, type="input_json_delta", partial_json=part) for part in parts), stopped(0)],
        reason="tool_use",
    )


def anthropic_second(*content):
    """A second block after the clean one."""
    return lambda at: anthropic([*block("text", "text", tokens()), *content])


ANTHROPIC = {
    "text": lambda at: anthropic(block("text", "text", tokens(at))),
    "text in two tokens": lambda at: anthropic(block("text", "text", tokens(at, split=True))),
    "thinking": lambda at: anthropic([*block("thinking", "thinking", tokens(at)), *block("text", "text", tokens(), 1)]),
    "tool input": anthropic_tool,
    "text of a block's start": anthropic_second(started(1, type="text", text=f"the {WORD}"), stopped(1)),
    "thinking of a block's start": anthropic_second(started(1, type="thinking", thinking=f"the {WORD}", signature=""), stopped(1)),
    "input of a block's start": anthropic_second(started(1, type="tool_use", id="t", name="search", input={"q": [WORD]}), stopped(1)),
    "tool name": anthropic_second(started(1, type="tool_use", id="t", name=WORD, input={}), stopped(1)),
    "citation": anthropic_beside(lambda at: [delta(0, type="citations_delta", citation={"type": "char_location", "cited_text": f"the {WORD}", "document_title": "d"})]),
    "signature that is a sentence": anthropic_beside(lambda at: [delta(0, type="signature_delta", signature=f"the {WORD}")]),
    "redacted thinking that is a sentence": anthropic_second(started(1, type="redacted_thinking", data=f"the {WORD}!"), stopped(1)),
    "server tool": anthropic_second(started(1, type="server_tool_use", id="s", name="web_search", input={"query": WORD}), stopped(1)),
    "server tool's result": anthropic_second(started(1, type="web_search_tool_result", tool_use_id="s", content=[{"type": "web_search_result", "title": WORD, "url": "u"}]), stopped(1)),
    "unknown block": anthropic_second(started(1, type="musing", musing=WORD), stopped(1)),
    "unknown delta": anthropic_beside(lambda at: [delta(0, type="musing_delta", musing=f"a {WORD}")]),
    "unknown delta in pieces": anthropic_beside(lambda at: [delta(0, type="musing_delta", musing="a zork"), delta(0, type="musing_delta", musing="blat")]),
    "unknown event": anthropic_beside(lambda at: [named("musing", text=f"a {WORD}")]),
    "unknown field of the end": lambda at: anthropic(block("text", "text", tokens()), context={"note": f"a {WORD}"}),
    "unknown name": lambda at: anthropic(block("text", "text", tokens()), context={WORD: 1}),
    "text of the beginning": lambda at: b"".join([begun({"type": "text", "text": WORD}), *block("text", "text", tokens(), 1), over()]),
    "unknown field of the beginning": lambda at: b"".join([begun(note=f"a {WORD}"), *block("text", "text", tokens()), over()]),
    "ping": anthropic_beside(lambda at: [named("ping", note=f"a {WORD}")]),
    "error": anthropic_beside(lambda at: [named("error", error={"type": "overloaded_error", "message": f"a {WORD}"})]),
    "comment": anthropic_beside(lambda at: [f": the {WORD}\n\n".encode()]),
    "after the end": lambda at: anthropic(block("text", "text", tokens())) + delta(0, type="text_delta", text=WORD),
    "after the block's end": lambda at: anthropic([*block("text", "text", tokens()), delta(0, type="text_delta", text=f" {WORD}")]),
}


# --- responses ---


class Numbered:
    """Events with sequence numbers."""

    def __init__(self):
        self.out = []

    def __call__(self, kind, **body):
        self.out.append(named(kind, sequence_number=len(self.out), **body))


def answer(output=(), status="completed", **more):
    return {"id": "resp_1", "object": "response", "created_at": 1, "status": status, "error": None, "incomplete_details": None, "instructions": None, "metadata": {},
            "model": "m", "output": [*output], "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
            "usage": {"input_tokens": 1, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 3} if output else None, **more}  # fmt: skip


def part(text, **more):
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": [], **more}


def message(*parts, status="completed"):
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": status, "content": [*parts]}


def responses(texts, beside=None, at=0, extra=(), copies=None, pieces_=None, **changed):
    """A message of the given deltas; `copies` changes the text of the events that repeat it, by name."""
    text, copies, event = "".join(texts), copies or {}, Numbered()
    here = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    event("response.created", response=answer(status="in_progress", **changed.get("created", {})))
    event("response.output_item.added", output_index=0, item=message(status="in_progress"))
    event("response.content_part.added", **here, part=part(copies.get("part added", "")))
    for place, token in enumerate(texts):
        if beside and place == at:
            beside(event)
        event("response.output_text.delta", **here, delta=token, logprobs=(pieces_ or {}).get(place, []))
    event("response.output_text.done", **here, text=copies.get("done", text), logprobs=[])
    event("response.content_part.done", **here, part=part(copies.get("part", text), **changed.get("part", {})))
    event("response.output_item.done", output_index=0, item=message(part(copies.get("item", text))))
    for kind, body in extra:
        event(kind, **body)
    event("response.completed", response=answer([message(part(copies.get("completed", text))), *changed.get("items", ())], **changed.get("completed", {})))
    return b"".join(event.out)


def responses_copy(where):
    def scene(at):
        return responses(tokens(), copies={where: "".join(tokens(at))})

    return scene


def responses_beside(*events, **body):
    def scene(at):
        return responses(tokens(), at=at, beside=lambda event: [event(kind, **{"item_id": "x", "output_index": 1, **more}) for kind, more in events])

    return scene


def responses_item(item, *events):
    """A second item, and what is streamed of it."""
    body = {"output_index": 1, "item_id": "i"}

    def scene(at):
        extra = [("response.output_item.added", {"output_index": 1, "item": {**item, "status": "in_progress"}}), *((kind, {**body, **more}) for kind, more in events)]
        return responses(tokens(), extra=[*extra, ("response.output_item.done", {"output_index": 1, "item": item})], items=[item])

    return scene


FUNCTION = {"id": "i", "type": "function_call", "call_id": "c", "name": "search", "arguments": "{}", "status": "completed"}
BAD_CALL = json.dumps({"q": WORD})
RESPONSES = {
    "text": lambda at: responses(tokens(at)),
    "text in two tokens": lambda at: responses(tokens(at, split=True)),
    "done copy": responses_copy("done"),
    "part copy": responses_copy("part"),
    "item copy": responses_copy("item"),
    "completed copy": responses_copy("completed"),
    "text of the part's beginning": responses_copy("part added"),
    "refusal": responses_beside(("response.refusal.delta", {"content_index": 0, "delta": f"no {WORD}"}), ("response.refusal.done", {"content_index": 0, "refusal": f"no {WORD}"})),
    "refusal in pieces": responses_beside(("response.refusal.delta", {"content_index": 0, "delta": "no zork"}), ("response.refusal.delta", {"content_index": 0, "delta": "blat"})),
    "reasoning": responses_beside(("response.reasoning_text.delta", {"content_index": 0, "delta": "a zork"}), ("response.reasoning_text.delta", {"content_index": 0, "delta": "blat"})),
    "reasoning's done": responses_beside(("response.reasoning_text.done", {"content_index": 0, "text": f"a {WORD}"})),
    "reasoning's summary": responses_beside(("response.reasoning_summary_text.delta", {"summary_index": 0, "delta": f"a {WORD}"})),
    "reasoning's summary part": responses_beside(("response.reasoning_summary_part.added", {"summary_index": 0, "part": {"type": "summary_text", "text": f"a {WORD}"}})),
    "arguments": responses_item({**FUNCTION, "arguments": BAD_CALL}, ("response.function_call_arguments.delta", {"delta": BAD_CALL[:6]}), ("response.function_call_arguments.delta", {"delta": BAD_CALL[6:]}), ("response.function_call_arguments.done", {"arguments": BAD_CALL, "name": "search"})),
    "escaped arguments": responses_item(FUNCTION, ("response.function_call_arguments.delta", {"delta": BAD_CALL.replace("z", "\\u007a")})),
    "arguments' done alone": responses_item(FUNCTION, ("response.function_call_arguments.done", {"arguments": BAD_CALL, "name": "search"})),
    "arguments of the item alone": responses_item({**FUNCTION, "arguments": BAD_CALL}),
    "tool name": responses_item({**FUNCTION, "name": WORD}),
    "custom tool input": responses_item({"id": "i", "type": "custom_tool_call", "call_id": "c", "name": "search", "input": f"a {WORD}"}, ("response.custom_tool_call_input.delta", {"delta": f"a {WORD}"})),
    "annotation": responses_beside(("response.output_text.annotation.added", {"content_index": 0, "annotation_index": 0, "annotation": {"type": "url_citation", "title": WORD, "url": "u", "start_index": 0, "end_index": 1}})),
    "annotation of the part": lambda at: responses(tokens(), part={"annotations": [{"type": "url_citation", "title": f"a {WORD}", "url": "u", "start_index": 0, "end_index": 1}]}),
    "logprobs of another text": lambda at: responses(tokens(), pieces_={at: [{"token": WORD, "logprob": -1, "top_logprobs": []}]}),
    "logprobs alternatives": lambda at: responses(tokens(), pieces_={at: [{"token": tokens()[at], "logprob": -1, "top_logprobs": [{"token": f" {WORD}", "logprob": -2}]}]}),
    "transcript": responses_beside(("response.audio.transcript.delta", {"delta": f"a {WORD}"})),
    "code": responses_beside(("response.code_interpreter_call_code.delta", {"delta": f"a {WORD}"})),
    "web search": responses_item({"id": "i", "type": "web_search_call", "status": "completed", "action": {"type": "search", "query": WORD}}),
    "unknown item": responses_item({"id": "i", "type": "musing", "musing": WORD}),
    "unknown event": responses_beside(("response.musing.delta", {"delta": f"a {WORD}"})),
    "unknown event in pieces": responses_beside(("response.musing.delta", {"delta": "a zork"}), ("response.musing.delta", {"delta": "blat"})),
    "unknown field": responses_beside(("response.output_text.delta", {"content_index": 0, "delta": "", "musing": f"a {WORD}"})),
    "unknown name": responses_beside(("response.in_progress", {"response": answer(status="in_progress"), "more": {WORD: 1}})),
    "unknown field of the response": lambda at: responses(tokens(), completed={"musings": f"a {WORD}"}),
    "encrypted content that is a sentence": responses_item({"id": "i", "type": "reasoning", "summary": [], "encrypted_content": f"a {WORD}!"}),
    "error": responses_beside(("error", {"code": "c", "message": f"a {WORD}", "param": None})),
    "failure": responses_beside(("response.failed", {"response": answer(status="failed", error={"code": "server_error", "message": f"a {WORD}"})})),
    "comment": lambda at: f": the {WORD}\n\n".encode() + responses(tokens()),
    "after the end": lambda at: responses(tokens()) + named("response.output_text.delta", sequence_number=999, item_id="msg_1", output_index=0, content_index=0, delta=WORD, logprobs=[]),
}


# --- what a client reads ---


def pieces(stream, size):
    """The bytes as they come off a socket."""
    return [stream[low : low + size] for low in range(0, len(stream), size)]


def strings(value, path=""):
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        index = value.get("index", "")
        for key, item in value.items():
            yield f"{path} key", f" {key} "
            yield from strings(item, f"{path}.{key}{index}")
    elif isinstance(value, list):
        if len(value) > 3 and all(type(one) is int for one in value):
            yield path, "".join(map(chr, value))
        for item in value:
            yield from strings(item, f"{path}[]")


def readable(stream):
    """Everything that could be read in the bytes, by place: strings of one place put together."""
    texts = {"": stream.decode("utf-8", "replace")}
    for block in stream.decode("utf-8", "replace").replace("\r", "").split("\n\n"):
        data = "\n".join(line[5:].strip() for line in block.split("\n") if line.startswith("data:"))
        try:
            body = json.loads(data)
        except ValueError:
            continue
        kind = body.get("type", "") if isinstance(body, dict) else ""
        for path, text in strings(body):
            spoken = path.endswith(("arguments", "partial_json", "input", ".delta"))
            key = f"{kind}{path}" if spoken or not path.endswith("key") else path
            texts[key] = texts.get(key, "") + text
            if spoken:
                with contextlib.suppress(ValueError):
                    texts[f"{key} as JSON"] = " ".join(text for _, text in strings(json.loads(texts[key])))
    return texts


def leaks(stream):
    """Where the word can be read."""
    return [place for place, text in readable(stream).items() if WORD in text.lower()]
