"""Streams of 200 tokens with a forbidden word in any field and event that a protocol has, and what a client reads of them.

A scene is a function from the word's position to the bytes of a stream. What a client could read is found here by
other means than the code under test: every string of every event, put together by the path where it stands.
"""

from __future__ import annotations

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
                try:
                    texts[f"{key} as JSON"] = " ".join(text for _, text in strings(json.loads(texts[key])))
                except ValueError:
                    pass
    return texts


def leaks(stream):
    """Where the word can be read."""
    return [place for place, text in readable(stream).items() if WORD in text.lower()]
