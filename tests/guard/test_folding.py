"""Folding: what a reader takes for the same letter is the same letter, however the text is cut."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cosa_guard.folding import fold, folded_length, is_invisible, whole_characters

TRICKY = st.sampled_from(
    "aAéÉßﬁﷺ①Ⅻ㎏ａＡ𝔞𝓑аρ’—\u00ad\u200b\u200d\u0301\u0308\ufe0f\u3164\U000e0041İıςΣ가각\n\r\t\u00a0\u2028\x00\ud800"
)
texts = st.text(alphabet=st.one_of(st.characters(), TRICKY), max_size=40)

# Default_Ignorable_Code_Point of Unicode: what a renderer draws nothing for. Python's `unicodedata` has no such property.
DEFAULT_IGNORABLE = [
    *(0x00AD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFEFF, 0xFFA0),
    *range(0x180B, 0x1810), *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070),
    *range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B),
    *range(0xE0000, 0xE1000),
]  # fmt: skip


@given(texts, texts)
@example("e", "\u0301")
@example("\ud835", "\udd1f")
def test_fold_is_a_homomorphism(left, right):
    whole = fold(left + right).text

    assert whole == fold(left).text + fold(right).text


@given(texts)
def test_folding_twice_changes_nothing(text):
    once = fold(text).text

    assert once == fold(once).text


@given(texts)
def test_length_is_the_sum_over_characters(text):
    assert len(fold(text).text) == sum(map(folded_length, text))


@given(texts, st.data())
def test_spans_lead_back_to_the_characters_that_made_them(text, data):
    folded = fold(text)
    size = len(folded.text)
    if not size:
        return
    start = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(start + 1, size))

    low, high = folded.span(start, end)

    # The first and the last character of the span each gave a letter of what was found, and nothing was left out.
    assert len(fold(text[:low]).text) <= start < len(fold(text[: low + 1]).text)
    assert len(fold(text[: high - 1]).text) < end <= len(fold(text[:high]).text)


@given(texts)
def test_positions_lead_into_the_folded_text(text):
    folded = fold(text)

    assert [folded.to_folded(at) for at in range(len(text) + 1)] == [
        len(fold(text[:at]).text) for at in range(len(text) + 1)
    ]


@given(st.text(alphabet=st.characters(max_codepoint=126, min_codepoint=32), max_size=40))
def test_ascii_fast_path_equals_the_slow_path(text):
    slow = fold(text + "\u200b")

    assert fold(text).text == slow.text
    assert [fold(text).span(at, at + 1) for at in range(len(text))] == [
        slow.span(at, at + 1) for at in range(len(text))
    ]


@pytest.mark.parametrize(
    "disguised",
    [
        "BOX",
        "вох",
        "ｂｏｘ",
        "ＢＯＸ",
        "𝐛𝐨𝐱",
        "𝔟𝔬𝔵",
        "𝓑𝓞𝓧",
        "𝚋𝚘𝚡",
        "ⓑⓞⓧ",
        "🄱🄾🅇",
        "b\u200box",
        "b\u00ado\u2060x",
        "b\ufe0fo\u034fx",
        "b\U000e0062ox",
        "b\u0336o\u0336x\u0336",
        "b\u0489o\u0488x",
        "bóx",
        "bo\u0301x",
        "βοχ",
        "bøx",
        "ʙᴏx",
    ],
)
def test_disguises_of_one_word(disguised):
    assert "box" == fold(disguised).text


@pytest.mark.parametrize(
    ("one", "two"),
    [("é", "e\u0301"), ("ñ", "n\u0303"), ("ệ", "e\u0323\u0302"), ("가", "\u1100\u1161"), ("й", "и\u0306")],
)
def test_an_accent_is_the_same_as_one_code_point_or_two(one, two):
    assert unicodedata.normalize("NFC", two) == one
    assert fold(one).text == fold(two).text


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("straße", "strasse"),
        ("ﬁre", "fire"),
        ("²", "2"),
        ("①", "1"),
        ("‘x’", "'x'"),
        ("a—b", "a-b"),
        ("a\u00a0b\u3000c", "a b c"),
        ("a\r\nb\u2028c", "a\n\nb\nc"),
        ("", ""),
        ("\ud800", "\ufffd"),
    ],
)
def test_folds(text, folded):
    assert folded == fold(text).text


def test_what_unicode_says_is_not_drawn_folds_to_nothing():
    seen = [hex(point) for point in DEFAULT_IGNORABLE if fold(chr(point)).text or not is_invisible(chr(point))]

    assert [] == seen


def test_what_a_reader_sees_never_folds_to_nothing():
    drawn = [chr(point) for point in range(0x20, 0x3000) if unicodedata.category(chr(point))[0] in "LNPS"]
    lost = [char for char in drawn if not fold(char).text and ord(char) not in DEFAULT_IGNORABLE]

    assert [] == lost


def test_control_characters_are_invisible_and_spaces_are_not():
    assert all(is_invisible(char) for char in "\x00\x07\x1b\x7f\x80")
    assert not any(is_invisible(char) for char in " \n\t\r\u00a0\u3000")


@pytest.mark.parametrize("half", ["\ud835", "\udd1f", "\udfff"])
def test_half_a_character_folds_to_what_every_engine_takes(half):
    assert fold(f"a{half}b").text.encode("utf-8")


@pytest.mark.parametrize(
    ("halves", "text"),
    [("", ""), ("a", "a"), ("é", "é"), ("\ud835\udd1f", "\U0001d51f"), ("a\ud835", "a\ufffd"), ("\udd1f\ud835", "\ufffd\ufffd"), ("\ud835x\udd1f", "\ufffdx\ufffd")],
)
def test_halves_of_characters_are_joined_or_replaced(halves, text):
    assert text == whole_characters(halves)
