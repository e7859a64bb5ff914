"""Word pieces: by hand, and for any text at all."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosa_guard.folding import fold
from cosa_guard.judges.embedded.wordpiece import CLS, PAD, SEP, UNK, WordPiece, lowered

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
PIECES = [*SPECIAL, "un", "##aff", "##able", "kill", "##er", "##k", "!", "-", "1", "\u4f60", "cafe", "c", "_"]
ANYTHING = st.text(st.characters(exclude_categories=()), max_size=200)
ASCII = st.text(st.characters(max_codepoint=127), max_size=100)


@pytest.fixture(scope="module")
def tokenizer():
    return WordPiece(PIECES)


@pytest.fixture(scope="module")
def letters():
    return WordPiece([*SPECIAL, *string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)])


def pieces(tokenizer, text):
    return [PIECES[number] for number in tokenizer.ids(text)]


def test_special_pieces_stand_first():
    assert (0, 1, 2, 3) == (PAD, UNK, CLS, SEP)


@pytest.mark.parametrize(("text", "found"), [
    ("", []),
    (" \t\n\u3000", []),
    ("kill", ["kill"]),
    ("KILL", ["kill"]),
    ("killer", ["kill", "##er"]),
    ("unaffable", ["un", "##aff", "##able"]),
    ("unable", ["un", "##able"]),
    ("able", ["[UNK]"]),  # only inside a word
    ("killx", ["[UNK]"]),  # a word is known with all its letters or not at all
    ("kill kill", ["kill", "kill"]),
    ("kill!!", ["kill", "!", "!"]),
    ("un-kill", ["un", "-", "kill"]),
    ("un_kill", ["un", "_", "kill"]),
    ("kill1", ["[UNK]"]),
    ("1 kill", ["1", "kill"]),
    ("\u4f60\u4f60", ["\u4f60", "\u4f60"]),
    ("kill\u4f60", ["kill", "\u4f60"]),
    ("caf\u00e9", ["cafe"]),
    ("\u043a\u0456ll", ["kill"]),  # Cyrillic k and i
    ("k\u200bi\u00adll", ["kill"]),
    ("\uff4b\uff49\uff4c\uff4c", ["kill"]),
    ("ki\x00ll", ["kill"]),
    ("\U0001f600", ["[UNK]"]),
    ("\ud800kill", ["[UNK]", "kill"]),
])
def test_by_hand(tokenizer, text, found):
    assert found == pieces(tokenizer, text)


def test_numbers_of_pieces(tokenizer):
    assert len(PIECES) == len(tokenizer)
    assert PIECES.index("kill") == tokenizer.number("kill")
    assert UNK == tokenizer.number("nowhere")


@pytest.mark.parametrize(("length", "words"), [(48, 1), (49, 2), (96, 2), (100, 3)])
def test_long_words_are_cut(letters, length, words):
    first = letters.number("x")

    assert length == len(letters.ids("x" * length))
    assert words == letters.ids("x" * length).count(first)


@given(ANYTHING)
def test_any_text_gives_ids_in_range(tokenizer, text):
    found = tokenizer.ids(text)

    assert all(0 < number < len(tokenizer) for number in found)
    assert found == tokenizer.ids(text)


@given(ASCII)
def test_ascii_is_lowered_as_it_is_folded(text):
    assert fold(text).text == lowered(text)


@given(ASCII)
def test_the_short_way_for_ascii_gives_what_folding_gives(letters, text):
    assert letters.ids(text) == letters.ids(f"{text} \uff58")[:-1]


@given(st.lists(ANYTHING, max_size=4))
def test_lines_are_read_apart(tokenizer, lines):
    assert [number for line in lines for number in tokenizer.ids(line)] == tokenizer.ids("\n".join(lines))


class Counted(dict):
    asked = 0

    def get(self, *given):
        self.asked += 1
        return super().get(*given)


@pytest.mark.parametrize("text", ["x", "ab", "kill ", "q!", "\u4f60", "\u00e9"])
def test_a_long_text_costs_what_its_length_says(text):
    def asked(length):
        tokenizer = WordPiece(PIECES)
        tokenizer._ids = Counted(tokenizer._ids)
        tokenizer._of_word = tokenizer._cut  # without the cache
        tokenizer.ids((text * length)[:length])
        return tokenizer._ids.asked

    assert asked(100_000) <= 2.1 * asked(50_000) + 100
    assert asked(100_000) <= 100_000 * 49


def test_the_cache_of_words_keeps_no_texts():
    tokenizer = WordPiece(PIECES)
    tokenizer.ids("kill" * 10_000)

    assert 2 >= tokenizer._of_word.cache_info().currsize
