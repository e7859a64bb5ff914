"""A table finds every string that may be text, wherever it stands and whatever it is called."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from tests.guard.wire.scenes import strings

from cosa_guard.wire.fields import META, OPAQUE, readable, strings_in, text, walk, whole
from cosa_guard.wire.openai_chat import CHUNK

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 300) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(["id", "content", "choices", "delta", "foo", "a b c d e f"]), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["id", "choices", "usage", "model", "foo"]), JSON, max_size=4), st.data())
def test_no_sentence_is_missed(body, data):
    """Put a sentence anywhere: it is found, or stands in something that is."""
    sentence = "this is a sentence that no identifier could be"
    places = [holder for holder in containers(body) if holder] or [body]
    holder = data.draw(st.sampled_from(places))
    key = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder)))) if holder else "foo"
    holder[key] = sentence
    found = walk(CHUNK, body)

    assert any(sentence in json.dumps(one.value) for one in found)


def containers(value):
    if isinstance(value, dict | list):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from containers(item)


@given(JSON)
def test_every_string_is_read(value):
    read = "\n".join(strings_in(value))

    assert all(string in read for path, string in strings(value) if not path.endswith("key"))


def test_places_are_the_indices_of_lists():
    table = {"choices": {"*": {"parts": {"*": {"text": text("t")}}}}}
    body = {"choices": [{"index": 4, "parts": [{"text": "a"}, {"text": "b"}]}, {"parts": [{"text": "c"}]}]}

    assert [(4, 0), (4, 1), (1, 0)] == [found.place for found in walk(table, body)]


def test_metadata_passes_and_sentences_do_not():
    table = {"id": META, "signature": OPAQUE}

    assert [] == walk(table, {"id": "chatcmpl-1", "signature": "aGVsbG8=" * 99})
    assert [".id"] == [found.path for found in walk(table, {"id": "a sentence, longer than any name: no identifier"})]
    assert [".signature"] == [found.path for found in walk(table, {"signature": "not base64!"})]
    assert [".id"] == [found.path for found in walk(table, {"id": {"deep": ["a sentence, longer than any name is"]}})]


def test_json_in_a_string_is_opened():
    assert ["q", "zork"] == readable('{"q": "\\u007aork"}').split("\n")[:2]
    assert "plain" == readable("plain")
    assert "5" == readable("5")
    assert "secret" in readable('{"q": "secret", "q": "other"}')


def test_what_is_whole_may_be_any_value():
    table = {"input": whole("input")}

    assert [{"a": 1}, "x"] == [walk(table, {"input": value})[0].value for value in ({"a": 1}, "x")]
