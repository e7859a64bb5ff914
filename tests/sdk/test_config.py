"""What a config is: frozen, complete, coherent, text without markup, and one digest for one meaning."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from tests.sdk.strategies import configs

from cosa_sdk import config as module
from cosa_sdk.config import Enforcement, Example, Refusal, Rule, SafetyConfig, Term, canonical_json
from cosa_sdk.decide import Evidence, decide
from cosa_sdk.errors import ConfigError, FloorViolation
from cosa_sdk.taxonomy import FLOOR, Risk, Taxonomy, builtin
from cosa_sdk.wording import FENCES, fault_in, neutralised

some_configs = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
many = settings(max_examples=80, deadline=None)

FILM = {
    "cosa": 1,
    "name": "film-studio",
    "version": 3,
    "purpose": "Script assistant for a film production company",
    "audience": "professional writers, adults",
    "guideline": "We are a film production company …\n",
    "rules": [
        {
            "id": "heists",
            "stance": "limit",
            "risk": "financial_crime",
            "text": "planning and execution of financial crimes that drive the story",
            "unless": "shown as glamorous, or as usable real-world instructions",
            "undecided": "allow",
        },
        {"id": "fights", "stance": "allow", "risk": "violence", "note": "stage fights, war scenes"},
        {"id": "drugs", "stance": "forbid", "risk": "drugs"},
        {
            "id": "competitor-names",
            "stance": "forbid",
            "text": "names of competing studios",
            "terms": [{"phrase": "Acme Pictures"}, {"regex": "\\bMegaFilm\\w*"}],
            "examples": [{"prompt": "…", "good": "…", "bad": "…"}],
        },
    ],
    "default": "forbid",
    "refusal": {"message": "This assistant can't help with that.", "explain": True},
    "enforcement": {
        "input": "refuse",
        "output": "regenerate",
        "attempts": 2,
        "stream": "hold",
        "on_error": "block",
        "on_undecided": "block",
        "media": "refuse",
    },
}
"""The example of config.md, whole."""
GAMBLING = {"id": "gambling", "name": "Gambling", "definition": "Bets for money."}
BANNED = {"stance": "forbid", "risk": "drugs"}
SPARRING = {"id": "sparring", "stance": "allow", "text": "sparring", "within": ["violence"]}


def findings(**fields):
    with pytest.raises(ConfigError) as caught:
        SafetyConfig(**{"name": "c", **fields})
    return [(finding.code, finding.where) for finding in caught.value.findings]


def parts(value):
    """A value and everything inside it."""
    yield value
    if isinstance(value, BaseModel):
        value = [getattr(value, name) for name in type(value).model_fields]
    if isinstance(value, tuple | list):
        for part in value:
            yield from parts(part)


# --- shape ---


def test_example_of_the_design():
    film = SafetyConfig(**FILM)

    assert ("heists", "fights", "drugs", "competitor-names") == tuple(rule.id for rule in film.rules)
    assert {"rule:heists", "rule:competitor-names", "guideline", "violence", *FLOOR} <= film.elements
    assert FILM["guideline"] == film.guideline
    assert FILM["rules"] == [
        {key: value for key, value in rule.items() if key in given}
        for rule, given in zip(film.model_dump(mode="json", exclude_unset=True)["rules"], FILM["rules"], strict=True)
    ]


@some_configs
@given(configs())
def test_nothing_inside_can_be_changed(config):
    kinds = {type(part) for part in parts(config)}

    assert kinds <= {str, int, bool, type(None), tuple, SafetyConfig, Rule, Term, Example, Refusal, Enforcement, Risk}


@pytest.mark.parametrize(
    ("whole", "name"),
    [
        (SafetyConfig(**FILM), "default"),
        (Rule(**BANNED), "stance"),
        (Term(phrase="x"), "phrase"),
        (Refusal(), "message"),
    ],
    ids=lambda part: type(part).__name__ if isinstance(part, BaseModel) else part,
)
def test_frozen(whole, name):
    with pytest.raises(ValidationError, match="frozen"):
        setattr(whole, name, "allow")


@some_configs
@given(configs())
def test_round_trips_are_equal(config):
    again = [
        SafetyConfig(**config.model_dump(mode="json")),
        SafetyConfig(**json.loads(config.model_dump_json())),
        SafetyConfig.model_validate_json(config.model_dump_json()),
        pickle.loads(pickle.dumps(config)),
        config.replace(),
    ]

    assert [config] * len(again) == again
    assert {(config.digest, hash(config))} == {(other.digest, hash(other)) for other in again}


def test_lists_and_dicts_become_tuples_and_models():
    made = SafetyConfig(
        name="c",
        rules=[{"id": "r", "stance": "forbid", "terms": ["Acme", {"pii": "email"}], "examples": [{"prompt": "p", "good": "g"}]}, SPARRING],
        risks=[GAMBLING],
        refusal={"message": "No."},
        enforcement={"attempts": 3},
    )  # fmt: skip

    assert made == SafetyConfig(
        name="c",
        rules=(
            Rule(
                id="r",
                stance="forbid",
                terms=(Term(phrase="Acme"), Term(pii="email")),
                examples=(Example(prompt="p", good="g"),),
            ),
            Rule(id="sparring", stance="allow", text="sparring", within=("violence",)),
        ),
        risks=(Risk(**GAMBLING),),
        refusal=Refusal(message="No."),
        enforcement=Enforcement(attempts=3),
    )


def test_lines_lose_their_breaks_and_prose_keeps_them():
    made = SafetyConfig(name="c", purpose=" to\n help\t ", guideline=" one\n\n\n two \n")

    assert ("to help", " one\n\n\n two \n") == (made.purpose, made.guideline)


def test_free_text():
    free = SafetyConfig.from_text("Be kind.")

    assert SafetyConfig(name="free-text", guideline="Be kind.", default="guideline") == free


@pytest.mark.parametrize(
    ("fields", "default"),
    [
        ({}, "forbid"),
        ({"guideline": "g"}, "guideline"),
        ({"guideline": "g", "default": None}, "guideline"),
        ({"guideline": "g", "rules": []}, "guideline"),
        ({"guideline": "g", "rules": [BANNED]}, "forbid"),
        ({"rules": [BANNED]}, "forbid"),
        ({"guideline": "g", "default": "allow"}, "allow"),
        ({"guideline": "g", "rules": [BANNED], "default": "guideline"}, "guideline"),
    ],
)
def test_default_that_is_not_given(fields, default):
    assert default == SafetyConfig(name="c", **fields).default


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"risk": "financial_crime"}, "financial_crime"),
        ({"risk": "drugs", "id": ""}, "drugs"),
        ({"risk": "drugs", "id": None}, "drugs"),
        ({"risk": "drugs", "id": "pills"}, "pills"),
        ({"id": "names", "text": "names"}, "names"),
    ],
)
def test_id_of_a_rule(fields, name):
    assert name == Rule(stance="forbid", **fields).id


def test_rule_by_id():
    film = SafetyConfig(**FILM)

    assert (film.rules[0], None) == (film.rule("heists"), film.rule("heist"))


@pytest.mark.parametrize(
    ("fields", "unconditional"),
    [
        ({"risk": "drugs"}, True),
        ({"risk": "drugs", "note": "all", "terms": ["crack"]}, True),
        ({"risk": "drugs", "text": "pills"}, False),
        ({"risk": "drugs", "unless": "in school"}, False),
        ({"id": "r", "text": "names"}, False),
        ({"id": "r", "terms": ["Acme"]}, False),
    ],
)
def test_unconditional_means_the_whole_risk(fields, unconditional):
    assert unconditional == Rule(stance="forbid", **fields).unconditional


# --- replace ---


def test_replace_validates_again():
    film = SafetyConfig(**FILM)

    assert film.rules == film.replace(version=4).rules
    assert 3 == film.version
    with pytest.raises(ConfigError, match="version"):
        film.replace(version=0)
    with pytest.raises(ConfigError, match="unknown key 'vers'"):
        film.replace(vers=4)
    with pytest.raises(FloorViolation):
        film.replace(rules=[{"stance": "allow", "risk": FLOOR[0]}])


def test_model_copy_is_no_way_around_validation():
    film = SafetyConfig(**FILM)
    old = film.digest

    assert old != film.model_copy(update={"default": "allow"}).digest
    with pytest.raises(ConfigError):
        film.model_copy(update={"default": "everything"})


def test_part_that_was_never_validated_is():
    smuggled = Rule(**BANNED).model_copy(update={"text": "<|im_end|>"})

    assert [("markup", "rules[0].text")] == findings(rules=[smuggled])


# --- digest ---

CHANGES = {
    "name": "other",
    "version": 4,
    "purpose": "p",
    "audience": "a",
    "guideline": "We are …",
    "rules": [],
    "default": "allow",
    "refusal": {"message": "No."},
    "enforcement": {"attempts": 3},
    "risks": [GAMBLING],
}
RULE_CHANGES = {
    "id": "other",
    "stance": "allow",
    "risk": "privacy",
    "text": "pills",
    "unless": "in school",
    "note": "n",
    "terms": ["crack"],
    "within": ["violence"],
    "examples": [{"prompt": "p", "good": "g"}],
    "undecided": "block",
    "delegable": True,
}
PART_CHANGES = [
    *[("refusal", Refusal, {"message": "No."}), ("refusal", Refusal, {"explain": True})],
    *[("enforcement", Enforcement, {name: value}) for name, value in {
        "input": "warn", "output": "redact", "attempts": 8, "stream": "whole", "on_error": "allow", "on_undecided": "allow", "media": "allow",
    }.items()],
]  # fmt: skip


def test_changes_cover_every_field():
    assert set(SafetyConfig.model_fields) == {*CHANGES, "cosa", "taxonomy"}
    assert set(Rule.model_fields) == set(RULE_CHANGES)
    for model in (Refusal, Enforcement):
        assert set(model.model_fields) == {key for _, kind, change in PART_CHANGES for key in change if kind is model}


@pytest.mark.parametrize("name", CHANGES)
def test_digest_changes_with_every_field(name):
    film = SafetyConfig(**FILM)

    assert film.digest != film.replace(**{name: CHANGES[name]}).digest


@pytest.mark.parametrize("name", RULE_CHANGES)
def test_digest_changes_with_every_field_of_a_rule(name):
    rule = {"id": "r", "stance": "forbid", "risk": "drugs", "text": "t"}
    if name == "within":
        rule = {**SPARRING, "within": ["weapons"]}
    elif name == "risk":
        rule = {**rule, "risk": "weapons"}
    before, after = (SafetyConfig(name="c", rules=[rule | change]) for change in ({}, {name: RULE_CHANGES[name]}))

    assert before.digest != after.digest


@pytest.mark.parametrize(("field", "model", "change"), PART_CHANGES, ids=str)
def test_digest_changes_with_every_field_of_a_part(field, model, change):
    assert SafetyConfig(name="c").digest != SafetyConfig(name="c", **{field: change}).digest


def test_digest_changes_with_schema_and_taxonomy(monkeypatch):
    digest = SafetyConfig(**FILM).digest
    reworded = builtin().model_dump()
    reworded["risks"][0]["definition"] += " And more."
    monkeypatch.setattr(module, "builtin", lambda _: Taxonomy(**reworded))

    assert digest != SafetyConfig(**FILM).digest

    monkeypatch.setattr(module, "builtin", lambda _: builtin())
    assert digest == SafetyConfig(**FILM).digest

    monkeypatch.setattr(module, "SCHEMA_VERSION", 2)
    assert digest != SafetyConfig(**FILM).digest


def test_digest_is_the_same_in_every_process():
    code = f"import cosa_sdk.config as c; print(c.SafetyConfig(**{FILM!r}).digest)"
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    ]  # fmt: skip
    digests = {process.communicate()[0].decode().strip() for process in running}

    assert {SafetyConfig(**FILM).digest} == digests


def test_canonical_json_is_sorted_tight_and_utf8():
    assert '{"a":"é","b":[1,true,null]}'.encode() == canonical_json({"b": [1, True, None], "a": "é"})


@pytest.mark.parametrize("version", [10**15, -1, 0, 1.5, "1", True])
def test_version_is_a_number_that_every_reader_keeps(version):
    assert ["version"] == [where for _, where in findings(version=version)]


# --- wording ---

MARKERS = {
    "chatml": ["<|im_start|>", "<|im_end|>", "<|endoftext|>"],
    "llama": ["<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>", "<<SYS>>", "<</SYS>>", "<s>", "</s>"],
    "mistral": ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]"],
    "gemma": ["<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>"],
    "deepseek": ["<｜User｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"],
    "others": ["<|channel|>", "<|user|>", "<think>", "</think>", "<unk>", "<pad>"],
    "fences": [f"[{slash}{name}]" for name in FENCES for slash in ("", "/")],
}  # fmt: skip
HIDDEN = {
    "bell": "\a", "nul": "\0", "carriage return": "\r", "escape": "\x1b", "next line": "\x85",
    "right-to-left override": "\u202e", "isolate": "\u2066", "right-to-left mark": "\u200f", "arabic mark": "\u061c",
    "zero-width space": "\u200b", "byte order mark": "\ufeff", "soft hyphen": "\u00ad", "line separator": "\u2028",
    "tag letter": "\U000e0041", "half a pair": "\ud800",
}  # fmt: skip
markers = pytest.mark.parametrize("marker", [marker for family in MARKERS.values() for marker in family])


@markers
@pytest.mark.parametrize("change", [str, str.lower, str.upper])
def test_chat_marker_is_found_where_it_stands(marker, change):
    text = f"Größe,\n{change(marker)} and {marker}"

    assert (7, f"the chat-template marker {change(marker)!r}") == fault_in(text)


@pytest.mark.parametrize("char", HIDDEN.values(), ids=HIDDEN)
def test_hidden_character_is_found_where_it_stands(char):
    position, what = fault_in(f"ab{char}<|im_end|>{char}")

    assert 2 == position
    assert f"U+{ord(char):04X}" in what
    assert ("bidirectional" in what) == (char in "\u202e\u2066\u200f\u061c")


def test_of_two_faults_the_first_is_named():
    assert (1, "the chat-template marker '<s>'") == fault_in("a<s>\u202e")
    assert (1, "the bidirectional control U+202E") == fault_in("a\u202e<s>")


@pytest.mark.parametrize(
    "text",
    [
        "", "Be kind.", "two\nlines\tand a tab", "a < b | c > d", "<b>bold</b> <> [x] [texts] [/texting]", "{floor} {0} %s", "👩‍🚀 नमस्‍ते ﷺ e\u0301",
        "INST", "| a | b |\n|---|---|", "http://x.y/?a=<b>&c=[d]", "s/<s/x/", "「｜」",
    ],
)  # fmt: skip
def test_ordinary_text_is_no_markup(text):
    assert fault_in(text) is None


@many
@given(
    st.text("ab [/<|>]\n", max_size=30), st.sampled_from([*HIDDEN.values(), "<s>", "[INST]", "<|x|>"]), st.text("ab é")
)
def test_first_fault_is_the_one_reported(before, fault, after):
    alone = fault_in(before)
    position, _ = fault_in(before + fault + after)

    assert position <= len(before)
    if alone is not None:
        assert alone[0] == position
    else:
        assert fault_in(before + fault + after)[0] >= 0
        assert fault_in((before + fault + after)[:position]) is None


@pytest.mark.parametrize(
    ("where", "fields"),
    [
        ("purpose", {"purpose": "x <|im_end|>"}),
        ("audience", {"audience": "x <|im_end|>"}),
        ("guideline", {"guideline": "x <|im_end|>"}),
        ("refusal.message", {"refusal": {"message": "x <|im_end|>"}}),
        ("risks[0].name", {"risks": [{**GAMBLING, "name": "x <|im_end|>"}]}),
        ("risks[0].definition", {"risks": [{**GAMBLING, "definition": "x <|im_end|>"}]}),
        *[(f"rules[0].{key}", {"rules": [{**BANNED, key: "x <|im_end|>"}]}) for key in ("text", "unless", "note")],
        ("rules[0].terms[0].phrase", {"rules": [{**BANNED, "terms": ["x <|im_end|>"]}]}),
        *[
            (f"rules[0].examples[0].{key}", {"rules": [{**BANNED, "examples": [{"prompt": "p", "good": "g", key: "x <|im_end|>"}]}]})
            for key in ("prompt", "good", "bad")
        ],
    ],
)  # fmt: skip
def test_no_text_of_a_config_holds_markup(where, fields):
    with pytest.raises(ConfigError) as caught:
        SafetyConfig(name="c", **fields)

    assert [("markup", where)] == [(finding.code, finding.where) for finding in caught.value.findings]
    assert "'<|im_end|>' at character 3 is not allowed" in str(caught.value)


def test_patterns_hide_nothing_but_may_look_like_fences():
    assert "[text]{4}" == Term(regex="[text]{4}").regex
    with pytest.raises(ConfigError, match=r"U\+202E at character 2"):
        Term(regex="a\u202eb")


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_empty_text_says_nothing(text):
    assert [("empty", "purpose"), ("empty", "guideline")] == findings(purpose=text, guideline=text)


@many
@given(
    st.text("abtex/[]() \nTEX")
    | st.lists(st.sampled_from(["[", "/", "]", "text", "TEXT", "guideline", "x"])).map("".join)
)
def test_neutralised_text_closes_no_section(text):
    safe = neutralised(text)

    assert [] == [name for name in FENCES for slash in ("", "/") if f"[{slash}{name}]" in safe.lower()]
    assert safe == neutralised(safe)
    assert len(text) == len(safe)


# --- coherence ---


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ([{"stance": "allow", "risk": "drugs"}, BANNED], "contradiction"),
        ([{**BANNED, "id": "a"}, {"stance": "allow", "risk": "drugs", "id": "b"}], "contradiction"),
        ([BANNED, BANNED], "duplicate-rule"),
        ([BANNED, {**BANNED, "id": "again"}], "duplicate-rule"),
    ],
)
def test_two_unconditional_rules_on_one_risk_contradict(rules, code):
    assert [(code, "rules[1]")] == findings(rules=rules)


def test_two_rules_with_one_id():
    limit = {"stance": "limit", "risk": "drugs", "text": "history"}

    assert [("duplicate-id", "rules[1].id")] == findings(rules=[limit, {**limit, "text": "medicine"}])
    assert [("duplicate-id", "rules[1].id")] == findings(rules=[BANNED, {**SPARRING, "id": "drugs"}])


def test_conditional_rule_narrows_without_contradiction():
    narrowed = [{"stance": "allow", "risk": "drugs"}, {**BANNED, "id": "dealing", "text": "dealing"}]

    assert 2 == len(SafetyConfig(name="c", rules=narrowed).rules)


@pytest.mark.parametrize("floor", [*FLOOR, "floor.anything"])
@pytest.mark.parametrize(
    ("where", "fields"),
    [
        ("rules[0].risk", lambda floor: {"rules": [{"id": "r", "stance": "allow", "risk": floor}]}),
        ("rules[0].risk", lambda floor: {"rules": [{"stance": "forbid", "risk": floor}]}),
        ("rules[0].risk", lambda floor: {"rules": [{"stance": "limit", "risk": floor, "text": "t"}]}),
        ("rules[0].within", lambda floor: {"rules": [{**SPARRING, "within": ["violence", floor]}]}),
        (
            "rules[0].id",
            lambda floor: {"rules": [{"id": floor, "stance": "forbid", "text": "t", "undecided": "allow"}]},
        ),
        ("risks[0].id", lambda floor: {"risks": [{**GAMBLING, "id": floor}]}),
    ],
    ids=["allow", "forbid", "limit", "within", "rule-id", "risk-id"],
)
def test_the_floor_is_not_for_configs_to_name(floor, where, fields):
    with pytest.raises(FloorViolation) as caught:
        SafetyConfig(name="c", **fields(floor))

    assert [("floor", where)] == [(finding.code, finding.where) for finding in caught.value.findings]


def test_floor_in_free_text_is_only_text():
    assert SafetyConfig.from_text("floor.minors is allowed.").guideline


@pytest.mark.parametrize("name", ["guideline", "config"])
def test_ids_by_which_decisions_name_other_things(name):
    assert [("reserved-id", "rules[0].id")] == findings(rules=[{"id": name, "stance": "forbid", "text": "t"}])


def test_own_risks():
    casino = SafetyConfig(name="c", risks=[GAMBLING], rules=[{"stance": "allow", "risk": "gambling"}])

    assert (*builtin().ids, "gambling") == casino.vocabulary.ids
    assert "Bets for money." == casino.vocabulary["gambling"].definition
    assert builtin().ids == SafetyConfig(name="c").vocabulary.ids


@pytest.mark.parametrize(
    ("risks", "expected"),
    [
        ([{**GAMBLING, "id": "violence"}], ("risk-id", "risks[0].id")),
        ([GAMBLING, GAMBLING], ("risk-id", "risks[1].id")),
        ([{**GAMBLING, "id": "guideline"}], ("reserved-id", "risks[0].id")),
        ([{**GAMBLING, "id": "Gambling"}], ("name", "risks[0].id")),
        ([{**GAMBLING, "id": "rule:x"}], ("name", "risks[0].id")),
    ],
    ids=["built-in", "twice", "reserved", "capital", "colon"],
)
def test_own_risk_has_an_id_of_its_own(risks, expected):
    assert [expected] == findings(risks=risks)


@pytest.mark.parametrize("rule", [{"stance": "allow", "risk": "other"}, {"stance": "limit", "risk": "other", "text": "t"}, {**SPARRING, "within": ["other"]}])  # fmt: skip
def test_other_can_only_be_forbidden(rule):
    assert ["other"] == [code for code, _ in findings(rules=[rule])]


def test_guideline_default_needs_a_guideline():
    assert [("default", "default")] == findings(default="guideline")
    assert [("default", "default")] == findings(default="guideline", rules=[BANNED])


@pytest.mark.parametrize("risk", ["", "_drugs", "Drugs", "drug", "x" * 70])
def test_unknown_risk_is_a_fault_of_the_risk(risk):
    expected = ("rule-id", "rules[0]") if not risk else ("unknown-risk", "rules[0].risk")

    assert [expected] == findings(rules=[{"stance": "forbid", "risk": risk}])


LEWD = {"stance": "forbid", "risk": "sexual"}
ARMS = {"stance": "forbid", "risk": "weapons"}


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({}, True),
        ({"rules": [{"stance": "allow", "risk": "violence"}]}, True),
        ({"rules": [{**SPARRING, "within": ["violence", "drugs"]}]}, True),
        ({"rules": [{"stance": "allow", "risk": "sexual"}]}, False),
        ({"rules": [{"stance": "limit", "risk": "weapons", "text": "t"}]}, False),
        ({"rules": [{"stance": "allow", "risk": "weapons", "unless": "u"}]}, False),
        ({"rules": [{**SPARRING, "within": ["violence", "sexual"]}]}, False),
        ({"rules": [LEWD, {"id": "kisses", "stance": "limit", "risk": "sexual", "text": "kisses"}]}, True),
        ({"default": "allow"}, False),
        ({"default": "allow", "rules": [LEWD]}, False),
        ({"default": "allow", "rules": [LEWD, ARMS]}, True),
        ({"default": "allow", "rules": [LEWD, {**ARMS, "text": "bombs"}]}, False),
        ({"guideline": "g"}, False),
    ],
)
def test_trail_is_only_for_configs_that_stay_away_from_the_floor(fields, fits):
    """Both ways: what may be trailed allows no risk beside the floor, whatever is found."""
    held = SafetyConfig(name="c", **fields)
    bordering = [
        decide(held, Evidence(found=frozenset({risk, *permits}), examined=held.elements)).outcome
        for risk in ("sexual", "weapons")
        for permits in ([], ["rule:sparring"])
    ]

    assert fits == ({"violates"} == set(bordering))
    if fits:
        assert "trail" == SafetyConfig(name="c", **fields, enforcement={"stream": "trail"}).enforcement.stream
    else:
        assert [("trail", "enforcement.stream")] == findings(**fields, enforcement={"stream": "trail"})


@pytest.mark.parametrize(
    ("fields", "where", "said"),
    [
        ({"purpose": "x" * 2001}, "purpose", "2001 characters, at most 2000"),
        ({"guideline": "x" * 20_001}, "guideline", "20001 characters, at most 20000"),
        ({"rules": [{**BANNED, "id": f"r{n}", "text": "t"} for n in range(201)]}, "rules", "201 items, at most 200"),
        ({"risks": [{**GAMBLING, "id": f"r{n}"} for n in range(51)]}, "risks", "51 items, at most 50"),
    ],
    ids=["line", "prose", "rules", "risks"],
)
def test_nothing_is_longer_than_it_may_be(fields, where, said):
    with pytest.raises(ConfigError) as caught:
        SafetyConfig(name="c", **fields)

    assert [("too-long", where, said)] == [(fault.code, fault.where, fault.message) for fault in caught.value.findings]


def test_every_fault_is_found_at_once():
    assert [("empty", "purpose"), ("choice", "rules[0].stance"), ("markup", "rules[1].text"), ("unknown-key", "tone")] == findings(
        purpose=" ", rules=[{"stance": "maybe", "risk": "drugs"}, {**BANNED, "text": "<s>"}], tone="x"
    )  # fmt: skip
