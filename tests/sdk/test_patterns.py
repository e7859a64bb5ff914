"""Term patterns: every repeat bounded, a width that no match exceeds, and a clear no to what a stream cannot have."""

from __future__ import annotations

import pytest
import re2
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from cosa_sdk.patterns import REPEAT, WIDEST, PatternFault, bounded, engine, width

ALL, SOME = f"{{0,{REPEAT}}}", f"{{1,{REPEAT}}}"


def compiled(pattern, *, longest=False):
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.longest_match = longest
    return re2.compile(pattern, options)


# --- bounded ---


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a*b+c?", f"a{ALL}b{SOME}c?"),
        ("a*?b+?c??", f"a{ALL}?b{SOME}?c??"),
        ("a{2,}b{70,}", f"a{{2,{REPEAT}}}b{{70,70}}"),
        ("a{2,}?", f"a{{2,{REPEAT}}}?"),
        ("a{2}b{1,3}", "a{2}b{1,3}"),
        ("(ab)*", f"(ab){ALL}"),
        (r"\*\+\{2,}", r"\*\+\{2,}"),
        (r"\\*", rf"\\{ALL}"),
        ("[*+]", "[*+]"),
        ("[*+]*", f"[*+]{ALL}"),
        ("[]*]*", f"[]*]{ALL}"),
        ("[^]*]*", f"[^]*]{ALL}"),
        (r"[\]*]*", rf"[\]*]{ALL}"),
        (r"[a\\]*", rf"[a\\]{ALL}"),
        (r"[{2,}]{2,}", rf"[{{2,}}]{{2,{REPEAT}}}"),
        ("[[]*", f"[[]{ALL}"),
        ("[[:alpha:]*]*", f"[[:alpha:]*]{ALL}"),
        ("[^[:^digit:]+]+", f"[^[:^digit:]+]{SOME}"),
        (r"\x{2a}*\p{Greek}+\pN*", rf"\x{{2a}}{ALL}\p{{Greek}}{SOME}\pN{ALL}"),
        ("a{x,}b{", "a{x,}b{"),
        ("", ""),
    ],
)
def test_open_repeats_are_bounded_and_nothing_else(pattern, expected):
    assert expected == bounded(pattern)


# --- width ---


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("abc", 3),
        ("a|bcd", 3),
        ("colou?r", 6),
        ("a*?b", REPEAT + 1),
        ("a+?", REPEAT),
        ("a{70,}", 70),
        (r"\bMegaFilm\w{0,20}\b", 28),
        ("[]a]", 1),
        ("[^]a]x", 2),
        (r"[\]a]{3}", 3),
        ("[[:alpha:]]{4}", 4),
        ("[[:alpha:]+*]", 1),
        (r"\p{Greek}{5}", 5),
        (r"\pN\PN", 2),
        (r"caf\x{e9}", 4),
        (r"[\p{Greek}\x{e9}]", 1),
        ("(?i)abc", 3),
        ("(?s)a.c", 3),
        ("(?i:a)(?-i:b)", 2),
        ("(?P<name>ab)", 2),
        ("(?:ab){2,5}", 10),
        ("日本語", 3),
        (r"\.\*\+", 3),
        (f".{{{WIDEST}}}", WIDEST),
    ],
)
def test_width_of_the_longest_match(pattern, expected):
    assert expected == width(bounded(pattern))


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (f".{{{WIDEST + 1}}}", f"can match {WIDEST + 1} characters; at most {WIDEST}"),
        ("(a+)+", f"can match {REPEAT * REPEAT} characters; at most {WIDEST}"),
        ("((a*b)*c)*d", f"can match {((REPEAT + 1) * REPEAT + 1) * REPEAT + 1} characters; at most {WIDEST}"),
        (r"\w+ \w+ \w+ \w+ \w+", rf"can match {5 * REPEAT + 4} characters; at most {WIDEST}: bound its repeats, as in \w{{0,20}}"),
        ("a{300,}", f"can match 300 characters; at most {WIDEST}"),
        ("a{9999999999999}", "does not parse"),
        ("(a{500}){500}", f"can match 250000 characters; at most {WIDEST}"),
        ("", "matches the empty text"),
        ("a*", "matches the empty text"),
        ("a|", "matches the empty text"),
        (r"\b", "matches the empty text"),
        ("(a?b?){3}", "matches the empty text"),
        ("^a", "uses the anchor '^'"),
        ("a$", "uses the anchor '$'"),
        ("a|(b$)", "uses the anchor '$'"),
        ("[^][]^", "uses the anchor '^'"),
        (r"\Aa", "anchors to the end or start of a text"),
        (r"a\z", "anchors to the end or start of a text"),
        (r"a\Z", "anchors to the end or start of a text"),
        ("a{,3}", "{0,3} instead of {,3}"),
        ("a{,}", "{0,} instead of {,}"),
        ("(?=a)b", "cannot run in linear time: invalid perl operator: (?="),
        ("a(?!b)", "cannot run in linear time: invalid perl operator: (?!"),
        ("(?<=a)b", "cannot run in linear time: invalid"),
        ("(?<!a)b", "cannot run in linear time: invalid"),
        (r"(a)\1", r"cannot run in linear time: invalid escape sequence: \1"),
        ("(?P<q>a)(?P=q)", "cannot run in linear time"),
        ("(?>a)", "cannot run in linear time"),
        ("(a)(?(1)b|c)", "cannot run in linear time"),
        (r"\Qa*\E", r"does not parse: bad escape \Q"),
        (r"\C", r"does not parse: bad escape \C"),
        ("a*+", "does not parse: multiple repeat"),
        ("a++", "does not parse: multiple repeat"),
        ("a{2,5}+", "does not parse: multiple repeat"),
        ("*a", "does not parse: nothing to repeat"),
        ("(a", "does not parse: missing )"),
        ("a)", "does not parse: unbalanced parenthesis"),
        ("[a", "does not parse: unterminated character set"),
        ("[z-a]", "cannot run in linear time: invalid character class range"),
        ("[[:nonsense:]]", "cannot run in linear time: invalid character class range"),
        (r"\p{Nonsense}", "cannot run in linear time: invalid character class range"),
        ("(?x) a", "cannot run in linear time"),
        ("a\\", "does not parse: bad escape"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_term_is_refused_with_its_reason(pattern, said):
    with pytest.raises(PatternFault) as caught:
        width(bounded(pattern))

    assert said in str(caught.value)


@pytest.mark.parametrize(
    "pattern", [r"a\^", r"\$5", "[$^]", "[^$]", "[]^$]", "[^]^$]", r"[\]^$]", r"\p{^Greek}", r"\\z"]
)
def test_no_anchor_is_seen_where_there_is_none(pattern):
    assert 1 <= width(pattern) <= 3


# --- engine ---


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("mega", "MEGA", "MEGA"),
        ("ÉTÉ", "été", "été"),
        ("[[:alpha:]+]{2}", "12a+", "a+"),
        ("[]x]{2}", "a]x", "]x"),
        (r"\bno\b", "nothing, no", "no"),
        ("日.語", "日本語", "日本語"),
        ("a.b", "a\nb", None),
        ("(?s)a.b", "a\nb", "a\nb"),
    ],
)
def test_engine_ignores_case_and_counts_characters(pattern, text, found):
    match = engine(bounded(pattern)).search(text)

    assert found == (match and match.group())
    assert match is None or match.end() - match.start() <= width(bounded(pattern))


