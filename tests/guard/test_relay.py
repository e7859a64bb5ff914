"""What a caller sees of a guarded exchange: answers that pass, answers that stop, and what is done about them."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.guard.build import OwnJudge, clean, finder, risks_config, terms_config
from tests.guard.wire.answers import answers_saying, of_events, said_in
from tests.guard.wire.scenes import chat, chunk, logged, sse, tokens

from cosa_guard import Guard
from cosa_guard.audit import AuditError
from cosa_guard.exchange import Exchange, Head
from cosa_guard.verdicts import Verdict
from cosa_guard.wire import protocols
from cosa_sdk import SafetyConfig
from cosa_sdk.decide import Evidence
from cosa_sdk.errors import PromptTooLong, UsageError

WORD = "zorkblat"
REFUSAL = "This assistant can't help with that."
CODEC = protocols["/chat/completions"]
USER = {"role": "user", "content": "Hello."}
SCHEMA = {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}}


class Upstream:
    """Answers in turn; the last answer again and again. Bytes are a stream, anything else a JSON reply."""

    def __init__(self, *answers, status=200, headers=()):
        self._answers, self._status, self._headers = list(answers), status, headers
        self.bodies, self.closed = [], 0

    def stream(self, request):
        self.bodies.append(json.loads(request.body))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        streamed = isinstance(answer, bytes)
        kind = "text/event-stream" if streamed else "application/json"
        try:
            yield Head(self._status, (("Content-Type", kind), *self._headers))
            raw = answer if streamed else json.dumps(answer).encode()
            yield from (raw[low : low + 60] for low in range(0, len(raw), 60))
        finally:
            self.closed += 1

    async def astream(self, request):
        stream = self.stream(request)
        try:
            for piece in stream:
                yield piece
        finally:
            stream.close()


def made(config=None, **options):
    return Guard(config or terms_config(WORD), **{"judge": "rules", "accept_unexamined": True, **options})


def exchanged(guard, *answers, body=None, awaited=False, **options):
    """Status, headers, body and report of one exchange; the upstream that answered."""
    upstream = answers[0] if isinstance(answers[0], Upstream) else Upstream(*answers)
    exchange = Exchange(guard, CODEC, {"model": "m", "messages": [USER], **(body or {})}, **options)
    if awaited:

        async def run():
            return [piece async for piece in exchange.astream(upstream)]

        head, *rest = asyncio.run(run())
    else:
        head, *rest = exchange.stream(upstream)
    return head, b"".join(rest), exchange.report, upstream


def reply(content="Fine.", *more, **message):
    choices = [{"index": at, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"} for at, text in enumerate((content, *more))]
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": {"total_tokens": 3}}


def events(out):
    return [json.loads(line[6:]) for line in out.decode().split("\n") if line.startswith("data: {")]


def said(out, index=0, name="content"):
    deltas = [choice["delta"] for event in events(out) for choice in event.get("choices", ()) if choice["index"] == index]
    return "".join(delta.get(name) or "" for delta in deltas)


def finishes(out):
    return [(choice["index"], choice["finish_reason"]) for event in events(out) for choice in event.get("choices", ()) if choice["finish_reason"]]


def spoken(*parts, **options):
    return chat([chunk({"content": part}) for part in parts], **options)


both = pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
STREAM = {"stream": True}


# --- whole replies ---


@both
def test_a_reply_that_passes_keeps_its_bytes(awaited):
    head, out, report, upstream = exchanged(made(), reply(), awaited=awaited)

    assert (200, json.dumps(reply()).encode(), "pass", 1) == (head.status, out, report.act, upstream.closed)
    assert (made().config.digest, "pass") == (head.header("x-cosa-config"), head.header("x-cosa-act"))


@both
def test_a_stopped_reply_is_a_refusal_in_the_protocol_s_own_words(awaited):
    head, out, report, _ = exchanged(made(), reply(f"A {WORD}."), awaited=awaited)
    body = json.loads(out)
    choice = body["choices"][0]

    assert (200, REFUSAL, None, "content_filter") == (head.status, choice["message"]["content"], choice["message"]["refusal"], choice["finish_reason"])
    assert ({"total_tokens": 3}, "refuse", 0) == (body["usage"], report.act, report.released)


def test_with_a_schema_the_refusal_has_its_own_place():
    _, out, _, _ = exchanged(made(), reply(f'{{"a": "{WORD}"}}'), body=SCHEMA)
    message = json.loads(out)["choices"][0]["message"]

    assert (None, REFUSAL) == (message["content"], message["refusal"])


def test_of_several_choices_each_is_guarded_on_its_own():
    _, out, _, _ = exchanged(made(), reply("One.", f"A {WORD}.", "Three."), body={"n": 3})
    choices = json.loads(out)["choices"]

    assert ["One.", REFUSAL, "Three."] == [choice["message"]["content"] for choice in choices]
    assert ["stop", "content_filter", "stop"] == [choice["finish_reason"] for choice in choices]


def test_masks_are_put_on_in_a_whole_reply_and_its_log_probabilities_go():
    body = reply(f"A {WORD} here.")
    body["choices"][0] |= logged(f"A {WORD} here.")
    _, out, report, _ = exchanged(made(terms_config(WORD, output="redact")), body)
    choice = json.loads(out)["choices"][0]

    assert ("A [redacted] here.", None, "redact", 1) == (choice["message"]["content"], choice["logprobs"], report.act, report.redacted)


def test_a_masked_tool_call_is_stopped_not_changed():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"q": WORD})}}
    _, out, _, _ = exchanged(made(terms_config(WORD, output="redact")), reply(None, tool_calls=[call]))

    assert REFUSAL == json.loads(out)["choices"][0]["message"]["content"]


def test_log_probabilities_of_what_passes_stay():
    body = reply("Fine.")
    body["choices"][0] |= logged("Fine.", "Good.", "Nice.")

    assert json.dumps(body).encode() == exchanged(made(), body)[1]


# --- streams ---


@both
def test_a_stopped_stream_ends_well_formed(awaited):
    upstream = Upstream(spoken(*tokens(100)))
    head, out, report, _ = exchanged(made(), upstream, body=STREAM, awaited=awaited)

    assert (200, [(0, "content_filter")], True, 1) == (head.status, finishes(out), out.endswith(b"data: [DONE]\n\n"), upstream.closed)
    assert said(out).endswith(f"\n\n{REFUSAL}")
    assert "".join(tokens()).startswith(said(out).removesuffix(f"\n\n{REFUSAL}"))
    assert ("refuse", False) == (report.act, report.late)


def test_a_refused_request_streams_the_refusal_and_asks_nobody():
    upstream = Upstream(spoken("x"))
    _, out, report, _ = exchanged(made(), upstream, body={**STREAM, "n": 2, "messages": [{"role": "user", "content": WORD}]})

    assert ([], "refuse") == (upstream.bodies, report.act)
    assert [REFUSAL] * 2 == [said(out, 0), said(out, 1)]
    assert ([(0, "content_filter"), (1, "content_filter")], b"[DONE]\n\n") == (finishes(out), out[-8:])


def test_first_text_comes_after_a_sentence_or_ten_tokens():
    """Of 200 tokens that come one by one, how many were pulled when the first text went out?"""
    pulled = []

    class Slow(Upstream):
        def stream(self, request):
            yield Head(200, (("content-type", "text/event-stream"),))
            for at, token in enumerate(tokens()):
                pulled.append(at)
                yield chunk({"content": token})
            yield chunk({}, "stop") + sse("[DONE]")

    exchange = Exchange(made(), CODEC, {"model": "m", "messages": [USER], **STREAM})
    for piece in exchange.stream(Slow(b"")):
        if isinstance(piece, bytes) and said(piece):
            break

    assert len(pulled) <= 11


def test_whole_holds_everything_and_trail_nothing():
    stream = spoken(*tokens(100))

    assert REFUSAL == said(exchanged(made(terms_config(WORD, stream="whole")), stream, body=STREAM)[1])
    _, out, report, _ = exchanged(made(terms_config(WORD, stream="trail", default="forbid")), stream, body=STREAM)
    assert (True, True) == (said(out).endswith(REFUSAL), report.late)


def test_masks_in_streams_stand_in_one_event():
    parts = tokens(100)
    parts[101] = " and" + parts[101]
    _, out, report, _ = exchanged(made(terms_config(WORD, output="redact")), spoken(*parts), body=STREAM)

    assert "".join(parts).replace(WORD, "[redacted]") == said(out)
    assert ("redact", 1) == (report.act, report.redacted)


def test_log_probabilities_are_released_with_their_tokens():
    events_ = [chunk({"content": token}, choice=logged(token, " other")) for token in tokens(100)]
    _, out, _, _ = exchanged(made(terms_config(WORD, output="redact")), chat(events_), body=STREAM)
    kept = [(event["choices"][0]["delta"].get("content"), event["choices"][0].get("logprobs")) for event in events(out)]

    assert all((logprobs is None) == ("[redacted]" in text) for text, logprobs in kept if text)
    assert {token for text, logprobs in kept if logprobs for token in [logprobs["content"][0]["token"]]} == {text for text, logprobs in kept if logprobs}


def test_tool_arguments_wait_until_they_are_complete():
    out = []
    call = [chunk({"tool_calls": [{"index": at, "id": f"c{at}", "type": "function", "function": {"name": "f", "arguments": part}}]}) for at in (0, 1) for part in ('{"q":', '"ok"}')]

    class Slow(Upstream):
        def stream(self, request):
            yield Head(200, (("content-type", "text/event-stream"),))
            for event in [*call, chunk({}, "tool_calls"), sse("[DONE]")]:
                out.append(event)
                yield event

    exchange = Exchange(made(), CODEC, {"model": "m", "messages": [USER], "tools": [{"type": "function", "function": {"name": "f"}}], **STREAM})
    first = next(len(out) for piece in exchange.stream(Slow(b"")) if isinstance(piece, bytes) and piece)

    assert first == len(call) + 1


def test_n_streams_are_guarded_each_on_its_own():
    left, right = tokens(), tokens(100)
    mixed = [one for pair in zip(left, right, strict=True) for one in (chunk({"content": pair[0]}, index=0), chunk({"content": pair[1]}, index=1))]
    _, out, _, _ = exchanged(made(), b"".join([*mixed, chunk({}, "stop", 0), chunk({}, "stop", 1), sse("[DONE]")]), body={**STREAM, "n": 2})

    assert ("".join(left), True) == (said(out, 0), said(out, 1).endswith(REFUSAL))
    assert [(1, "content_filter"), (0, "stop")] == finishes(out)


def test_usage_and_keep_alives_come_through():
    usage = sse({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": {"total_tokens": 7}})
    _, out, _, _ = exchanged(made(), spoken("Fine.")[: -len(sse("[DONE]"))] + usage + sse("[DONE]"), body=STREAM)

    assert ({"total_tokens": 7}, "Fine.") == (events(out)[-1]["usage"], said(out))


def test_unknown_fields_come_after_the_text_they_came_with():
    _, out, _, _ = exchanged(made(), chat([chunk({"content": "Fine."}), chunk({"musings": "so "}), chunk({"musings": "it is"})]), body=STREAM)

    assert ("Fine.", "so it is", [(0, "stop")]) == (said(out), said(out, name="musings"), finishes(out))


@both
def test_a_stream_that_stops_early_says_so(awaited):
    for stream in (spoken("Fine.")[:-60], chunk({"content": "Fine."}), chunk({"content": "Fine."}) + b"data: {"):
        _, out, report, _ = exchanged(made(), stream, body=STREAM, awaited=awaited)

        assert "upstream_truncated" == events(out)[-1]["error"]["code"]
        assert "before its end" in report.error


def test_an_event_that_is_no_json_ends_in_an_error_event():
    _, out, _, _ = exchanged(made(), spoken("Fine.", "And more of it.")[:-90] + b"data: {nonsense\n\n", body=STREAM)

    assert "guard_failure" in out.decode()


# --- fresh candidates ---

REGENERATE = {"output": "regenerate", "attempts": 3}


@both
@pytest.mark.parametrize("stream", [False, True])
def test_a_fresh_candidate_is_asked_for_with_feedback(stream, awaited):
    texts = [f"A {WORD}.", "Fine."]
    answers = [spoken(text) for text in texts] if stream else [reply(text) for text in texts]
    _, out, report, upstream = exchanged(made(terms_config(WORD, **REGENERATE)), *answers, body={"stream": stream}, awaited=awaited)
    text = said(out) if stream else json.loads(out)["choices"][0]["message"]["content"]

    assert ("Fine.", 2, "regenerate", 2) == (text, report.candidates, report.act, upstream.closed)
    first, second = (body["messages"][0]["content"] for body in upstream.bodies)
    assert second.startswith(first)
    assert len(second) > len(first)


@pytest.mark.parametrize("stream", [False, True])
def test_candidates_end_in_a_refusal(stream):
    answer = spoken(f"A {WORD}.") if stream else reply(f"A {WORD}.")
    _, out, report, _ = exchanged(made(terms_config(WORD, **REGENERATE)), answer, body={"stream": stream})

    assert (3, "refuse", True) == (report.candidates, report.act, REFUSAL.encode() in out)


def test_what_is_out_cannot_be_taken_back():
    _, out, report, _ = exchanged(made(terms_config(WORD, **REGENERATE)), spoken(*tokens(100)), body=STREAM)

    assert (1, True) == (report.candidates, said(out).endswith(REFUSAL))


# --- what else may happen ---


@both
@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_the_upstream_s_errors_come_through(status, awaited):
    upstream = Upstream({"error": {"message": "slow down", "type": "t", "code": "c"}}, status=status, headers=(("retry-after", "7"), ("set-cookie", "s=1")))
    head, out, _, _ = exchanged(made(), upstream, awaited=awaited)

    assert (status, "slow down", "7", "") == (head.status, json.loads(out)["error"]["message"], head.header("retry-after"), head.header("set-cookie"))


def test_an_error_that_quotes_what_is_forbidden_is_worded_anew():
    head, out, _, _ = exchanged(made(), Upstream({"error": {"message": f"cannot say {WORD}"}}, status=400))

    assert (400, "upstream_error", False) == (head.status, json.loads(out)["error"]["code"], WORD.encode() in out)


@pytest.mark.parametrize("status", [401, 403])
def test_a_proxy_does_not_show_that_its_own_key_was_wrong(status):
    head, out, _, _ = exchanged(made(system_is_caller=True), Upstream({"error": {"message": "Incorrect key sk-1234"}}, status=status), proxy=True)

    assert (502, False) == (head.status, b"sk-" in out)


@both
@pytest.mark.parametrize("status", [301, 307])
def test_redirects_are_not_followed(status, awaited):
    head, out, _, _ = exchanged(made(), Upstream({}, status=status, headers=(("location", "http://elsewhere.example"),)), awaited=awaited)

    assert (424, "guard_failure", "") == (head.status, json.loads(out)["error"]["code"], head.header("location"))


@both
@pytest.mark.parametrize("stream", [False, True])
def test_nothing_goes_out_that_is_not_on_record(stream, awaited):
    entries = []

    def full(entry):
        entries.append(entry)
        if len(entries) > 1:
            raise AuditError("disk full")

    answer = spoken(*tokens()) if stream else reply()
    head, out, report, upstream = exchanged(made(record=full), answer, body={"stream": stream}, awaited=awaited)

    assert (200 if stream else 424, False, 1) == (head.status, b"word" in out, upstream.closed)
    assert b"guard_failure" in out
    assert "disk full" in report.error


def test_entries_of_a_call_share_its_name():
    entries = []
    head, *_ = exchanged(made(record=entries.append, tenant="t"), spoken(*tokens()), body=STREAM)

    assert {("t", head.header("x-cosa-request"))} == {(entry.tenant, entry.request) for entry in entries}
    assert "".join(tokens()).endswith(entries[-1].text)
    assert entries[-1].final


def test_a_judge_that_fails_blocks():
    def broken(case):
        if case.stage == "output":
            raise RuntimeError("no")
        return clean(case)

    _, out, report, _ = exchanged(made(risks_config(), judge=OwnJudge(broken)), reply())

    assert (REFUSAL, "refuse") == (json.loads(out)["choices"][0]["message"]["content"], report.act)
    assert "raised RuntimeError" in report.error


def test_a_part_that_is_forbidden_is_declined_and_the_rest_answered():
    def some(case):
        found = {"violence", "drugs"} if case.stage == "input" else set()
        return Verdict(judge="t", evidence=Evidence(found=frozenset(found), examined=case.config.elements))

    _, _, report, upstream = exchanged(made(risks_config(), judge=OwnJudge(some)), reply())

    assert "partial" == report.act
    assert "leave the rest out" in upstream.bodies[0]["messages"][0]["content"].rsplit("\n\n", 1)[-1]


def test_media_in_a_reply_need_leave():
    spoken_ = reply(None, audio={"id": "a", "data": "AAAA", "expires_at": 1, "transcript": "Hello."})

    assert REFUSAL == json.loads(exchanged(made(), spoken_)[1])["choices"][0]["message"]["content"]
    assert json.dumps(spoken_).encode() == exchanged(made(terms_config(WORD, media="allow")), spoken_)[1]


def test_what_judges_cannot_reach_the_model_does_not_see():
    turns = [{"role": "user" if at % 2 == 0 else "assistant", "content": f"{at} " + "x" * 50} for at in range(21)]
    _, _, report, upstream = exchanged(made(widest=200), reply(), body={"messages": [{"role": "system", "content": "app"}, *turns]})

    assert [f"{at}" for at in (18, 19, 20)] == [message["content"].split()[0] for message in upstream.bodies[0]["messages"][1:]]
    assert 18 == report.dropped_turns


def test_a_proxy_s_system_text_is_judged_and_never_dropped():
    guard = made(widest=200, system_is_caller=True)
    messages = [{"role": "system", "content": "s" * 120}, {"role": "user", "content": "u" * 60}, {"role": "assistant", "content": "a" * 30}, USER]
    _, _, report, upstream = exchanged(guard, reply(), body={"messages": messages}, proxy=True)

    assert [True, True, False] == [word in str(upstream.bodies[0]["messages"][1:]) for word in ("sss", "aaa", "uuu")]
    assert 1 == report.dropped_turns
    assert "refuse" == exchanged(guard, reply(), body={"messages": [{"role": "system", "content": WORD}, USER]}, proxy=True)[2].act
    with pytest.raises(PromptTooLong, match="system text"):
        Exchange(guard, CODEC, {"messages": [{"role": "system", "content": "s" * 300}, USER]}, proxy=True)


def test_a_request_without_a_question_is_refused():
    with pytest.raises(UsageError, match="no message to answer"):
        Exchange(made(), CODEC, {"messages": [{"role": "system", "content": "x"}]})


def test_a_judge_of_meaning_reads_the_whole_stream_at_its_end():
    config = SafetyConfig(name="r", rules=[{"risk": "drugs", "stance": "forbid"}], default="allow", enforcement={"on_undecided": "allow"})
    _, out, report, _ = exchanged(made(config, judge=finder(drugs=[WORD])()), spoken(*tokens()), body=STREAM)

    assert ("".join(tokens()), "pass") == (said(out), report.act)


LATE = [f"A {WORD} is here.\n", "And a second line of it."]


@both
@pytest.mark.parametrize("path", ["/chat/completions", "/responses", "/messages"])
@pytest.mark.parametrize("mode", ["hold", "trail"])
def test_what_is_found_late_still_ends_the_answer_well(path, mode, awaited):
    """A judge that sees it in the whole text alone, after all of it is out, and a mode that lets all of it out at once."""

    def late(case):
        found = {"drugs"} if case.stage == "output" and case.final and (mode == "trail" or not case.start) and WORD in case.text else set()
        return Verdict(judge="t", evidence=Evidence(found=frozenset(found), examined=case.config.elements))

    config = risks_config(stream=mode, allow=(), forbid=("drugs", "violence")) if mode == "trail" else risks_config(stream=mode)
    filler = [] if mode == "trail" else ["This is a line that says nothing at all.\n"] * 60
    given, _ = answers_saying(path, [LATE[0], *filler, LATE[1] + ("" if mode == "trail" else "\n")])
    _, out, report = of_events(path, given, one=Guard(config, judge=OwnJudge(late)), awaited=awaited)
    ends = {"/chat/completions": b'"finish_reason":"content_filter"', "/responses": b"event: response.incomplete", "/messages": b'"stop_reason":"refusal"'}

    assert ("refuse", True) == (report.act, report.late)
    assert said_in(path, out).endswith(REFUSAL)
    assert LATE[1] in said_in(path, out)
    assert [b"end_turn", b"response.completed", b'"stop"'] == [word for word in (b"end_turn", b"response.completed", b'"stop"') if word not in out]
    assert 1 == out.count(ends[path])
    last = {"/chat/completions": b"data: [DONE]\n\n", "/responses": b"", "/messages": b'event: message_stop\ndata: {"type":"message_stop"}\n\n'}
    assert out.endswith(last[path])

