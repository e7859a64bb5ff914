"""What a log keeps of the texts: a keyed hash, the text without what was found in it, or all of it."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.guard.audit.logs import entry, records, ruling

from cosa_guard.audit import AuditLog, text_tag
from cosa_guard.audit.lines import LINE, Texts, chained
from cosa_guard.release import MASK
from cosa_guard.verdicts import Entry

KEY = b"k" * 32
ANY = st.text(st.characters(), max_size=60)  # half characters too
NAMES = st.text(max_size=20)


def said(texts, one):
    return json.loads(b"{" + texts.body(one) + b"}")


@given(text=ANY, tenant=NAMES, other=NAMES)
def test_equal_texts_have_equal_tags_within_a_tenant_alone(text, tenant, other):
    texts = Texts("hmac", KEY)
    tags = [said(texts, entry(text=text, tenant=name))["tag"] for name in (tenant, tenant, other)]

    assert text_tag(KEY, tenant, text) == tags[0] == tags[1]
    assert (tenant == other) == (tags[0] == tags[2])


@given(text=ANY, other=ANY)
def test_different_texts_and_different_keys_have_different_tags(text, other):
    assert (text == other) == (text_tag(KEY, "t", text) == text_tag(KEY, "t", other))
    assert text_tag(KEY, "t", text) != text_tag(b"K" * 32, "t", text)


def test_the_tag_is_what_the_documentation_says():
    tenant = hmac.new(KEY, b"cosa-audit-text/1\0acme", hashlib.sha256).digest()

    assert hmac.new(tenant, b"Hello.", hashlib.sha256).hexdigest() == text_tag(KEY, "acme", "Hello.")


def test_a_drawn_key_is_another_in_every_start_and_a_given_one_is_named(tmp_path):
    key = tmp_path / "key"
    key.write_text("0123456789abcdef" * 4 + "\n")
    for folder, secret in {"drawn": None, "given": key}.items():
        for _ in range(2):
            with AuditLog(tmp_path / folder, text_key=secret) as log:
                log(entry())
    tags = {folder: [records(tmp_path / folder, number)[0]["tag"] for number in range(2)] for folder in ("drawn", "given")}
    named = [[json.loads(line)["text_key"] for line in (tmp_path / folder / "manifest.jsonl").read_text().splitlines()] for folder in tags]

    assert tags["drawn"][0] != tags["drawn"][1]
    assert [text_tag(key.read_bytes().strip(), "", "secret text")] * 2 == tags["given"]
    assert named[0] == ["drawn"] * 2
    assert named[1][0] == named[1][1] != "drawn"
    assert key.read_text()[:8] not in str(named)


def test_many_tenants_keep_their_tags():
    texts = Texts("hmac", KEY)
    before = said(texts, entry(tenant="first"))["tag"]
    for number in range(3000):
        texts.body(entry(tenant=str(number)))

    assert before == said(texts, entry(tenant="first"))["tag"]
    assert len(texts._keys) <= 1024


@given(text=ANY, tenant=ANY, request=ANY)
def test_any_text_is_one_line_that_reads_back(text, tenant, request):
    line, own = chained(1, 1.5, "0" * 64, Texts("full", KEY).body(entry(text=text, tenant=tenant, request=request)))
    back = json.loads(line)

    assert line.isascii()
    assert 1 == len(line.splitlines())
    assert (text, tenant, request, own) == (back["text"], back["tenant"], back["request"], back["hash"])
    assert LINE.fullmatch(line[:-1])


def test_hmac_keeps_no_text():
    assert "text" not in said(Texts("hmac", KEY), entry(text="Hello."))


TEXT = "Call 12345 or 678."
REDACTED = {
    "nothing found": (ruling(), TEXT),
    "found in two places": (ruling("drugs", spans=(((5, 10), "drugs"), ((14, 17), "drugs"))), f"Call {MASK} or {MASK}."),
    "places that overlap": (ruling("drugs", spans=(((5, 9), "drugs"), ((7, 10), "drugs"))), f"Call {MASK} or 678."),
    "places that touch": (ruling("drugs", spans=(((5, 7), "drugs"), ((7, 10), "drugs"))), f"Call {MASK} or 678."),
    "everything": (ruling("drugs", spans=(((0, 18), "drugs"),)), MASK),
    "allowed, and somewhere": (ruling("violence"), TEXT),
    "found somewhere": (ruling("drugs"), None),
    "one found somewhere, one in a place": (ruling("drugs", "self_harm", spans=(((5, 10), "drugs"),)), None),
    "a judge failed": (ruling(error="judge 'x' raised ValueError"), None),
}


@pytest.mark.parametrize("name", REDACTED)
def test_redacted_masks_what_was_found_or_keeps_nothing(name):
    found, expected = REDACTED[name]

    assert expected == said(Texts("redacted", KEY), Entry(ruling=found, config="d", text=TEXT))["text"]


ERRORS = {
    # error, text, is it withheld
    "says nothing of the text": ("judge 'x' raised ValueError: 7", "My name is Ann, and I live here.", False),
    "quotes it": ("judge 'x' raised ValueError: cannot read 'My name is Ann'", "My name is Ann, and I live here.", True),
    "quotes a short text": ("judge 'x' cannot read Ann", "Ann", True),
    "an empty text": ("judge 'x' cannot read ''", "", False),
    "is shorter than a quotation": ("late", "My name is Ann, and I live here.", False),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("mode", ["hmac", "redacted", "full"])
def test_an_error_that_quotes_the_text_is_withheld_unless_the_text_is_kept(name, mode):
    error, text, withheld = ERRORS[name]
    kept = said(Texts(mode, KEY), entry(text=text, error=error))["error"]

    assert (withheld and mode != "full") == kept.startswith("withheld")
    assert (error == kept) == (not withheld or mode == "full")


def test_a_long_error_is_cut():
    assert 501 == len(said(Texts("hmac", KEY), entry(error="e" * 5000, text="t"))["error"])
