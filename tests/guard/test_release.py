"""Masks over a text that goes out in pieces equal masks over the whole text."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.guard.build import masked

from cosa_guard.release import MASK, Release

SPANS = st.lists(st.tuples(st.integers(0, 29), st.integers(1, 12)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=6)
CUTS = st.lists(st.integers(0, 30), max_size=8).map(sorted)
TEXT = "abcdefghijklmnopqrstuvwxyz0123"


def in_pieces(text, cuts, spans_before):
    """What goes out when `text` is cut at the given places; `spans_before(at)` are the spans known at each."""
    release, out, masks, start = Release(), [], 0, 0
    for end in [*cuts, len(text)]:
        for span in spans_before(end):
            release.mask(*span)
        piece, count = release.text(text[start:end], end)
        out.append(piece)
        masks += count
        start = end
    return "".join(out), masks


@given(SPANS, CUTS)
@example([(3, 9)], [5, 5, 6])
@example([(3, 6), (6, 9)], [6])
@example([(3, 6), (6, 9)], [4, 7])
@example([(0, 12), (2, 4)], [3])
@example([(0, 30)], [])
def test_masks_do_not_depend_on_the_cuts(spans, cuts):
    expected = masked(TEXT, spans)

    assert (expected, expected.count(MASK)) == in_pieces(TEXT, cuts, lambda _: spans)


@given(SPANS, CUTS, st.integers(0, 12))
def test_a_span_may_become_known_as_late_as_its_first_character_goes_out(spans, cuts, early):
    def known(end):
        return [span for span in spans if span[0] - early < end]

    assert masked(TEXT, spans) == in_pieces(TEXT, cuts, known)[0]


@given(SPANS, CUTS, st.randoms())
def test_the_order_of_the_spans_does_not_matter(spans, cuts, random):
    shuffled = random.sample(spans, len(spans)) + spans

    assert in_pieces(TEXT, cuts, lambda _: spans) == in_pieces(TEXT, cuts, lambda _: shuffled)


def test_spans_that_are_out_already_change_nothing():
    release = Release()
    release.text("abcd", 4)
    release.mask(1, 3)

    assert ("efgh", 0) == release.text("efgh", 8)


def test_the_rest_of_a_span_that_is_partly_out_is_masked():
    release = Release()
    release.text("abcd", 4)
    release.mask(2, 6)

    assert ("[redacted]gh", 1) == release.text("efgh", 8)


@pytest.mark.parametrize("count", [1, 3])
def test_an_empty_piece_neither_ends_nor_begins_a_mask(count):
    release = Release()
    release.mask(2, 6)
    first = release.text("abcd", 4)
    for _ in range(count):
        assert ("", 0) == release.text("", 4)

    assert (("ab[redacted]", 1), ("gh", 0)) == (first, release.text("efgh", 8))
