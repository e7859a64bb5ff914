"""Events come out the same, whatever pieces the bytes arrive in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosa_guard.testing import chunked
from cosa_guard.wire import sse
from cosa_guard.wire.sse import SSEDecoder, encode
from cosa_sdk.errors import WireError

LINES = st.sampled_from(
    ["data: a", "data:b", "data", "data:  two spaces", 'data: {"a": 1}', "event: delta", "event:x", ": a comment", "id: 7", "retry: 3", "", "", "nonsense", "data: né 🎈"]
)
ENDS = st.sampled_from(["\n", "\n", "\r\n", "\r"])


def decoded(data, sizes):
    decoder = SSEDecoder()
    return [event for piece in chunked(data, sizes) for event in decoder.feed(piece)]


def oracle(text):
    """The standard's own algorithm, line by line."""
    out, name, data = [], "", []
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]:
        if not line:
            if data:
                out.append((name, "\n".join(data)))
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value
    return out


@given(st.lists(st.tuples(LINES, ENDS), max_size=30), st.lists(st.integers(1, 9), max_size=300))
def test_any_chunking_gives_the_events_of_the_standard(lines, sizes):
    text = "".join(line + end for line, end in lines)
    expected = oracle(text)
    if text.endswith("\r"):  # a line feed may follow, so the last line end is not settled
        return

    assert expected == [(event.event, event.data) for event in decoded(text.encode(), sizes)]


@given(st.lists(st.tuples(LINES, ENDS), max_size=30))
def test_what_may_be_forwarded_says_nothing_but_event_and_data(lines):
    for event in decoded("".join(line + end for line, end in lines).encode(), [7] * 100):
        fields = {line.partition(b":")[0] for line in event.raw.strip().split(b"\n")}

        assert fields <= {b"data", b"event"}
        assert [(event.event, event.data)] == oracle(event.raw.decode())


def test_events_that_need_no_change_keep_their_bytes():
    raw = b'event: delta\ndata: {"a":  1}\n\n'

    assert [raw] == [event.raw for event in decoded(raw, [])]


def test_a_byte_order_mark_is_no_text():
    for size in (1, 2, 3, 50):
        assert ["a"] == [event.data for event in decoded(b"\xef\xbb\xbfdata: a\n\n", [size] * 30)]


@pytest.mark.parametrize("data", [b"data: \xff\n\n", b"data: \xed\xa0\xbd\n\n"])
def test_bytes_that_are_no_text_are_an_error(data):
    with pytest.raises(WireError, match="UTF-8"):
        decoded(data, [3] * 9)


def test_a_name_that_is_a_sentence_is_an_error():
    with pytest.raises(WireError, match="name"):
        decoded(b"event: a whole sentence\ndata: x\n\n", [])


def test_an_event_without_an_end_is_an_error(monkeypatch):
    monkeypatch.setattr(sse, "LARGEST_EVENT", 1000)

    with pytest.raises(WireError, match="1000 bytes"):
        decoded(b"data: " + b"a" * 2000, [100] * 30)


def test_half_an_event_is_pending():
    decoder = SSEDecoder()
    decoder.feed(b"data: a\n\ndata: b\n")

    assert decoder.pending
    assert ["b"] == [event.data for event in decoder.feed(b"\n")]
    assert not decoder.pending


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r")))
def test_what_is_encoded_is_decoded(text):
    assert [text] == [event.data for event in decoded(encode(text, "n"), [5] * 50)]
