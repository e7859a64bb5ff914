"""Answers of an upstream that is out to get a forbidden word through: in every place of every event, and by every trick.

What a client could read is found by `scenes.leaks`, which knows nothing of tables and codecs.
"""

from __future__ import annotations

import json

import pytest
from tests.guard.build import terms_config
from tests.guard.wire import scenes_responses
from tests.guard.wire.answers import (
    ANTHROPIC,
    CHAT,
    EVENTS,
    PATHS,
    REFUSAL,
    REPLIES,
    RESPONSES,
    STREAMS,
    STRUCTURED,
    Upstream,
    answers_saying,
    exchanged,
    guard,
    of_events,
    of_reply,
    parsed,
    said_in,
    streamed,
)
from tests.guard.wire.places import name, places, put
from tests.guard.wire.scenes import (
    WORD,
    anthropic,
    begun,
    block,
    call,
    chat,
    chunk,
    delta,
    leaks,
    logged,
    named,
    over,
    sse,
    started,
    stopped,
    tokens,
)

from cosa_guard import Guard
from cosa_guard.relay import stream as relay_stream
from cosa_guard.relay import texts as relay_texts

SENTENCE = f"this is what a {WORD} does here, now and then"
SIZES = (5, 97, 100_000)
awaiting = pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])

# --- every place ---

MODELS = ("model", "provider")
SEALED = ("signature", "encrypted_content", "data")


def open_on_purpose(path, how, said):
    """A model's name is known to the caller, and what is sealed is for the upstream alone; neither may be a sentence."""
    return said == WORD and how == "value" and path[-1] in (*MODELS, *SEALED)


def cases(path, kind):
    """An answer that has the word in one of its places, and where: as an identifier, and in a sentence."""
    bodies = [REPLIES[path]] if kind == "reply" else STREAMS[path]
    for at, body in enumerate(bodies):
        for place, how in places(body):
            for said in (WORD, SENTENCE):
                if open_on_purpose(place, how, said) or (said == WORD and goes_on(body, place, how)):
                    continue
                for beside in (1, None) if how == "new key" else (1,):
                    changed = put(body, place, how, said, beside)
                    yield f"{at} {name(place, how)}", changed if kind == "reply" else [*bodies[:at], changed, *bodies[at + 1 :]]


def goes_on(body, place, how):
    """The beginning of a text: with what follows the word is another word."""
    growing = (".added", ".delta", "_start", "_delta", "chunk")
    return how == "value" and str(body.get("type", body.get("object"))).endswith(growing) and place[-1] in {"text", "thinking", "delta", "content", "partial_json", "arguments", "input"}


@pytest.mark.parametrize("mode", ["hold", "whole"])
@pytest.mark.parametrize("kind", ["reply", "events"])
@pytest.mark.parametrize("path", PATHS)
def test_no_place_of_an_answer_lets_the_word_out(path, kind, mode):
    answered = of_reply if kind == "reply" else of_events
    tried = [*cases(path, kind)][:: 1 if kind == "reply" else 9]
    found = [(place, where) for place, given in tried if (where := leaks(answered(path, given, mode=mode)[1]))]

    assert [] == found
    assert len(tried) > 40


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["hold", "whole"])
@pytest.mark.parametrize("size", [3, 97])
@pytest.mark.parametrize("path", PATHS)
def test_no_place_of_any_event_lets_the_word_out(path, size, mode):
    tried = [*cases(path, "events")]

    assert [] == [(place, where) for place, given in tried if (where := leaks(of_events(path, given, size=size, mode=mode)[1]))]


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_that_uses_everything_comes_through_as_it_was_sent(path):
    out = of_events(path, STREAMS[path])

    assert (streamed(path, STREAMS[path]), "pass", None) == (out[1], out[2].act, out[2].error)
    assert (json.dumps(REPLIES[path]).encode(), "pass") == (of_reply(path, REPLIES[path])[1], of_reply(path, REPLIES[path])[2].act)


@pytest.mark.parametrize("key", ["id", "model"])
@pytest.mark.parametrize("path", PATHS)
def test_metadata_may_be_called_as_a_config_forbids_to_talk_of(path, key):
    """What is random in an id is no telephone number, and a protocol's own words are nobody's text."""
    config = terms_config({"pii": "phone"}, "response", "assistant", "stop", "claude", default="allow")
    one = Guard(config, judge="rules", accept_unexamined=True)
    named_so = {"id": "gen-1721234567-4411223344", "model": "claude-9-20260101"}
    reply = {**REPLIES[path], key: named_so[key]}

    assert ("pass", json.dumps(reply).encode()) == (of_reply(path, reply, one=one)[2].act, of_reply(path, reply, one=one)[1])


