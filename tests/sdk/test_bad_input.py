"""Malformed configs and files: one table of what is refused, in which words and on which line.

Whatever is wrong, the error is a `ConfigError` or an `UnknownName`: nothing else may escape to the caller.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosa_sdk import files, presets
from cosa_sdk.config import Enforcement, Example, Refusal, Rule, SafetyConfig, Term
from cosa_sdk.errors import ConfigError, FloorViolation, UnknownName

MANY = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


class Bad(NamedTuple):
    id: str
    form: Any
    text: str
    said: tuple[str, ...]
    line: int | None = None
    column: int | None = None


def rule(*lines: str) -> str:
    """A YAML config with one rule; its keys stand from line 3 on."""
    return "name: c\nrules:\n  - " + "\n    ".join(lines) + "\n"


TEXTS = [
    # names and choices
    Bad("stance", "yaml", rule("stance: forbidd", "risk: drugs"), ("rules[0].stance", "'forbidd' is not one of allow, limit, forbid", "did you mean 'forbid'?"), 3, 13),
    Bad("stance-is-a-list", "yaml", rule("stance: [allow]", "risk: drugs"), ("['allow'] is not one of",), 3, 13),
    Bad("unknown-key", "yaml", "name: c\nguidline: Be kind.\n", ("unknown key 'guidline'", "did you mean 'guideline'?"), 2, 1),
    Bad("unknown-key-in-rule", "yaml", rule("stance: forbid", "risk: drugs", "txt: all"), ("rules[0].txt", "unknown key 'txt'", "did you mean 'text'?"), 5, 5),
    Bad("unknown-key-in-term", "yaml", rule("id: r", "stance: forbid", "terms:", "  - phras: x"), ("rules[0].terms[0].phras", "did you mean 'phrase'?"), 6, 9),
    Bad("unknown-key-in-json", "json", '{"name": "c",\n "rulez": []}', ("unknown key 'rulez'", "did you mean 'rules'?"), 2, 2),
    Bad("unknown-key-in-toml", "toml", 'name = "c"\n[refusal]\nmesage = "No."\n', ("refusal.mesage", "did you mean 'message'?"), 3, 1),
    Bad("key-called-self", "yaml", "self: c\nname: c\n", ("unknown key 'self'",), 1, 1),
    Bad("missing-name", "yaml", "purpose: To help.\n", ("the key 'name' is required",), 1, 1),
    Bad("missing-key-in-example", "yaml", rule("stance: forbid", "risk: drugs", "examples:", "  - prompt: x"), ("rules[0].examples[0].good", "'good' is required"), 6, 9),
    Bad("name", "yaml", "name: Film Studio\n", ("'Film Studio' is not a name", "lower-case"), 1, 7),
    Bad("unknown-risk", "yaml", rule("stance: allow", "risk: violance"), ("rules[0].risk", "unknown risk 'violance'", "did you mean 'violence'?"), 4, 11),
    Bad("unknown-taxonomy", "yaml", "name: c\ntaxonomy: cosa-2\n", ("'cosa-2' is not one of cosa-1",), 2, 11),
    Bad("unknown-pii", "yaml", rule("id: r", "stance: forbid", "terms: [{pii: e-mail}]"), ("rules[0].terms[0].pii", "'e-mail' is not one of", "did you mean 'email'?"), 5, 19),
    Bad("choice-in-toml", "toml", 'name = "c"\n[[rules]]\nstance = "allow"\nrisk = "drugs"\n[[rules]]\nstance = "forbit"\nrisk = "violence"\n', ("rules[1].stance", "did you mean 'forbid'?"), 6, 10),
    # meaning
    Bad("empty-rule", "yaml", rule("id: r", "stance: forbid"), ("rules[0]", "nothing can break it"), 3, 5),
    Bad("limit-without-text", "yaml", rule("stance: limit", "risk: drugs"), ("is a limit without text", "what exactly is allowed"), 3, 5),
    Bad("limit-without-risk", "yaml", rule("id: r", "stance: limit", "text: a little"), ("is a limit without a risk",), 3, 5),
    Bad("allow-with-terms", "yaml", rule("stance: allow", "risk: drugs", "terms: [beer]"), ("its terms could break nothing",), 3, 5),
    Bad("allow-without-risk", "yaml", rule("id: r", "stance: allow", "text: all"), ("within: [violence]",), 3, 5),
    Bad("within-beside-risk", "yaml", rule("stance: allow", "risk: drugs", "within: [violence]"), ("`within`",), 3, 5),
    Bad("other-allowed", "yaml", rule("stance: allow", "risk: other"), ("'other' can never be allowed",), 4, 11),
    Bad("floor", "yaml", rule("stance: forbid", "risk: floor.minors"), ("rules[0].risk", "on the floor"), 4, 11),
    Bad("contradiction", "yaml", rule("stance: allow", "risk: drugs") + "  - id: d\n    stance: forbid\n    risk: drugs\n", ("is allow and", "is forbid for 'drugs'", "narrow one"), 5, 5),
    Bad("same-id", "yaml", rule("{id: r, stance: forbid, text: x}") + "  - {id: r, stance: forbid, text: y}\n", ("'r' is used by rules[0] too",), 4, 10),
    Bad("default-without-guideline", "yaml", "name: c\ndefault: guideline\n", ("needs a guideline",), 2, 10),
    Bad("trail", "yaml", "name: c\ndefault: allow\nenforcement:\n  stream: trail\n", ("stream: trail", "use hold or whole"), 4, 11),
    Bad("two-kinds-of-term", "yaml", rule("id: r", "stance: forbid", "terms: [{phrase: x, pii: iban}]"), ("both phrase and pii",), 5, 13),
    Bad("no-kind-of-term", "yaml", rule("id: r", "stance: forbid", "terms: [{}]"), ("neither phrase, regex nor pii",), 5, 13),
    Bad("regex", "yaml", rule("id: r", "stance: forbid", "terms: [{regex: 'a('}]"), ("rules[0].terms[0].regex", "'a('", "does not parse"), 5, 21),
    Bad("regex-look-ahead", "yaml", rule("id: r", "stance: forbid", "terms: [{regex: 'a(?=b)'}]"), ("terms[0].regex",), 5, 21),
    Bad("regex-matches-nothing", "yaml", rule("id: r", "stance: forbid", "terms: [{regex: 'a*'}]"), ("matches the empty text",), 5, 21),
    Bad("regex-too-wide", "yaml", rule("id: r", "stance: forbid", "terms: [{regex: '(ab*c*d*)+x'}]"), ("at most 256",), 5, 21),
    # values
    Bad("yes", "yaml", "name: c\nrefusal:\n  explain: yes\n", ("'yes'", "write true or false"), 3, 12),
    Bad("number-for-text", "yaml", "name: 12\n", ("12", "put text in quotes"), 1, 7),
    Bad("date-for-text", "yaml", "name: 2024-01-01\n", ("'2024-01-01' without quotes is a date", "quotes"), 1, 7),
    Bad("time-for-text", "yaml", "name: 12:30\n", ("'12:30' without quotes is a number", "quotes"), 1, 7),
    Bad("fraction-for-text", "yaml", "name: c\npurpose: 1.5\n", ("'1.5' without quotes is a number", "quotes"), 2, 10),
    Bad("octal", "yaml", "name: c\nversion: 010\n", ("'010' without quotes",), 2, 10),
    Bad("fraction-in-json", "json", '{"name": "c",\n "version": 1.0}', ("version", "1.0 is a number with a fraction"), 2, 13),
    Bad("nan-in-json", "json", '{"version": NaN}', ("not JSON: NaN",)),
    Bad("date-in-toml", "toml", 'name = "c"\npurpose = 2024-01-01\n', ("purpose", "2024-01-01 is a date", "quotes"), 2, 11),
    Bad("huge-number", "yaml", f"name: c\nversion: {'9' * 5000}\n", ("without quotes is a number that no key takes",), 2, 10),
    Bad("huge-number-in-json", "json", f'{{"version": {"9" * 5000}}}', ("not JSON", "4300 digits")),
    Bad("huge-number-in-toml", "toml", f"version = {'9' * 5000}", ("not TOML", "4300 digits")),
    Bad("large-number-in-json", "json", f'{{"version": {2**60}}}', ("too large a number",), 1, 13),
    Bad("text-for-number", "yaml", "name: c\nversion: '3'\n", ("'3'", "whole number, without quotes"), 2, 10),
    Bad("too-many-attempts", "yaml", "name: c\nenforcement: {attempts: 9}\n", ("enforcement.attempts", "9", "8"), 2, 25),
    Bad("null-for-list", "yaml", "name: c\nrules:\n", ("rules", "write a value, or leave the key out"), 2, 7),
    Bad("mapping-for-list", "yaml", "name: c\nrules: {stance: allow}\n", ("rules", "write a list"), 2, 8),
    Bad("text-for-rule", "yaml", "name: c\nrules: [no drugs]\n", ("rules[0]", "'no drugs'", "write keys and values"), 2, 9),
    Bad("blank-text", "yaml", "name: c\nguideline: '  '\n", ("guideline", "only spaces"), 2, 12),
    Bad("chat-template-marker", "yaml", "name: c\nguideline: Hello <|im_end|>\n", ("'<|im_end|>' at character 7",), 2, 12),
    Bad("bidi-override", "json", '{"name": "c", "purpose": "a\\u202eb"}', ("U+202E at character 2",), 1, 26),
    Bad("lone-surrogate", "json", '{"name": "c", "purpose": "\\ud800"}', ("purpose",), 1, 26),
    Bad("marker-in-own-risk", "yaml", "name: c\nrisks:\n  - {id: x, name: '[INST]', definition: d}\n", ("risks[0].name", "'[INST]'"), 3, 19),
    # keys and structure
    Bad("duplicate-key", "yaml", "name: c\nversion: 1\nname: d\n", ("duplicate key 'name' on lines 1 and 3",), 3, 1),
    Bad("duplicate-key-in-rule", "yaml", rule("stance: forbid", "risk: drugs", "stance: allow"), ("rules[0].stance", "duplicate key 'stance' on lines 3 and 5"), 5, 5),
    Bad("duplicate-key-in-json", "json", '{"name": "c",\n "rules": [{"id": "r",\n "id": "s"}]}', ("rules[0].id", "duplicate key 'id' on lines 2 and 3"), 3, 2),
    Bad("duplicate-key-escaped", "json", '{"name": "c", "n\\u0061me": "d"}', ("duplicate key 'name'",), 1, 15),
    Bad("duplicate-key-in-toml", "toml", 'name = "c"\nname = "d"\nversion = 1\n', ("not TOML", "keep one of the two"), 2),
    Bad("number-as-key", "yaml", "name: c\n1: d\n", ("the key 1 is not text",), 2, 1),
    Bad("null-as-key", "yaml", "name: c\n~: d\n", ("the key None is not text",), 2, 1),
    Bad("list-as-key", "yaml", "name: c\n? [a]\n: d\n", ("is not text",), 2, 3),
    Bad("control-character-in-key", "json", '{"name": "c", "\\u001b[2J": 1}', ("the key '\\x1b[2J' is not plain text",), 1, 15),
    Bad("top-level-list", "yaml", "- name: c\n", ("the top level is a list",), 1, 1),
    Bad("top-level-text", "yaml", "Be kind.\n", ("the top level is a single value",), 1, 1),
    Bad("top-level-list-in-json", "json", '["name"]', ("the top level is a list",), 1, 1),
    Bad("newer-schema", "yaml", "cosa: 2\nname: c\nmodes: [a]\n", ("newer Cosa: schema 2", "reads up to 1", "upgrade"), 1, 7),
    Bad("older-schema", "yaml", "cosa: 0\nname: c\n", ("cosa", "0 is not one of 1"), 1, 7),
    # YAML's own
    Bad("anchor", "yaml", "name: &a c\n", ("anchors and aliases",), 1, 7),
    Bad("alias", "yaml", "name: c\npurpose: *a\n", ("anchors and aliases",), 2, 10),
    Bad("billion-laughs", "yaml", "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", ("anchors and aliases",), 1, 4),
    Bad("merge-key", "yaml", "name: c\n<<: {version: 2}\n", ("merge keys",), 2, 1),
    Bad("python-tag", "yaml", "name: !!python/object/apply:os.system [ls]\n", ("tags such as 'tag:yaml.org,2002:python/object/apply:os.system'",), 1, 7),
    Bad("own-tag", "yaml", "name: !secret c\n", ("tags such as '!secret'",), 1, 7),
    Bad("second-document", "yaml", "name: c\n---\nname: d\n", ("a second document starts here",), 2, 1),
    # syntax
    Bad("colon-in-text", "yaml", "name: c\npurpose: help: always\n", ("mapping values are not allowed here", "in quotes"), 2, 14),
    Bad("tab", "yaml", "name: c\nrefusal:\n\tmessage: No.\n", ("indent with spaces",), 3, 1),
    Bad("open-list", "yaml", "name: c\nrules: [\n", ("not YAML",), 3),
    Bad("bad-escape", "yaml", 'name: c\npurpose: "\\q"\n', ("not YAML", "unknown escape"), 2),
    Bad("code-point-out-of-range", "yaml", 'purpose: "\\UFFFFFFFF"\n', ("not YAML",)),
    Bad("bell", "yaml", "name: c\npurpose: a\ab\n", ("U+0007 is not allowed",), 2, 11),
    Bad("json-trailing-comma", "json", '{"name": "c", }', ("not JSON",), 1),
    Bad("json-two-values", "json", '{"name": "c"}\n{}', ("not JSON: Extra data",), 2, 1),
    Bad("json-cut-off", "json", '{"name": "c', ("not JSON: Unterminated string",), 1, 10),
    Bad("toml-no-value", "toml", 'name = "c"\nversion =\n', ("not TOML",), 2),
    Bad("toml-open-text", "toml", 'name = "c', ("not TOML",), 1),
    # bounds
    Bad("empty", "yaml", "", ("is empty", "start with a name")),
    Bad("only-comments", "yaml", "# nothing yet\n", ("is empty",)),
    Bad("empty-json", "json", " \n", ("is empty",)),
    Bad("empty-toml", "toml", "", ("is empty",)),
    Bad("nul", "yaml", "name: c\0\n", ("NUL byte",), 1, 8),
    Bad("too-large", "json", '{"name": "' + "c" * (1 << 20) + '"}', ("larger than 1048576 bytes",)),
    Bad("too-many-values", "yaml", "x: [" + "1," * 30_000 + "]\n", ("more than 20000 values",), 1),
    Bad("deep-yaml", "yaml", "x: " + "[" * 100_000, ("nested deeper than 16 levels",), 1),
    Bad("deep-yaml-block", "yaml", "- " * 100_000, ("nested deeper than 16 levels",), 1),
    Bad("deep-json", "json", "[" * 100_000, ("nested deeper than 16 levels",)),
    Bad("deep-json-closed", "json", '{"a":' * 40 + "1" + "}" * 40, ("nested deeper than 16 levels",), 1),
    Bad("deep-toml", "toml", "x = " + "[" * 100_000, ("nested deeper than 16 levels",)),
    Bad("deep-toml-closed", "toml", "x = " + "[" * 40 + "]" * 40, ("nested deeper than 16 levels",)),
    Bad("deep-toml-dots", "toml", 'name = "c"\n' + '"a\\"".b.' * 50_000 + "x = 1", ("nested deeper than 16 levels",), 2, 1),
]  # fmt: skip


@pytest.mark.parametrize("bad", TEXTS, ids=lambda bad: bad.id)
def test_text_is_refused(bad):
    with pytest.raises(ConfigError) as caught:
        files.loads(bad.text, format=bad.form, name=f"film.{bad.form}")
    (finding,) = caught.value.findings

    assert [] == [part for part in (f"film.{bad.form}", *bad.said) if part not in str(caught.value)], str(caught.value)
    assert (bad.line, bad.column or finding.column) == (finding.line, finding.column)


FILES = [
    ("latin-1", "c.yaml", "name: c\npurpose: Größe\n".encode("latin-1"), "is not UTF-8: byte 0xf6 at offset 19 (save"),
    ("utf-16", "c.json", '{"name": "c"}'.encode("utf-16"), "is not UTF-8: byte 0xff at offset 0"),
    ("too-large", "c.toml", b"#" * ((1 << 20) + 1), "larger than 1048576 bytes"),
    ("binary", "c.yaml", b"\x7fELF\x02\x01\x01\x00\x00", "c.yaml:1:8: NUL byte"),
    ("suffix", "c.ini", b"name=c", "unknown suffix '.ini'; known: .yaml, .yml, .toml, .json"),
    ("no-suffix", "config", b"name: c", "unknown suffix ''"),
    ("empty", "c.yml", b"", "is empty"),
]


@pytest.mark.parametrize(("name", "data", "said"), [row[1:] for row in FILES], ids=[row[0] for row in FILES])
def test_file_is_refused(tmp_path, name, data, said):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        files.load(path)

    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "film-studio.yaml").write_text("name: c\n", "utf-8")
    with pytest.raises(ConfigError, match=r"there is no such file \(did you mean 'film-studio.yaml'\?\)"):
        files.load(tmp_path / "filmstudio.yaml")


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no folder '.*none'"):
        files.load(tmp_path / "none" / "c.yaml")


def test_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is a directory"):
        files.load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="is not a regular file"):
        files.load(tmp_path / "c.yaml")


def test_impossible_path_is_refused():
    with pytest.raises(ConfigError, match="null"):
        files.load("a\0b.yaml")


def test_unknown_names():
    with pytest.raises(UnknownName, match="preset"):
        presets.load("film")
    with pytest.raises(UnknownName, match="format"):
        files.loads("name: c", format="xml")


OBJECTS = [
    ("rule", lambda: Rule(stance="forbid"), "neither id nor risk"),
    ("term", lambda: Term(phrase="x" * 300), "at most 256"),
    ("example", lambda: Example(prompt="", good="x"), "empty"),
    ("refusal", lambda: Refusal(explain=1), "boolean"),
    ("enforcement", lambda: Enforcement(attempts=0), "attempts"),
    ("replace", lambda: SafetyConfig(name="c").replace(version=0), "version"),
    ("from-text", lambda: SafetyConfig.from_text(" "), "only spaces"),
    ("not-a-list", lambda: SafetyConfig(name="c", rules=7), "rules"),
]


@pytest.mark.parametrize(("make", "said"), [row[1:] for row in OBJECTS], ids=[row[0] for row in OBJECTS])
def test_object_is_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_an_object_that_holds_itself_is_refused():
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ConfigError, match="rules"):
        SafetyConfig(name="c", rules=loop)


def test_floor_violation_is_its_own_class():
    with pytest.raises(FloorViolation):
        SafetyConfig(name="c", rules=[{"stance": "allow", "risk": "floor.mass_harm"}])


# --- nothing else escapes, whatever comes in -----------------------------------------------------------------------

KEYS = [
    *SafetyConfig.model_fields,
    *Rule.model_fields,
    *Term.model_fields,
    *Example.model_fields,
    *Enforcement.model_fields,
]
WORDS = ["allow", "limit", "forbid", "violence", "other", "drugs", "floor.minors", "guideline", "trail", "c", ""]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(WORDS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=15,
)
MARKUP = st.text("ab01 \n\t-:?[]{},#&*!|>'\"%@`~<=.\\x\u2028\x85\ufeff\ud800\U0001f600", max_size=40)


def accepts_or_refuses(make):
    try:
        config = make()
    except (ConfigError, UnknownName) as error:
        assert str(error)  # either outcome is right; another exception is not
    else:
        assert config.digest


@MANY
@given(fields=st.dictionaries(st.sampled_from(sorted(SafetyConfig.model_fields)), VALUES))
def test_any_values(fields):
    accepts_or_refuses(lambda: SafetyConfig(**{"name": "c", **fields}))


@MANY
@given(rules=st.lists(st.dictionaries(st.sampled_from(sorted(Rule.model_fields)), VALUES), max_size=3))
def test_any_rules(rules):
    accepts_or_refuses(lambda: SafetyConfig(name="c", rules=rules))


@MANY
@given(regex=st.text(r"ab01\[](){}*+?|^$.,-:pPxLQEAzZuUN<>=!i#&~é" + "\n\0", max_size=12))
def test_any_regex(regex):
    accepts_or_refuses(
        lambda: SafetyConfig(name="c", rules=[{"id": "r", "stance": "forbid", "terms": [{"regex": regex}]}])
    )


@MANY
@given(text=MARKUP | st.text(max_size=40), form=st.sampled_from(["yaml", "toml", "json"]))
def test_any_text(text, form):
    accepts_or_refuses(lambda: files.loads(text, format=form))
