"""The window: units depend on the text alone, nothing is lost, and what may go out keeps its distance from the end."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cosa_guard.folding import INVISIBLE_RUN, fold
from cosa_guard.testing import chunked
from cosa_guard.window import CONTEXT, FIRST_UNIT, SHORTEST_SENTENCE, UNIT, Window

INVISIBLE = "\u200b\u00ad\u2060\x00\ufeff"
PIECES = st.one_of(
    st.sampled_from(["Hello there. ", "word ", "One! ", "Two?\n", "\n", "。", "… ", '."\n', "no. 5 ", "x" * 70, "é" * 30, "ﷺ", "ﬃ", "🙂", "\ud835\udd1f", "\ud83d", "\ude00", "\u200b" * 40, "e\u0301"]),
    st.text(alphabet=st.sampled_from("ab .!?\n\u200b\u00ad\x00é\ud83d\ude00"), max_size=30),
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=40).map("".join)
SIZES = st.lists(st.integers(0, 60), max_size=80)


def admitted(text):
    """What a window lets in: surrogates joined, or replaced; long runs of invisible characters cut."""
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return re.sub(rf"((?:[{INVISIBLE}]){{{INVISIBLE_RUN}}})[{INVISIBLE}]+", r"\1", text)


def cut(pieces, *, holdback=0, context=CONTEXT):
    """All units of a text that arrives in pieces, each with what it lets out."""
    window = Window(holdback=holdback, context=context)
    units = [unit for piece in pieces for unit in window.feed(piece)]
    return [*units, *window.flush()], window


def released(pieces, **settings):
    """What goes out, unit by unit, when every unit passes as soon as it is there."""
    window, out = Window(**settings), []
    for piece in pieces:
        out += [window.take(unit.release) for unit in window.feed(piece)]
    out += [window.take(unit.release) for unit in window.flush()]
    return out


@given(TEXTS, SIZES, st.integers(0, 80), st.integers(0, 200))
@example("x" * 500, [1] * 80, 5, 10)
@example("a" * 19 + ". b", [20, 1], 0, 0)
@example("a" * 30 + '."\nb', [31, 1, 1], 0, 0)
@example("\ud83d" * 3 + "\ude00", [1] * 4, 3, 0)
def test_units_are_a_function_of_the_text_alone(text, sizes, holdback, context):
    whole, _ = cut([text], holdback=holdback, context=context)
    single, _ = cut(list(text), holdback=holdback, context=context)
    pieces, _ = cut(chunked(text, sizes), holdback=holdback, context=context)

    assert whole == pieces
    assert whole == single


@given(TEXTS, SIZES, st.integers(0, 80))
@example("\ud835", [1], 0)
@example("\u200b" * 300 + "x", [7] * 50, 3)
def test_nothing_is_lost_or_repeated(text, sizes, holdback):
    pieces = chunked(text, sizes)

    assert admitted(text) == "".join(released(pieces, holdback=holdback))
    assert admitted(text) == cut(pieces, holdback=holdback)[1].text


@given(TEXTS, SIZES, st.integers(0, 300))
def test_what_goes_out_keeps_its_distance(text, sizes, holdback):
    units, window = cut(chunked(text, sizes), holdback=holdback)
    whole = window.text

    for unit in units[:-1]:
        end = unit.start + len(unit.text)
        assert len(fold(whole[unit.release : end]).text) >= min(holdback, len(fold(whole[:end]).text))
    assert units[-1].release == len(whole)


@given(TEXTS, SIZES, st.integers(0, 300))
def test_more_is_never_kept_back_than_asked_for(text, sizes, holdback):
    units, window = cut(chunked(text, sizes), holdback=holdback)

    for before, unit in zip([None, *units], units[:-1], strict=False):
        kept = window.text[unit.release : unit.start + len(unit.text)]
        fresh = before is None or unit.release > before.release
        assert not fresh or len(fold(kept[1:]).text) < max(1, holdback)


@given(TEXTS, SIZES, st.integers(0, 80), st.integers(0, 200))
def test_a_unit_holds_everything_not_yet_let_out(text, sizes, holdback, context):
    units, window = cut(chunked(text, sizes), holdback=holdback, context=context)
    let_out = 0

    for unit in units:
        assert unit.text == window.text[unit.start : unit.start + len(unit.text)]
        assert unit.start <= let_out <= unit.release <= unit.start + len(unit.text)
        let_out = unit.release
    assert [False] * (len(units) - 1) + [True] == [unit.final for unit in units]


@given(TEXTS, st.integers(0, 80), st.integers(0, 200))
def test_context_before_a_unit_is_as_long_as_asked_for(text, holdback, context):
    units, window = cut([text], holdback=holdback, context=context)
    let_out = 0

    for unit in units:
        before = fold(window.text[unit.start : let_out]).text
        assert unit.start == 0 or len(before) >= max(context, holdback + 2)
        # An inner unit begins with a character that folds to something, so that its first place is a known one.
        assert unit.start == 0 or fold(unit.text[0]).text
        let_out = unit.release


@given(TEXTS)
def test_units_are_short(text):
    units, _ = cut([text])
    ends = [0, *(unit.start + len(unit.text) for unit in units)]
    lengths = [after - before for before, after in zip(ends, ends[1:], strict=False)]

    assert all(SHORTEST_SENTENCE <= length <= UNIT for length in lengths[:-1])
    assert all(length <= FIRST_UNIT for length in lengths[:1])


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("", [0]),
        ("Short.", [6]),
        ("This is one sentence. And two", [22, 29]),
        ("No. 5 is not a sentence by itself! Yes.", [35, 39]),
        ('He said "it is so and so." Then he left.', [27, 40]),
        ("x" * 100, [48, 100]),
        ("x" * 300, [48, 248, 300]),
        ("これは十文字以上の長い文章です、本当に。そうです", [20, 24]),
        ("A line without a full stop\nnext", [27, 31]),
    ],
)  # fmt: skip
def test_where_units_end(text, ends):
    units, _ = cut([text])

    assert ends == [unit.start + len(unit.text) for unit in units]


@pytest.mark.parametrize("text", ["", "a", "This is one whole sentence.\n", "x" * 48, "\u200b" * 100, "\ud835"])
def test_there_is_always_one_final_unit(text):
    units, window = cut(list(text))

    assert [unit.final for unit in units].count(True) == 1
    assert len(window.text) == units[-1].release


def test_a_character_split_in_halves_is_joined():
    window = Window()
    window.feed("a\ud835")
    window.feed("\udd1fb")

    assert "a\U0001d51fb" == window.text


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["\ud835"], "\ufffd"),
        (["a\ud835", "b"], "a\ufffdb"),
        (["\udd1f"], "\ufffd"),
        (["\ud835", "\ud835", "\udd1f"], "\ufffd\U0001d51f"),
        (["\ud835", "", "\udd1f"], "\U0001d51f"),
        (["\udd1f\ud835"], "\ufffd\ufffd"),
    ],
)
def test_halves_without_their_other_half_are_replaced(pieces, text):
    window = Window()
    for piece in pieces:
        window.feed(piece)
    window.flush()

    assert text == window.text
    assert text.encode("utf-8")


@pytest.mark.parametrize("run", [1, 64, 65, 1000])
def test_runs_of_invisible_characters_are_cut(run):
    text = "bo" + "\u200b" * run + "mb" + "\u00ad" * run

    for pieces in ([text], list(text)):
        _, window = cut(pieces)
        assert "bo" + "\u200b" * min(run, 64) + "mb" + "\u00ad" * min(run, 64) == window.text


def test_a_visible_character_begins_a_new_run():
    text = ("\u200b" * 60 + "x") * 5

    assert text == cut(list(text))[1].text


@given(SIZES)
@settings(max_examples=20)
def test_memory_stays_bounded_while_text_goes_out(sizes):
    text = "This is a sentence like many others. " * 2000
    window, longest, let_out = Window(holdback=50), 0, 0
    for piece in chunked(text, [size or 1 for size in sizes] * 3 + [30] * 4000):
        for unit in window.feed(piece):
            let_out += len(window.take(unit.release))
            longest = max(longest, len(window._tail), len(unit.text))
    window.flush()

    assert len(text) == window.length
    assert longest <= 4 * CONTEXT + CONTEXT + 50 + 3 * UNIT
    assert let_out > len(text) - UNIT - 100


def test_memory_holds_everything_while_nothing_goes_out():
    text = "This is a sentence like many others. " * 300
    window = Window(holdback=50)
    for piece in chunked(text, [30] * 4000):
        window.feed(piece)
    units = window.flush()

    assert text == window.take(units[-1].release)