# --- what comes after an end ---


def tool(arguments, **more):
    return chunk({"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "search", "arguments": arguments}}], **more})


def responded(*events):
    item = {**scenes_responses.called("{}")[0], "arguments": "", "status": "in_progress"}
    spot = {"item_id": "fc_1", "output_index": 0}
    begin = [{"type": "response.created", "response": scenes_responses.RESPONSE}, {"type": "response.output_item.added", "output_index": 0, "item": item}]
    return scenes_responses.numbered([*begin, *({**event, **spot} for event in events), {"type": "response.completed", "response": {**scenes_responses.RESPONSE, "status": "completed"}}])


LATER = {
    "arguments after a chat's finish": (CHAT, lambda said: tool('{"q":"a"}') + chunk({}, "tool_calls") + tool(said) + chunk({}, "stop") + sse("[DONE]")),
    "unknown after a chat's finish": (CHAT, lambda said: chunk({"musings": "a"}) + chunk({}, "stop") + chunk({"musings": said}) + chunk({}, "stop") + sse("[DONE]")),
    "text after a chat's finish": (CHAT, lambda said: chunk({"content": "a"}) + chunk({}, "stop") + chunk({"content": f" {said}"}) + chunk({}, "stop") + sse("[DONE]")),
    "input after a block's stop": (ANTHROPIC, lambda said: begun() + started(0, type="tool_use", id="t", name="search", input={}) + delta(0, type="input_json_delta", partial_json='{"q":"a"}') + stopped(0) + delta(0, type="input_json_delta", partial_json=said) + stopped(0) + over()),
    "text after a block's stop": (ANTHROPIC, lambda said: begun() + b"".join(block("text", "text", ["a"])) + delta(0, type="text_delta", text=f" {said}") + over()),
    "arguments after done": (RESPONSES, lambda said: responded({"type": "response.function_call_arguments.delta", "delta": "{}"}, {"type": "response.function_call_arguments.done", "arguments": "{}"}, {"type": "response.function_call_arguments.delta", "delta": said}, {"type": "response.function_call_arguments.done", "arguments": "{}"})),
}  # fmt: skip


@pytest.mark.parametrize("name", LATER)
def test_what_goes_on_after_its_end_is_judged_again(name):
    path, make = LATER[name]
    for size in SIZES:
        assert (name, []) == (name, leaks(of_events(path, make(WORD), size=size)[1]))
    out = of_events(path, make("fine"), size=5)

    assert (b"fine" in out[1], "pass", None) == (True, out[2].act, out[2].error)


@pytest.mark.parametrize("halves", [("a zork", "blat"), ("a zor", "kblat.")])
def test_arguments_are_one_text_across_an_end(halves):
    stream = tool(halves[0]) + chunk({}, "tool_calls") + tool(halves[1]) + chunk({}, "stop") + sse("[DONE]")

    assert {"refuse"} == {of_events(CHAT, stream, size=size)[2].act for size in SIZES}


AFTER = [b"data: [DONE]\n\n", b"data: {nonsense\n\n", b"event: two words\ndata: x\n\n", b"data: \xff\n\n", b": comment\n\n"]
CLEAN = {
    CHAT: chat([chunk({"content": "Fine."})]),
    ANTHROPIC: anthropic(block("text", "text", ["Fine."])),
    RESPONSES: scenes_responses.stream(scenes_responses.spoken(["Fine."])),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("after", AFTER, ids=str)
def test_nothing_after_the_end_changes_an_answer(path, after):
    for size in SIZES:
        out = of_events(path, CLEAN[path] + after + sse({"zork": f"the {WORD}"}), size=size)

        assert (CLEAN[path], "pass", None) == (out[1], out[2].act, out[2].error)


# --- log probabilities ---


def alternatives(*others):
    return [{"token": other, "logprob": -1.0, "bytes": None} for other in others]


def with_tokens(*pairs, **more):
    """Chunks of a token each, with the tokens that were not chosen."""
    return chat([chunk({"content": token}, choice={"logprobs": {"content": [{"token": token, "logprob": -0.1, "bytes": None, "top_logprobs": alternatives(*others)}], **more}}) for token, others in pairs])


LOGS = {
    "alternatives of an alternative": lambda: chat([chunk({"content": "Fine."}, choice={"logprobs": {"content": [{"token": "Fine.", "logprob": -1, "top_logprobs": [{"token": "x", "logprob": -1, "top_logprobs": alternatives(WORD)}]}]}})]),
    "name of a list": lambda: with_tokens(("Fine.", ["Good."]), **{WORD: None}),
    "name of an empty list": lambda: with_tokens(("Fine.", ["Good."]), **{WORD: []}),
    "alternatives in two events": lambda: with_tokens(("Fine", ["zork"]), (" so", ["blat"])),
    "second alternatives in two events": lambda: with_tokens(("Fine", ["x", "zork"]), (" so", ["y", "blat"])),
    "an alternative behind what was said": lambda: with_tokens(("A zork", ["x"]), ("y", ["blat"])),
    "an alternative behind a chunk without any": lambda: chat([chunk({"content": "A zork"}), chunk({"content": "y"}, choice=logged("y", "blat"))]),
}


@pytest.mark.parametrize("name", LOGS)
def test_log_probabilities_are_dropped_where_they_say_it(name):
    for size in SIZES:
        _, out, report = of_events(CHAT, LOGS[name](), size=size)
        said = out.decode()

        assert (name, [], "pass") == (name, leaks(out), report.act)
        assert '"blat"' not in said


def test_log_probabilities_of_a_whole_reply_are_read_in_a_row():
    reply = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Fine so"}, "finish_reason": "stop"}]}
    tokens_ = [{"token": token, "logprob": -1, "bytes": None, "top_logprobs": alternatives(other)} for token, other in (("Fine", "zork"), (" so", "blat"))]
    reply["choices"][0]["logprobs"] = {"content": tokens_}

    assert None is json.loads(of_reply(CHAT, reply)[1])["choices"][0]["logprobs"]


# --- which text a piece belongs to ---

ODD = [1.0, "1", True, [1], {"a": 1}, -1, 10**30 * 1.0]


@pytest.mark.parametrize("index", ODD, ids=str)
def test_an_index_that_clients_could_understand_differently_ends_the_answer(index):
    for events in (
        [chunk({"content": "zork"}, index=index), chunk({"content": "blat"}, index=1)],
        [chunk({"tool_calls": [{"index": index, "function": {"name": "search", "arguments": '{"q":"zork'}}]}), chunk({"tool_calls": [{"index": 1, "function": {"arguments": 'blat"}'}}]})],
    ):
        _, out, report = of_events(CHAT, chunk({"content": "Fine. " * 9}) + b"".join(events) + chunk({}, "stop") + sse("[DONE]"), n=2)

        assert (False, True) == (b"zork" in out and b"blat" in out, "index" in report.error)
    reply = {"choices": [{"index": index, "message": {"content": "zork"}}, {"index": 1, "message": {"content": "blat"}}]}
    assert 424 == of_reply(CHAT, reply, n=2)[0].status


def test_choices_that_come_in_any_order_and_number_are_each_guarded():
    events = [chunk({"content": "a"}, index=1000), chunk({"content": f"a {WORD}."}, index=5), chunk({"content": "b"}, index=0)]
    _, out, _ = of_events(CHAT, b"".join(events) + sse("[DONE]"), n=2)

    assert [] == leaks(out)


@pytest.mark.parametrize("path", [ANTHROPIC, RESPONSES])
@pytest.mark.parametrize("kind", ["events", "reply"])
def test_a_word_cut_between_three_parts_of_a_text_is_found(path, kind):
    cut = ["A clean beginning, and a zo", "rkb", "lat."]
    if path == ANTHROPIC:
        events = anthropic([event for at, said in enumerate(cut) for event in block("text", "text", [said], at)])
        reply = {**REPLIES[path], "content": [{"type": "text", "text": said} for said in cut]}
    else:
        item = scenes_responses.message(*map(scenes_responses.part_of, cut))
        events = scenes_responses.stream((item, scenes_responses.item_events(item, [event for at, said in enumerate(cut) for event in scenes_responses.text_events([said], index=at)])))
        reply = {**REPLIES[path], "output": [item], "output_text": ""}

    for size in SIZES:
        report = of_events(path, events, size=size)[2] if kind == "events" else of_reply(path, reply)[2]
        assert "refuse" == report.act


def test_a_mask_covers_what_a_part_ends_of_a_word():
    """What the last part ended with was let out when this one began."""
    one = guard(output="redact")
    parts = [block("text", "text", [said], at) for at, said in enumerate(["A clean beginning, a zork", "blat and more. Yes."])]
    _, out, report = of_events(ANTHROPIC, anthropic([event for part in parts for event in part]), one=one)
    said = "".join(event["delta"]["text"] for event in parsed(out) if event["type"] == "content_block_delta")

    assert ("A clean beginning, a zork[redacted] and more. Yes.", "redact") == (said, report.act)
    reply = {**REPLIES[ANTHROPIC], "content": [{"type": "text", "text": "a zork"}, {"type": "text", "text": "blat."}]}
    assert ["a zork", "[redacted]."] == [part["text"] for part in json.loads(of_reply(ANTHROPIC, reply, one=one)[1])["content"]]


# --- JSON in text ---


def escaped(text):
    return "".join(f"\\u{ord(char):04x}" for char in text)


@pytest.mark.parametrize("path", PATHS)
def test_escapes_in_an_answer_that_is_json_hide_nothing(path):
    text = f'{{"a": "One two three four five. {escaped(WORD)}!"}}'
    for size in (1, 2, 7, 500):
        events, reply = answers_saying(path, [text[low : low + size] for low in range(0, len(text), size)])

        assert "refuse" == of_events(path, events, **STRUCTURED[path])[2].act == of_reply(path, reply, **STRUCTURED[path])[2].act


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_that_is_json_stays_the_same_json(path):
    value = {"a\n\t\x01": "é 🎈 \\u007a \u2028", "b": ['"', "\\", "/", "\u007f"]}
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps(value).replace("b", "\\u0062").replace('"\\\\"', '"\\u005c"')):
        for size in (1, 2, 3, 5, 500):
            events, reply = answers_saying(path, [text[low : low + size] for low in range(0, len(text), size)])
            out = of_events(path, events, **STRUCTURED[path])[1]

            assert value == json.loads(text) == json.loads(said_in(path, out))
        assert WORD not in of_reply(path, reply, **STRUCTURED[path])[1].decode()


def test_an_escape_that_never_ends_is_let_out_as_it_is():
    out = of_events(CHAT, chat([chunk({"content": '{"a": "x\\u00'})]), **STRUCTURED[CHAT])

    assert (False, "pass") == ("error" in out[1].decode(), out[2].act)


ARGUMENTS = {
    "escaped": '{"q":"' + escaped(WORD) + '"}',
    "escaped twice": json.dumps({"q": json.dumps({"deep": "X"}).replace("X", escaped(WORD))}),
    "in hexadecimal": "{'q': '\\x7aorkblat'}",
    "doubled name": f'{{"q":"{WORD}","q":"a"}}',
    "doubled name, escaped": f'{{"q":"{escaped(WORD)}","q":"a"}}',
    "doubled name, and numbers that grow when they are written": f'{{"q":"{WORD}","q":"a","n":1e15,"m":1e15,"o":1e15}}',
    "letters": json.dumps({"q": [*WORD]}),
    "character codes": json.dumps({"q": [*WORD.encode()]}),
    "name": json.dumps({WORD: 1}),
    "too deep": "[" * 5000 + f'"{WORD}"' + "]" * 5000,
    "no JSON": f'{{"q": "{WORD}',
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_hide_nothing(name):
    given = ARGUMENTS[name]
    events = [call(name="search", arguments=""), *(call(arguments=given[low : low + 50]) for low in range(0, len(given), 50))]
    reply = {"choices": [{"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "search", "arguments": given}}]}}]}

    assert "refuse" == of_events(CHAT, chat(events, "tool_calls"))[2].act == of_reply(CHAT, reply)[2].act


# --- what no client expects ---

HOSTILE = {
    "list of calls that are none": chunk({"tool_calls": ["a", WORD, "b"]}),
    "annotations that are none": chunk({"annotations": ["a", "b", WORD]}),
    "name that is a list": call(name=[WORD], arguments="{}"),
    "name that is an object": call(name={"a": WORD}, arguments="{}"),
    "delta that is text": chunk(choice={"delta": WORD}),
    "delta that is a number": chunk(choice={"delta": 5}),
    "function that is text": chunk({"tool_calls": [{"index": 0, "function": WORD}]}),
    "function, then text in its place": chunk({"tool_calls": [{"index": 0, "function": {"name": "search"}}]}) + chunk({"tool_calls": [{"index": 0, "function": WORD}]}),
    "function call of several kinds": chunk({"function_call": WORD}) + chunk({"function_call": {"name": "search"}}) + chunk({"function_call": 5}),
    "choices that are none": sse({"choices": [WORD]}),
    "choices that are an object": sse({"choices": {"a": WORD}}),
    "a number for everything": sse(5),
    "a list for everything": sse([WORD]),
    "a name that stands twice": f'data: {{"a {WORD}": 1, "a {WORD}": 2}}\n\n'.encode(),
    "an infinite number": b'data: {"choices": [], "x": 1e999}\n\n',
    "a number that is none": b'data: {"choices": [], "x": NaN}\n\n',
    "a number that is too long": b'data: {"choices": [], "x": ' + b"1" * 5000 + b"}\n\n",
    "deep lists": b'data: {"choices": [{"index": 0, "delta": {"x": ' + b"[" * 980 + b"]" * 980 + b"}}]}\n\n",
    "deeper lists": b'data: {"choices": [{"index": 0, "delta": {"x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}]}\n\n",
    "halves of characters": b'data: {"choices": [{"index": 0, "delta": {"content": "\\ud83d a", "x": "\\ude00"}, "finish_reason": null}]}\n\n',
    "bytes that are no text": b"data: \xff\xfe\n\n",
    "another protocol's event": b"".join(block("text", "text", [f"a {WORD}"])),
    "a name of an event": f"event: {WORD}\n".encode() + chunk({"content": "a"}),
    "several lines of data": b'data: {"choices":\ndata: [{"index": 0, "delta":\ndata: {"content": "a zorkblat"}, "finish_reason": null}]}\n\n',
    "carriage returns": chunk({"content": f"a {WORD}."}).replace(b"\n", b"\r"),
    "carriage returns and line feeds": chunk({"content": f"a {WORD}."}).replace(b"\n", b"\r\n"),
}


@awaiting
@pytest.mark.parametrize("name", HOSTILE)
def test_an_event_that_is_none_is_an_error_or_a_refusal_and_says_nothing(name, awaited):
    stream = chunk({"content": "This is a clean sentence. " * 9}) + HOSTILE[name] + chunk({}, "stop") + sse("[DONE]")
    for size in SIZES:
        head, out, report = of_events(CHAT, stream, size=size, awaited=awaited)

        assert (name, []) == (name, leaks(out))
        assert (200, True) == (head.status, report.act == "refuse" or report.error is not None or b"[DONE]" in out) or head.status == 424
        out.decode()


def test_unknown_fields_of_one_name_are_all_judged():
    calls = [{"id": f"call_{at}", "type": "function", "function": {"name": "search", "arguments": "{}"}, "extra": said} for at, said in enumerate([f"a {WORD}", "fine"])]
    for message in ({"tool_calls": calls}, {"annotations": [WORD, "fine"]}, {"content": "x", "tool_calls": [*calls[::-1]]}):
        reply = {**REPLIES[CHAT], "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}]}

        assert "refuse" == of_reply(CHAT, reply)[2].act


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("reply", [{}, [], 5, {"choices": [{"index": 0}]}, {"choices": [{"index": 0, "message": WORD}]}, {"choices": [{"delta": {"content": f"a {WORD}"}}]},
                                   {"output": [WORD, 5, None]}, {"content": [WORD, 5, None]}, {"content": WORD}, {"output": {}}, {"error": {"message": f"the {WORD}"}},
                                   {"choices": [], "output": [], "content": [], "x": [[[[WORD]]]]}], ids=str)  # fmt: skip
def test_a_reply_that_is_none_says_nothing(path, reply):
    head, out, _ = of_reply(path, reply)

    assert head.status in {200, 424}
    assert WORD not in out.decode()
    json.loads(out)


@pytest.mark.parametrize("raw", [b"", b"\xff", b"\xef\xbb\xbf{}", b'{"choices": [], "a zorkblat": 1, "a zorkblat": 2}', b'{"choices": 1e999}', b"[" * 100_000,
                                 b'{"choices":' + b"[" * 985 + b"]" * 985 + b"}", b'{"choices": [{"index": 0, "message": {"x": ' + b'{"a":' * 480 + b"1" + b"}" * 480 + b"}}]}"])  # fmt: skip
def test_a_reply_that_nobody_can_read_is_an_error_that_says_nothing(raw):
    head, out, report = exchanged(CHAT, Upstream(raw))

    assert head.status in {200, 424}
    assert WORD not in out.decode() + str(report.error)


KINDS = {
    "Application/JSON; charset=UTF-8": 200,
    "application/json;charset=utf-16": 200,
    "": 200,
    "TEXT/EVENT-STREAM": 200,
    "text/event-stream; charset=utf-16": 200,
    "text/plain": 424,
    "text/html": 424,
    f"application/{WORD}": 424,
    "application/json, text/plain": 424,
    "multipart/mixed": 424,
}


@awaiting
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [False, True])
def test_the_content_type_decides_how_an_answer_is_read(kind, stream, awaited):
    events = "event-stream" in kind.lower()
    given = chat([chunk({"content": f"A {WORD}."})]) if events else {**REPLIES[CHAT], "choices": [{"index": 0, "message": {"role": "assistant", "content": f"A {WORD}."}}]}
    head, out, _ = exchanged(CHAT, Upstream(given, kind), awaited=awaited, stream=stream)

    assert (KINDS[kind], False) == (head.status, WORD in out.decode())
    assert head.header("content-type") in ({"text/event-stream; charset=utf-8"} if events else {"application/json"})


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_of_another_kind_than_its_type_says_is_none(path):
    for given, kind in ((streamed(path, STREAMS[path]), "application/json"), (json.dumps(REPLIES[path]).encode(), EVENTS)):
        head, out, report = exchanged(path, Upstream(given, kind), stream=True)

        assert b"Fine." not in out
        assert head.status == 424 or "before its end" in report.error


# --- heads ---


@awaiting
@pytest.mark.parametrize("status", [200, 400, 429, 500])
def test_headers_carry_no_text(status, awaited):
    bad = [("x-request-id", WORD), ("request-id", f"the {WORD}"), ("retry-after", f"the {WORD}"), (f"x-ratelimit-{WORD}", "1"), ("x-ratelimit-note", "long words " * 3), ("openai-processing-ms", f"{WORD}-5"), ("x-request-id", "a" * 500), ("set-cookie", "a=b"), ("server", WORD)]
    good = [("X-Request-Id", "req_011CQ-9f"), ("retry-after", "7"), ("x-ratelimit-reset-requests", "6m0.5s"), ("anthropic-ratelimit-requests-reset", "2026-01-01T00:00:00Z"), ("openai-processing-ms", "12"), ("x-should-retry", "true")]
    upstream = Upstream({**REPLIES[CHAT], "error": {"message": "no"}} if status == 200 else {"error": {"message": "no"}}, status=status, headers=[*bad, *good])
    head = exchanged(CHAT, upstream, awaited=awaited)[0]
    kept = [pair for pair in head.headers if not pair[0].startswith("x-cosa-") and pair[0] != "content-type"]

    assert good == kept


def test_a_date_may_say_when_to_come_again():
    upstream = Upstream({"error": {"message": "later"}}, status=503, headers=[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")])

    assert "Wed, 21 Oct 2026 07:28:00 GMT" == exchanged(CHAT, upstream)[0].header("retry-after")


@pytest.mark.parametrize(("body", "kind"), [
    (b"+AHoAbwByAGsAYgBsAGEAdA-", "text/plain; charset=utf-7"), (WORD.encode("utf-16"), "text/plain; charset=utf-16"), (WORD.encode("cp037"), "text/plain; charset=cp037"),
    (f"<p>the {WORD}</p>".encode(), "text/html"), (b"zork\xffblat", "text/plain"), (f'{{"error": "{escaped(WORD)}"}}'.encode(), "application/json"), (b"{" * 5000 + WORD.encode(), "application/json"),
])  # fmt: skip
def test_an_error_is_read_as_it_was_judged(body, kind):
    head, out, _ = exchanged(CHAT, Upstream(body, kind, status=400))
    charset = head.header("content-type").partition("charset=")[2] or "utf-8"

    assert 400 == head.status
    assert charset == "utf-8"
    assert WORD not in out.decode(charset)


def test_an_error_that_is_no_json_comes_through_as_text():
    head, out, _ = exchanged(CHAT, Upstream(b"<p>busy</p>", "text/html", status=503))

    assert (503, "text/plain; charset=utf-8", b"<p>busy</p>") == (head.status, head.header("content-type"), out)


@awaiting
def test_an_error_that_shows_the_prompt_is_worded_anew(awaited):
    """As servers do that check what they are sent: they say what they got."""

    class Showing(Upstream):
        def stream(self, request):
            self._given = json.dumps({"error": {"message": "bad request", "input": json.loads(request.body)["messages"]}}).encode()
            yield from super().stream(request)

    head, out, _ = exchanged(CHAT, Showing({}, status=400), awaited=awaited)

    assert (400, "upstream_error", False) == (head.status, json.loads(out)["error"]["code"], "guideline" in out.decode())


@awaiting
def test_an_error_in_a_chat_that_may_not_go_out_still_ends_it_as_an_error(awaited):
    stream = chunk({"content": "Fine. "}) + sse({"error": {"message": f"the {WORD}", "code": "c"}})
    for size in SIZES:
        _, out, report = of_events(CHAT, stream, size=size, awaited=awaited)

        assert ("upstream_error", []) == (parsed(out)[-1]["error"]["code"], leaks(out))
        assert "error" in report.error


@pytest.mark.parametrize("error", ["slow down", {"message": "slow down", "code": "c"}])
def test_an_error_in_a_chat_that_may_go_out_does(error):
    _, out, report = of_events(CHAT, chunk({"content": "Fine. "}) + sse({"error": error}))

    assert ({"error": error}, "pass") == (parsed(out)[-1], report.act)


def test_what_belongs_to_no_choice_goes_and_the_end_stays():
    usage = sse({"id": "c", "choices": [], "usage": {"note": f"what is this {WORD} doing in here"}})
    _, out, report = of_events(CHAT, chunk({"content": "Fine."}) + chunk({}, "stop") + usage + sse("[DONE]"))

    assert (True, [], "pass") == (out.endswith(b"[DONE]\n\n"), leaks(out), report.act)


# --- too much ---


def test_a_stream_that_is_held_for_ever_is_given_up_on(monkeypatch):
    monkeypatch.setattr(relay_stream, "LARGEST_REPLY", 10_000)
    endless = call(name="search", arguments="") + b"".join(call(arguments="x" * 100) for _ in range(100))
    for stream in (endless, b"".join(chunk({"musings": "x" * 100}) for _ in range(100))):
        _, _, report = of_events(CHAT, stream)

        assert "10000 bytes" in report.error
    long = chat([chunk({"content": token}) for token in tokens()])
    assert (True, long) == (len(long) > 10_000, of_events(CHAT, long)[1])


def test_an_answer_of_ever_more_texts_is_given_up_on(monkeypatch):
    monkeypatch.setattr(relay_texts, "MOST", 50)
    many = [event for at in range(60) for event in block("text", "text", ["a"], at)]

    assert "50 texts" in of_events(ANTHROPIC, anthropic(many))[2].error


# --- ends ---


@awaiting
@pytest.mark.parametrize("path", PATHS)
def test_whatever_stops_an_answer_it_ends_in_the_protocol_s_own_words(path, awaited):
    ends = {CHAT: '"finish_reason":"content_filter"', RESPONSES: "event: response.incomplete", ANTHROPIC: '"stop_reason":"refusal"'}
    for _, given in [*cases(path, "events")][::97]:
        out, report = of_events(path, given, awaited=awaited)[1:]
        if report.act == "refuse":
            assert (True, 1) == (REFUSAL in out.decode(), out.decode().count(ends[path]))
        assert all(isinstance(event, dict) for event in parsed(out))


def test_a_name_of_an_event_is_that_of_its_type_or_none():
    for path, event in ((ANTHROPIC, named("ping").replace(b"event: ping", b"event: zork")), (RESPONSES, scenes_responses.stream(scenes_responses.spoken(["Fine."])).replace(b"event: response.created", b"event: zork"))):
        assert b"zork" not in of_events(path, event)[1]
