"""What of a long text is read: nothing is lost between sentences, and windows fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosa_guard.judges.embedded.windows import PROMPT_ROOM, ROOM, coded, sentences, window_at
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


@given(st.lists(st.integers(1, 70), min_size=1, max_size=20), st.data())
def test_a_window_fits_and_holds_its_centre(sizes, data):
    numbers = iter(range(10_000))
    parts = [[next(numbers) for _ in range(size)] for size in sizes]
    centre = data.draw(st.integers(0, len(parts) - 1))
    window = window_at(parts, centre)

    assert len(window) <= max(ROOM // 2, len(parts[centre]))
    assert list(range(window[0], window[-1] + 1)) == window  # neighbours, in order
    assert set(parts[centre]) <= set(window)
    before = next((part for part in reversed(parts) if part[-1] < window[0]), None)
    after = next((part for part in parts if part[0] > window[-1]), None)
    assert all(len(window) + len(part) > ROOM // 2 for part in (before, after) if part)  # nothing more would fit


def test_what_stands_before_comes_first():
    parts = [[0] * 20, [1] * 20, [2] * 20]

    assert [0] * 20 + [1] * 20 == window_at(parts, 1)
    assert [0] * 20 + [1] * 20 == window_at(parts, 0)


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