def test_two_patterns_with_one_group_name_can_be_joined():
    assert engine("(?:(?P<n>a))|(?:(?P<n>b))").search("b")


def test_engine_takes_linear_time():
    """Backtracking engines would need about 2**64 steps here."""
    assert engine(bounded("(?:a?){64}a{64}")).search("a" * 63) is None


# --- laws ---

ATOMS = [
    "a", "b", "é", ".", "-", "{", "[ab]", "[^a]", "[]a]", "[^]a]", r"[\]a]", "[a*]", "[a+{2,}]", "[[:alpha:]]", "[[:alpha:]+]",
    r"\w", r"\d", r"\s", r"\.", r"\*", r"\]", r"\\", r"\x{61}", r"\x61", r"\pL", r"\p{^L}", r"[\p{L}*]", r"\b", "(?i:A)", "(?s:.)",
]  # fmt: skip
QUANTIFIERS = ["", "", "*", "+", "?", "{2}", "{1,}", "{0,3}", "{3,}", "{,2}", "*?", "+?", "??", "{1,}?", "*+", "{2,3}+"]


def repeated(pieces):
    return st.tuples(pieces, st.sampled_from(QUANTIFIERS)).map("".join)


regexes = st.recursive(
    repeated(st.sampled_from(ATOMS)),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map("".join)
        | repeated(st.lists(inner, min_size=1, max_size=2).map("|".join).map("({})".format))
        | repeated(inner.map("(?:{})".format))
    ),
    max_leaves=5,
)
texts = st.text("ab]é.1+*{2,} \n\\", max_size=60)


@settings(max_examples=100, deadline=None)
@given(regexes, texts, st.sampled_from(["a", "ab", "é", "]", "+", "1", " "]))
@example("[[:alpha:]+]", "+", "+")
@example("a{,2}", "a{,2}", "a")
@example("x[^]]{3,}?", "x]abc", "a")
def test_no_match_is_wider_than_the_width(pattern, text, unit):
    source = bounded(pattern)
    try:
        most = width(source)
    except PatternFault:
        assume(False)

    for sample in (text, unit * (2 * WIDEST), text + unit * WIDEST + text):
        match = compiled(source, longest=True).search(sample)

        assert match is None or 1 <= match.end() - match.start() <= most


@settings(max_examples=80, deadline=None)
@given(regexes, texts)
@example("[[:alpha:]+]", "1+1")
@example("[^]*]*x", "*x")
def test_bounding_changes_no_match_of_short_texts(pattern, text):
    """No repeat takes more turns than the text has characters, and the text has fewer than `REPEAT`."""
    source = bounded(pattern)
    try:
        width(source)
    except PatternFault:
        assume(False)
    before, after = (compiled(form).search(text) for form in (pattern, source))

    assert (before and before.span()) == (after and after.span())


@settings(max_examples=100, deadline=None)
@given(st.text("ab[]^\\-*+?{},0123456789()|.:$pPxQEAzZ<>=!iés", max_size=12))
@example("[[:alpha:")
@example("\\")
@example("{٣,}")
def test_whatever_is_written_is_bounded_or_refused(pattern):
    source = bounded(pattern)

    assert source == bounded(source)
    try:
        assert 1 <= width(source) <= WIDEST
    except PatternFault as fault:
        assert str(fault)
