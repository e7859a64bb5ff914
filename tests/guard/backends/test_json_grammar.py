"""Replies held to a JSON schema, whatever draws the tokens."""

from __future__ import annotations

import json
import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from cosa_guard.backends.json_grammar import Grammar
from cosa_sdk.errors import BackendError, MissingExtra, UsageError

pytestmark = pytest.mark.slow  # llguidance is there in the full run only

END, SILENT = 256, 257
WORDS = [b'{"', b'"ok"', b"true", b"  ", b'":', b" small", b"sma", b"ll", b'"}', b"\n\n", b"12", b'","']
TOKENS = [bytes([byte]) for byte in range(256)] + [b"", b""] + WORDS
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "size": {"enum": ["small", "big"]}, "n": {"type": "integer"}},
    "required": ["ok", "size"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def grammar(torch_installed):
    return Grammar(TOKENS, end=[END], extra="transformers")


def drawn(matcher, seed, *, most=400):
    """Tokens at random of those that are allowed, shorter ones first so that strings end; None where it did not end."""
    draw, out = random.Random(seed), b""
    for _ in range(most):
        allowed = [int(token) for token in matcher.mask().nonzero()[0]]
        if matcher.finished:
            assert [END] == allowed
            return out
        quotes = [token for token in allowed if TOKENS[token] in (b'"', b"}", b'"}', b"]")]
        token = draw.choice(quotes if quotes and draw.random() < 0.3 else allowed)
        if token == END:
            return out
        matcher.accept(token)
        out += TOKENS[token]
    return None


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_drawn_fits_the_schema(grammar, seed):
    out = drawn(grammar.matcher(SCHEMA), seed)

    Draft202012Validator(SCHEMA).validate(json.loads(out))
    assert b"  " not in out and b"\n" not in out


@given(
    st.sampled_from(
        [
            {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3},
            {"enum": ["small", "big", 12]},
            {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
            {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "required": ["a"], "$defs": {"b": {"type": "null"}}},
        ]
    ),
    st.integers(0, 50),
)
def test_other_schemas(grammar, schema, seed):
    out = drawn(grammar.matcher(schema), seed)

    Draft202012Validator(schema).validate(json.loads(out))


def test_the_end_is_allowed_only_where_the_json_is_whole(grammar):
    matcher = grammar.matcher(SCHEMA)

    for byte in b'{"ok":true,"size":"big"':
        assert not matcher.mask()[END]
        matcher.accept(byte)
    matcher.accept(ord("}"))

    assert matcher.finished
    assert [END] == list(matcher.mask().nonzero()[0])


def test_special_tokens_are_never_allowed(grammar):
    assert not grammar.matcher({"type": "string"}).mask()[SILENT]


def test_several_ends(torch_installed):
    matcher = Grammar(TOKENS, end=[END, SILENT], extra="transformers").matcher({"const": 1})
    matcher.accept(ord("1"))

    assert [END, SILENT] == list(matcher.mask().nonzero()[0])


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "nonsense"}, "Invalid type: nonsense"),
        ({"$ref": "#/nowhere"}, "'/nowhere' does not exist"),
        ({"$ref": "https://elsewhere.example/schema"}, "not present"),
        ({"type": "string", "pattern": "a(?=b)"}, "look-around"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}, "uniqueItems"),
        ({"type": "integer", "minimum": 3, "maximum": 1}, "Unsatisfiable"),
    ],
)
def test_a_schema_that_cannot_be_applied_is_refused_with_the_reason(grammar, schema, said):
    with pytest.raises(UsageError, match=f"cannot apply this json_schema.*{said}"):
        grammar.matcher(schema)


def test_a_schema_cannot_allow_itself_more_blanks(grammar):
    matcher = grammar.matcher({"type": "array", "items": {"type": "null"}, "x-guidance": {"whitespace_pattern": " *"}})

    for byte in b"[ ":
        matcher.accept(byte)

    assert not matcher.mask()[ord(" ")]


def test_a_token_that_was_not_allowed(grammar):
    matcher = grammar.matcher(SCHEMA)

    with pytest.raises(BackendError, match="cannot go on under its json_schema"):
        matcher.accept(ord("["))
    with pytest.raises(BackendError, match="cannot go on"):  # and never looks finished
        matcher.mask()


@pytest.mark.parametrize(
    ("tokenize", "first"),
    [
        (lambda text: list(text.encode()), b"t"),
        (None, b"true"),
        (lambda text: [SILENT], b"true"),  # not the text, so not believed
    ],
)
def test_prescribed_text_is_written_in_the_tokenizers_own_tokens(torch_installed, tokenize, first):
    matcher = Grammar(TOKENS, end=[END], extra="transformers", tokenize=tokenize).matcher({"const": True})

    assert [first] == [TOKENS[token] for token in matcher.mask().nonzero()[0]]


def test_a_model_without_an_end(torch_installed):
    with pytest.raises(UsageError, match="no token that ends a reply"):
        Grammar(TOKENS, end=[], extra="transformers")


def test_llguidance_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)

    with pytest.raises(MissingExtra, match=r"pip install 'cosa\[llama-cpp\]'"):
        Grammar(TOKENS, end=[END], extra="llama-cpp")
