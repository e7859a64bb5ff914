"""What of a long text is read: nothing is lost between sentences, and no reading is longer than the encoder's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosa_guard.judges.embedded.windows import PROMPT_ROOM, ROOM, coded, ends, sentences
from cosa_guard.judges.embedded.wordpiece import CLS, SEP, WordPiece

LONGEST = 48
WORDS = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "?", *(f"w{number}" for number in range(500))])
FIRST = WORDS.number("w0")


def text_of(lengths, end=". "):
    """Sentences of so many words, every word another one."""
    words = iter(range(500))
    return end.join(" ".join(f"w{next(words)}" for _ in range(length)) for length in lengths)


@given(st.lists(st.integers(0, 120), max_size=4), st.sampled_from([". ", "\n", "? ", "\n\n", " \n "]))
def test_every_piece_of_a_text_is_in_some_sentence(lengths, end):
    text = text_of(lengths, end)
    parts = sentences(WORDS, text)

    assert set(WORDS.ids(text)) == {number for part in parts for number in part}
    assert all(1 <= len(part) <= LONGEST for part in parts)
    starts = [part[0] for part in parts if part[0] >= FIRST]
    assert sorted(starts) == starts  # in order


@pytest.mark.parametrize(("words", "sizes"), [(0, []), (1, [1]), (48, [48]), (49, [48, 13]), (84, [48, 48]), (85, [48, 48, 13])])
def test_long_sentences_are_cut_with_an_overlap(words, sizes):
    assert sizes == [len(part) for part in sentences(WORDS, text_of([words]))]


@given(st.integers(0, 400))
def test_of_a_long_text_beginning_and_end_are_read(size):
    body = list(range(size))
    read = ends(body)

    assert min(size, ROOM) == len(read)
    assert read == body if size <= ROOM else read[:64] == body[:64] and read[64:] == body[-32:]


def test_readings():
    assert ([CLS, 7, 8, SEP], [0, 0, 0, 0]) == coded([7, 8])
    assert ([CLS, SEP], [0, 0]) == coded([])
    assert ([CLS, 7, SEP], [0, 0, 0]) == coded([7], [])
    assert ([CLS, 5, SEP, 7, 8, SEP], [0, 0, 0, 1, 1, 1]) == coded([7, 8], [5])


def test_of_a_long_prompt_the_end_is_read():
    asked = list(range(10, 10 + 2 * PROMPT_ROOM))
    ids, segments = coded([7], asked)

    assert [CLS, *asked[-PROMPT_ROOM:], SEP, 7, SEP] == ids
    assert len(ids) == len(segments)
    assert [0] * (PROMPT_ROOM + 2) + [1, 1] == segments
