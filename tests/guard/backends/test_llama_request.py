"""Requests in llama.cpp's words, and stop strings."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosa_guard.backends.llama_request import Stopper, closed_schema, sampling_fields
from cosa_guard.messages import Sampling
from cosa_sdk.errors import UsageError


def run(stops, pieces):
    stopper, out = Stopper(stops), ""
    for piece in pieces:
        text, stopped = stopper.feed(piece)
        out += text
        if stopped:
            return out, True
    return out + stopper.held, False


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        ((), ["ab", "c"], ("abc", False)),
        (("b",), ["abc"], ("a", True)),
        (("END",), ["a E", "N", "D b"], ("a ", True)),
        (("END",), ["a E", "N", "X b"], ("a ENX b", False)),
        (("END",), ["a EN"], ("a EN", False)),
        (("aab",), ["aaa", "ab"], ("aa", True)),
        (("cd", "abcdef"), ["abcdef"], ("ab", True)),
        (("b", "ab"), ["ab"], ("", True)),
    ],
)
def test_stop_strings(stops, pieces, expected):
    assert expected == run(stops, pieces)


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_the_cut_does_not_depend_on_the_pieces(text, stops, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    found, stopped = run(tuple(stops), pieces)

    assert (found, stopped) == run(tuple(stops), list(text))
    assert text.startswith(found)
    assert not any(stop in found for stop in stops)


@given(st.text("ab", max_size=30), st.text("ab", min_size=1, max_size=5))
def test_what_is_let_go_early_is_never_taken_back(text, stop):
    stopper, out = Stopper((stop,)), ""
    for char in text:
        ready, stopped = stopper.feed(char)
        out += ready
        assert text.partition(stop)[0].startswith(out)
        if stopped:
            break


def test_nothing_but_what_was_asked_for_shapes_the_draw():
    assert {"temperature": 0.7, "top_p": 0.9, "top_k": 0, "min_p": 0.0, "seed": 3} == sampling_fields(
        Sampling(temperature=0.7, top_p=0.9, seed=3)
    )
    assert "seed" not in sampling_fields(Sampling())
    assert sampling_fields(Sampling(seed=0xFFFFFFFF))["seed"] != 0xFFFFFFFF  # the server's word for 'random'
    assert sampling_fields(Sampling(seed=-1))["seed"] >= 0


def test_objects_are_closed_unless_they_say_so():
    part = {"type": "object", "properties": {"b": {"type": "integer"}}}
    schema = {
        "type": "object",
        "properties": {
            "a": part,
            "list": {"type": "array", "items": part},
            "open": {**part, "additionalProperties": True},
        },
        "$defs": {"part": part},
    }

    closed = closed_schema(json.dumps(schema))

    assert closed["additionalProperties"] is False
    assert closed["properties"]["a"]["additionalProperties"] is False
    assert closed["properties"]["list"]["items"]["additionalProperties"] is False
    assert closed["properties"]["open"]["additionalProperties"] is True
    assert closed["$defs"]["part"]["additionalProperties"] is False


@pytest.mark.parametrize("beside", [{"$ref": "#/$defs/x"}, {"allOf": [{}]}, {"patternProperties": {}}])
def test_objects_that_are_combined_stay_open(beside):
    assert "additionalProperties" not in closed_schema(json.dumps({"properties": {"a": {}}} | beside))


@pytest.mark.parametrize("text", ["{", "[]", "true", '"x"'])
def test_what_is_no_schema(text):
    with pytest.raises(UsageError, match="json_schema"):
        closed_schema(text)


def test_no_schema():
    assert closed_schema(None) is None
