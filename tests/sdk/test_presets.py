"""The shipped presets: valid, short, usable without a judge that reads text, and written with care."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from cosa_sdk import files, presets
from cosa_sdk.compile import compile  # noqa: A004  # the name that users read
from cosa_sdk.config import SafetyConfig
from cosa_sdk.decide import uncovered
from cosa_sdk.errors import UnknownName
from cosa_sdk.taxonomy import FLOOR

NAMES = (
    "childrens-learning",
    "clinic-intake",
    "customer-service",
    "film-studio",
    "game-studio",
    "language-learning",
    "legal-research",
    "security-education",
)
each = pytest.mark.parametrize("name", NAMES)


def source(name):
    return resources.files(presets).joinpath(f"{name}.yaml").read_text("utf-8")


def texts(value):
    """Every string inside plain data."""
    if isinstance(value, dict | list):
        return [text for part in (value.values() if isinstance(value, dict) else value) for text in texts(part)]
    return [value] if isinstance(value, str) else []


def test_names():
    assert NAMES == presets.names()


@each
def test_preset_is_complete(name):
    config = presets.load(name)

    assert (name, 1) == (config.name, config.version)
    assert config.purpose
    assert config.audience
    assert 4 <= len(config.rules) <= 8
    assert {"limit", "forbid"} <= {rule.stance for rule in config.rules}
    assert 2 <= sum(len(rule.examples) for rule in config.rules)
    assert config.refusal.message != SafetyConfig(name="c").refusal.message
    assert "enforcement:" in source(name) or config.enforcement == SafetyConfig(name="c").enforcement


@each
def test_file_is_short_and_states_its_schema(name):
    text = source(name)

    assert text.count("\n") <= 70
    assert "\ncosa: 1\n" in text
    assert text.startswith("# ")


@each
def test_prompt_is_short(name):
    words = len(compile(presets.load(name)).text.split())

    assert words <= 375


@each
def test_guideline_has_at_most_three_sentences(name):
    guideline = presets.load(name).guideline or ""

    assert len(re.findall(r"[.!?](?:\s|$)", guideline)) <= 3


@each
def test_category_and_term_judges_suffice(name):
    config = presets.load(name)
    terms = {rule.element for rule in config.rules if rule.terms and not rule.text}

    assert () == uncovered(config, frozenset({*config.vocabulary.ids, *FLOOR, *terms}))


@each
def test_undecided_allow_says_why(name):
    lines = source(name).splitlines()
    lenient = [at for at, line in enumerate(lines) if line.strip() == "undecided: allow"]

    assert [] == [
        at + 1 for at in lenient if not lines[at - 1].strip().startswith("# Low ") and "# " not in lines[at - 2]
    ]


@each
def test_high_severity_risks_are_open_only_within_judged_limits(name):
    config = presets.load(name)
    high = {risk.id for risk in config.vocabulary.risks if risk.severity == "high"}
    opened = [rule for rule in config.rules if rule.stance != "forbid" and rule.risk in high]

    assert [] == [rule.id for rule in opened if rule.unconditional or rule.undecided == "allow"]


@each
def test_refusal_does_not_leak_the_policy(name):
    config = presets.load(name)
    said = config.refusal.message.lower()
    leaks = {"policy", "rule", "forbidden", "not allowed", "config", *(rule.risk for rule in config.rules if rule.risk)}

    assert [] == [word for word in leaks - {"other"} if word.replace("_", " ") in said]


@each
def test_the_floor_is_never_named(name):
    said = " ".join(texts(presets.load(name).model_dump(mode="json"))).lower()

    assert [] == [word for word in ("floor", "minor", "mass-casualty", "underage") if word in said]


@each
def test_round_trip(name):
    config = presets.load(name)

    assert config == files.loads(files.dump(config, format="toml"), format="toml")


def test_what_a_customer_would_expect_is_enforced():
    expected = {
        "customer-service": ("warn", "redact", "hold"),
        "film-studio": ("refuse", "regenerate", "hold"),
        "childrens-learning": ("refuse", "regenerate", "whole"),
    }

    assert expected == {
        name: (chosen.input, chosen.output, chosen.stream)
        for name in expected
        for chosen in [presets.load(name).enforcement]
    }


def test_loaded_once():
    assert presets.load("film-studio") is presets.load("film-studio")


def test_description_is_one_line():
    assert (
        "Script and story assistant of a film production company, for professional screenwriters and producers, all adults"
    ) == presets.describe("film-studio")


@pytest.mark.parametrize("call", [presets.load, presets.describe])
def test_unknown_preset_names_the_nearest(call):
    with pytest.raises(UnknownName, match="unknown preset 'film-studios': did you mean 'film-studio'"):
        call("film-studios")


@pytest.mark.parametrize("name", ["../film-studio", "", "film-studio.yaml", "__init__"])
def test_a_preset_is_a_name_not_a_path(name):
    with pytest.raises(UnknownName, match="unknown preset"):
        presets.load(name)
