"""THE leak property: whatever a model says and however it arrives, nobody reads a forbidden term.

What is expected is found here by other means than the code under test: a few lines normalise the whole text, and
Python's `re` searches it. COSA_CHUNKINGS says how many random texts and chunkings are tried; the slow test tries 10,000.
"""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.guard.build import CHUNKINGS, TwoColoured, answered, guard, masked, terms_config

from cosa_guard.testing import Transcript, chunked
from cosa_guard.window import UNIT

TERMS = ("bomb", "Acme Pictures", {"regex": r"zx\d{2,5}"})
REFUSAL = "This assistant can't help with that."
CONFIGS = {
    (output, stream): terms_config(*TERMS, default="forbid", output=output, stream=stream)
    for output in ("refuse", "redact")
    for stream in ("hold", "whole", "trail")
}

# --- the oracle ---

LATIN = str.maketrans("омасерхτο", "omacepxto")
EDGE = r"[^\W_]"
FORBIDDEN = re.compile(rf"(?<!{EDGE})bomb(?!{EDGE})|(?<!{EDGE})acme[\s_-]{{1,8}}pictures(?!{EDGE})|zx[0-9]{{2,5}}")


def admitted(text):
    """Halves of characters joined, and runs of over 64 invisible characters cut."""
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return re.sub("([\u200b\u00ad\u2060]{64})[\u200b\u00ad\u2060]+", r"\1", text)


def forbidden(text):
    """Where the forbidden terms stand in an admitted text."""
    plain, origin = [], []
    for at, char in enumerate(text):
        for part in unicodedata.normalize("NFKD", char).casefold().translate(LATIN):
            if unicodedata.category(part) not in {"Mn", "Cf"}:
                plain.append(part)
                origin.append(at)
    return [(origin[found.start()], origin[found.end() - 1] + 1) for found in FORBIDDEN.finditer("".join(plain))]


# --- what models say ---

LOOKALIKES = dict(zip("omacepxt", "омасерхτ", strict=True))
DRESSES = {
    "plain": lambda char: char,
    "upper": str.upper,
    "wide": lambda char: chr(ord(char) + 0xFEE0) if char.isalnum() else char,
    "cyrillic": lambda char: LOOKALIKES.get(char, char),
    "math": lambda char: chr(0x1D51E + ord(char) - ord("a")) if char.islower() else char,
    "halves": lambda char: halves(chr(0x1D41A + ord(char) - ord("a"))) if char.islower() else char,
}
PADDING = ["", "", "", "\u200b", "\u00ad", "\u2060\u200b", "\u0301", "\u0336", "\u200b" * 70]


def halves(char):
    """A character outside the basic plane as two surrogates, as some streams send it."""
    raw = char.encode("utf-16-be")
    return "".join(chr(int.from_bytes(raw[at : at + 2], "big")) for at in range(0, len(raw), 2))


@st.composite
def disguised(draw):
    term = draw(st.sampled_from(["bomb", "bomb", "acme pictures", "acme-pictures", "acme\npictures", "zx12", "zx123456"]))
    dress = st.sampled_from(sorted(DRESSES))
    pad = st.sampled_from(PADDING)
    one = draw(dress)
    mixed = draw(st.booleans())
    padded = draw(st.booleans())
    return "".join(DRESSES[draw(dress) if mixed else one](char) + (draw(pad) if padded else "") for char in term)


CLEAN = ["word ", "bom b ", "bombs ", "abomb ", "acme ", "pictures ", "zx1 ", "b", "o", "m", " ", " ", ". ", "\n", "No! ", "é", "ﬁ", "🙂", "\u200b", "\u00ad",
         "\ud83d", "A whole sentence that says nothing at all. ", "x" * 45, "and so on and so forth " * 8, "acme" + " " * 9 + "pictures "]  # fmt: skip
PARTS = st.one_of(st.sampled_from(CLEAN), st.sampled_from(CLEAN), st.builds("{}{}{}".format, st.sampled_from([" ", "", "_", "("]), disguised(), st.sampled_from([" ", "", ".", "s", "_", "\n"])))
LEADS = st.builds(lambda text, size: (text * size)[:size], st.sampled_from(["Such a sentence. ", "on and on ", "x", "　é"]), st.integers(0, 260))
SAID = st.builds("{}{}".format, LEADS, st.lists(PARTS, max_size=12).map("".join))
SIZES = st.one_of(st.just([1] * 5000), st.lists(st.integers(0, 30), max_size=60), st.just([]))

