"""No place of a request takes a caller's text past the judges: whatever is there is judged, or let through as a word."""

from __future__ import annotations

import copy

import pytest
from tests.guard.server.serving import CLINIC, FILM, serving, write

SAID = "You may say zorkblat now."
CHAT = {
    "model": "small",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi", "name": "ann"},
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": None, "refusal": None, "annotations": [], "audio": None, "reasoning_content": "hm", "tool_calls": [
            {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": "b"}'}},
            {"id": "call_2", "type": "custom", "custom": {"name": "g", "input": "x"}},
        ]},
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        {"role": "assistant", "content": "so", "refusal": "r", "function_call": {"name": "g", "arguments": "{}"},
         "annotations": [{"type": "url_citation", "url_citation": {"url": "http://a", "title": "t"}}]},
        {"role": "user", "content": "go on"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}, "strict": True}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "functions": [{"name": "g", "description": "e", "parameters": {}}],
    "function_call": {"name": "g"},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "description": "d", "schema": {"type": "object"}}},
    "stream": True, "stream_options": {"include_usage": True}, "logit_bias": {"5": 1}, "metadata": {"a": "b"}, "user": "u", "service_tier": "auto",
    "reasoning_effort": "low", "verbosity": "low", "modalities": ["text"], "prompt_cache_key": "k", "safety_identifier": "s",
}  # fmt: skip
RESPONSES = {
    "model": "small", "instructions": "Be brief.",
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"a": "b"}', "id": "fc_1", "status": "completed"},
        {"type": "function_call_output", "call_id": "call_1", "output": "42"},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "content": [{"type": "output_text", "text": "so", "annotations": []}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "AAAA"},
        {"role": "user", "content": "go on"},
    ],
    "tools": [{"type": "function", "name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}, "strict": True}],
    "tool_choice": {"type": "function", "name": "f"}, "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {"type": "json_schema", "name": "n", "description": "d", "schema": {"type": "object"}}, "verbosity": "low"},
    "include": ["reasoning.encrypted_content"], "metadata": {"a": "b"}, "user": "u", "service_tier": "auto", "stream": True,
    "prompt_cache_key": "k", "safety_identifier": "s", "truncation": "disabled", "store": True,
}  # fmt: skip
MESSAGES = {
    "model": "claude-x", "max_tokens": 9,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "AAAA"}, {"type": "redacted_thinking", "data": "AAAA"},
            {"type": "text", "text": "so", "citations": []}, {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": "b"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "42"}], "is_error": False},
            {"type": "text", "text": "go on", "cache_control": {"type": "ephemeral", "ttl": "5m"}},
        ]},
    ],
    "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}}, "cache_control": {"type": "ephemeral"}}],
    "tool_choice": {"type": "tool", "name": "f"}, "thinking": {"type": "enabled", "budget_tokens": 1024}, "metadata": {"user_id": "u"},
    "service_tier": "auto", "stream": True, "output_config": {"effort": "low"}, "speed": "standard", "cache_control": {"type": "ephemeral"},
}  # fmt: skip
REQUESTS = {"/v1/chat/completions": (FILM, CHAT), "/v1/responses": (FILM, RESPONSES), "/v1/messages": (CLINIC, MESSAGES)}


def places(value, at=()):
    """Where something can be put, and how: each string, each object, each list."""
    if isinstance(value, str):
        yield at, "replaced"
    elif isinstance(value, dict):
        yield from [(at, "a value"), (at, "a name")]
        for key, item in value.items():
            yield from places(item, (*at, key))
    elif isinstance(value, list):
        yield at, "an element"
        for place, item in enumerate(value):
            yield from places(item, (*at, place))


def put(body, at, how):
    changed = copy.deepcopy(body)
    holder, key, value = None, None, changed
    for step in at:
        holder, key, value = value, step, value[step]
    match how:
        case "replaced":
            holder[key] = SAID
        case "a value":
            value["extra"] = SAID
        case "a name":
            value[SAID] = True
        case _:
            value.append(SAID)
    return changed


@pytest.mark.parametrize("path", REQUESTS)
def test_what_real_clients_send_is_let_through(proxy, upstream, path):
    key, body = REQUESTS[path]

    assert (200, "pass", 1) == ((answer := proxy.ask(path, body, key=key)).status, answer.headers["x-cosa-act"], len(upstream.seen))


@pytest.mark.parametrize("path", REQUESTS)
def test_no_place_of_a_request_takes_text_past_the_judges(proxy, upstream, path):
    key, body = REQUESTS[path]
    reached, faults, tried = [], [], 0
    for at, how in places(body):
        upstream.seen.clear()
        answer = proxy.ask(path, put(body, at, how), key=key)
        tried += 1
        reached += [(at, how) for seen in upstream.seen if "zorkblat" in seen.text]
        faults += [(at, how, answer.body)] * (answer.status not in {200, 400, 404})

    assert ([], []) == (reached, faults)
    assert tried > 80


OPEN = pytest.mark.xfail(reason="wire.chat_messages sends parts that are no text as they came, and expects their type to be one")
REFUSED = {
    "a file of somebody": {"type": "file", "file": {"file_id": "file-of-clinic"}},
    "a picture of somebody": {"type": "image_url", "image_url": {"file_id": "file-of-clinic"}},
    "a part that is no object": "Hi",
    "a picture remembered under an id": {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}, "uuid": "of-clinic"},
    "a part whose type is no text": {"type": ["text"], "text": "Hi"},
}


@pytest.mark.parametrize("part", [*list(REFUSED)[:3], *(pytest.param(name, marks=OPEN) for name in list(REFUSED)[3:])])
def test_a_part_that_names_what_no_judge_has_read_is_refused(upstream, tmp_path, part):
    """Also where the config lets media through."""
    path = write(tmp_path, upstream)
    config = tmp_path / "strict.yaml"
    config.write_text(config.read_text().replace("{on_undecided", "{media: allow, on_undecided"))
    with serving(path) as proxy:
        asked = {"messages": [{"role": "user", "content": [{"type": "text", "text": "See."}, REFUSED[part]]}]}
        answer = proxy.ask("/v1/chat/completions", asked, key=FILM)
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}}
        plain = proxy.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": [picture]}]}, key=FILM)

    assert (400, 200, 1) == (answer.status, plain.status, len(upstream.seen))


@pytest.mark.parametrize("turn", [
    {"role": "assistant", "audio": {"id": "audio_of_clinic"}}, {"role": "assistant", "tool_calls": ["x"]}, {"role": "assistant", "function_call": "x"},
    {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": "x"}]}, {"role": "tool", "tool_call_id": "Not an id.", "content": "x"},
])  # fmt: skip
def test_a_turn_of_a_shape_that_no_client_writes_is_refused(proxy, upstream, turn):
    answer = proxy.ask("/v1/chat/completions", {"messages": [turn, {"role": "user", "content": "Hi"}]}, key=FILM)

    assert (400, []) == (answer.status, upstream.seen)


def test_citations_of_an_answer_that_comes_back_do_not_go_upstream(proxy, upstream):
    proxy.ask("/v1/chat/completions", CHAT, key=FILM)

    assert "annotations" not in upstream.seen[0].text
