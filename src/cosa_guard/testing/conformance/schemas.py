"""JSON schemas: replies that programs read."""

from __future__ import annotations

import json
from typing import Any, Final

from cosa_guard.testing.conformance.asking import (
    FOX,
    Said,
    ask,
    ask_json,
    distance,
    drawn,
    json_backend,
    say,
    scorer,
    together,
)
from cosa_guard.testing.conformance.subject import Subject, check, expect, raises
from cosa_sdk.errors import UsageError

__all__: list[str] = []

_LONG: Final = ("Count from 1 to 500.", "List all the letters and what they stand for.", "Tell me a long story.")
_SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "an object": {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "size": {"enum": ["small", "big"]}},
        "required": ["ok", "size"],
    },
    "an array": {"type": "array", "items": {"enum": [1, 22, 333]}, "minItems": 2, "maxItems": 3},
    "a nested object": {
        "type": "object",
        "properties": {"a": {"type": "object", "properties": {"b": {"const": None}}, "required": ["b"]}},
        "required": ["a"],
    },
    "a choice": {"anyOf": [{"const": "x"}, {"const": 5}]},
}


def _value(reply: Said) -> Any:
    try:
        return json.loads(reply.text)
    except ValueError as error:
        raise AssertionError(f"{reply.text!r}, ended with {reply.finish!r}, is no JSON: {error}") from error


def _check_object(name: str, reply: Said) -> None:
    value = _value(reply)
    fits: dict[str, Any] = {
        "an object": lambda: value in [{"ok": ok, "size": size} for ok in (True, False) for size in ("small", "big")],
        "an array": lambda: 2 <= len(value) <= 3 and {*value} <= {1, 22, 333},
        "a nested object": lambda: value == {"a": {"b": None}},
        "a choice": lambda: value in ("x", 5),
    }  # fmt: skip
    expect(fits[name](), f"{name} came as {reply.text!r}")
    expect(reply.finish == "stop", f"{name} ended with {reply.finish!r}")


@check("JSON")
def a_reply_fits_its_schema(subject: Subject) -> None:
    """Objects, arrays, nesting, choices."""
    backend = json_backend(subject)
    for name, schema in _SCHEMAS.items():
        _check_object(name, say(backend, ask_json(schema)))


@check("JSON")
def a_drawn_reply_fits_its_schema(subject: Subject) -> None:
    """At a high temperature too, where anything else would be said."""
    backend = json_backend(subject)
    for seed in range(3):
        _check_object("an object", say(backend, ask_json(_SCHEMAS["an object"], temperature=1.5, seed=seed)))


@check("JSON")
def a_schema_of_one_request_does_not_bind_the_next(subject: Subject) -> None:
    """Neither its text nor its log-odds."""
    backend = json_backend(subject)
    say(backend, drawn(FOX, max_tokens=1))
    before = say(backend, FOX).text
    say(backend, ask_json({"const": 1}, FOX.messages[-1].content))
    after = say(backend, FOX).text
    expect(before == after, f"after a request for JSON {before!r} became {after!r}")


@check("JSON")
def log_odds_are_not_bound_by_a_schema(subject: Subject) -> None:
    """They are the model's own."""
    backend = scorer(subject)
    json_backend(subject)
    free = backend.next_logprobs(FOX)
    say(backend, ask_json({"const": 1}, FOX.messages[-1].content))
    expect(distance(free, backend.next_logprobs(FOX)) < 0.2, "a request for JSON changed the next log-odds")


@check("JSON")
def json_and_free_replies_at_the_same_time(subject: Subject) -> None:
    """Each request has its own grammar."""
    backend = json_backend(subject)
    names = list(_SCHEMAS)
    free = [ask(question) for question in _LONG]
    alone = [say(backend, request).text for request in free]
    calls = [lambda name=name: say(backend, ask_json(_SCHEMAS[name])) for name in names]
    calls += [lambda request=request: say(backend, request) for request in free]
    replies = together(calls)
    for name, reply in zip(names, replies, strict=False):
        _check_object(name, reply)
    pairs = [(request, one, reply.text) for request, one, reply in zip(free, alone, replies[len(names) :], strict=True)]
    apart = [pair for pair in pairs if pair[1][:1] != pair[2][:1]]
    expect(len(apart) < 2, f"beside requests for JSON free replies changed: {apart!r}")


@check("JSON")
def a_limit_cuts_json_short(subject: Subject) -> None:
    """And says so."""
    backend = json_backend(subject)
    reply = say(backend, ask_json({"const": "a long text that does not fit into so few tokens"}, max_tokens=3))
    expect(reply.finish == "length", f"JSON cut short has the finish {reply.finish!r}")


@check("JSON")
def a_schema_that_cannot_be_used_is_refused(subject: Subject) -> None:
    """Before or instead of a reply, never dropped without a word; and the backend works on."""
    backend = json_backend(subject)
    for schema in ("no JSON", "[]", "7", '{"type": "nonsense"}', '{"$ref": "#/nowhere"}'):
        raises(UsageError, lambda schema=schema: list(backend.stream(ask_json(schema))), f"the schema {schema!r}")  # type: ignore[misc]
    _check_object("a choice", say(backend, ask_json(_SCHEMAS["a choice"])))