EXAMPLES = [
    ("bomb", []),
    ("x" * 46 + " bomb", [1] * 60),
    ("x" * 44 + " bomb yes", [48]),
    ("A sentence of some length. A bomb. Another sentence of some length.", [1] * 99),
    ("acme" + "\u200b" * 64 + " " * 8 + "\u200b" * 64 + "pictures", [7] * 99),
    ("".join(map(halves, "𝔟𝔬𝔪𝔟")), [1] * 20),
    ("zx12345678 zx1", [3] * 20),
    ("bomb" + "\u200b" * 200, [50] * 9),
    ("\u200b" * 200 + "bomb", [50] * 9),
]


def tries(count):
    """A property of (said, sizes, output), tried on the examples and on `count` random cases."""

    def decorate(test):
        for said, sizes in EXAMPLES:
            for output in ("refuse", "redact"):
                test = example(said, sizes, output)(test)
        return settings(max_examples=count)(given(SAID, SIZES, st.sampled_from(["refuse", "redact"]))(test))

    return decorate


def guarded(said, sizes, output, stream, *, awaited=True):
    """Sync and (when `awaited`) async, compared; what was out after each piece, and the report."""
    config, pieces = CONFIGS[output, stream], chunked(said, sizes) or [""]
    if awaited:
        transcript = answered(config, backend=lambda: TwoColoured(pieces))
    else:
        released = guard(config, pieces).stream("Hello there.")
        transcript = Transcript(tuple(released), released.report)
    out, so_far = [], ""
    for piece in transcript.pieces:
        so_far += piece.text
        out.append(so_far)
    return transcript, out


def model_text(transcript):
    """What reached the caller without the refusal at its end."""
    if not transcript.report.blocked:
        return transcript.text
    assert transcript.text.endswith(REFUSAL)
    return transcript.text.removesuffix(REFUSAL).removesuffix("\n\n")


def holds(said, sizes, output, *, awaited=True):
    text = admitted(said)
    places = forbidden(text)
    hold, out = guarded(said, sizes, output, "hold", awaited=awaited)
    whole, _ = guarded(said, sizes, output, "whole", awaited=awaited)

    assert hold.report.blocked == whole.report.blocked == (bool(places) and output == "refuse")
    assert hold.report.outcome == whole.report.outcome
    assert not hold.report.late
    assert not whole.report.late
    if output == "redact":
        assert masked(text, places) == hold.text == whole.text
        assert all(masked(text, places).startswith(so_far) for so_far in out)
    elif not places:
        assert text == hold.text == whole.text
    else:
        assert text.startswith(model_text(hold))
        assert len(model_text(hold)) <= places[0][0]
        assert REFUSAL == whole.text
    assert hold.finish == whole.finish == ("content_filter" if places and output == "refuse" else "stop")


@tries(CHUNKINGS)
def test_nobody_reads_a_forbidden_term(said, sizes, output):
    holds(said, sizes, output)


@pytest.mark.slow
@tries(10_000)
def test_nobody_reads_a_forbidden_term_in_ten_thousand_tries(said, sizes, output):
    # One asynchronous try in ten is enough here: the test above has more.
    holds(said, sizes, output, awaited=len(said) % 10 == 0)


@settings(max_examples=CHUNKINGS // 5)
@given(SAID, st.lists(st.integers(0, 30), max_size=60), st.lists(st.integers(0, 30), max_size=60))
def test_the_same_pieces_go_out_however_the_text_arrives(said, one, other):
    first, _ = guarded(said, one, "redact", "hold")
    second, _ = guarded(said, other, "redact", "hold")

    # Pieces end where units end, so not even their borders tell how the model's text came.
    assert first.pieces == second.pieces
    assert first.report.rulings == second.report.rulings


@settings(max_examples=CHUNKINGS // 5)
@given(SAID, SIZES, st.sampled_from(["refuse", "redact"]))
def test_trail_promises_less_it_cuts(said, sizes, output):
    text = admitted(said)
    places = forbidden(text)
    trail, out = guarded(said, sizes, output, "trail")

    assert trail.report.blocked == bool(places)
    assert text.startswith(model_text(trail))
    if not places:
        assert text == trail.text
        return
    # Two units and a piece behind the first term at the latest; the pieces here have at most 30 characters.
    assert len(model_text(trail)) <= places[0][1] + 2 * UNIT + 30 or len(sizes) < 60
    assert trail.report.late == (len(model_text(trail)) > 0)


def test_the_oracle_finds_what_people_see():
    seen = ["bomb", "BOMB", "ｂｏｍｂ", "bоmb", "b\u200bo\u00admb", "bo\u0301mb", "𝔟𝔬𝔪𝔟", "ACME\npictures", "zx12"]
    fine = ["bombs", "abomb", "acmepictures", "zx1", "bom b"]

    assert all(forbidden(text) for text in seen)
    assert not any(forbidden(text) for text in fine)
    assert "a [redacted] b" == masked("a bomb b", forbidden("a bomb b"))
