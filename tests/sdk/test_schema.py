"""The shipped JSON Schema: current, and right about what is a config."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from tests.sdk.strategies import configs

from cosa_sdk import files, presets, schema

# The example of the design, whole: every key that a config may have at its outer levels.
EXAMPLE = r"""
cosa: 1
name: film-studio
version: 3
purpose: Script assistant for a film production company
audience: professional writers, adults
guideline: |
  We are a film production company …
rules:
  - id: heists
    stance: limit
    risk: financial_crime
    text: planning and execution of financial crimes that drive the story
    unless: shown as glamorous, or as usable real-world instructions
    undecided: allow
  - id: fights
    stance: allow
    risk: violence
    note: stage fights, war scenes
  - id: drugs
    stance: forbid
    risk: drugs
  - id: competitor-names
    stance: forbid
    text: names of competing studios
    terms: [{phrase: "Acme Pictures"}, {regex: "\\bMegaFilm\\w*"}]
    examples: [{prompt: …, good: …, bad: …}]
default: forbid
refusal: {message: "This assistant can't help with that.", explain: true}
enforcement:
  input: refuse
  output: regenerate
  attempts: 2
  stream: hold
  on_error: block
  on_undecided: block
  media: refuse
"""


def shipped():
    return json.loads(resources.files(schema).joinpath(schema.FILE).read_text("utf-8"))


def validator():
    return jsonschema.Draft202012Validator(shipped())


def faults(value):
    return [error.message for error in validator().iter_errors(value)]


def test_shipped_file_is_current():
    assert json.loads(schema.generate()) == shipped(), (
        "run: python -m cosa_sdk.schema > src/cosa_sdk/schema/" + schema.FILE
    )


def test_command_prints_the_schema():
    done = subprocess.run([sys.executable, "-m", "cosa_sdk.schema"], check=True, capture_output=True)

    assert schema.generate() == done.stdout.decode("utf-8")


def test_schema_is_itself_valid():
    jsonschema.Draft202012Validator.check_schema(shipped())

    assert "https://json-schema.org/draft/2020-12/schema" == shipped()["$schema"]
    assert "urn:cosa:schema:safety-config:1" == shipped()["$id"]
    assert "Cosa safety config" == shipped()["title"]


def test_descriptions_are_the_attribute_docstrings():
    rule = shipped()["$defs"]["Rule"]["properties"]

    assert "Explains the rule to the model; never a condition." == rule["note"]["description"]


@pytest.mark.parametrize("name", presets.names())
def test_presets_are_valid(name):
    text = resources.files(presets).joinpath(f"{name}.yaml").read_text("utf-8")

    assert [] == faults(yaml.safe_load(text))


def test_the_example_of_the_design_is_valid():
    assert [] == faults(yaml.safe_load(EXAMPLE))
    assert "film-studio" == files.loads(EXAMPLE, format="yaml").name


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(config=configs())
def test_dumped_configs_are_valid(config):
    assert [] == faults(json.loads(files.dump(config, format="json")))


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"name": "A B"},
        {"name": "c", "rule": []},
        {"name": "c", "rules": [{"stance": "forbidd", "risk": "drugs"}]},
        {"name": "c", "enforcement": {"attempts": 9}},
        {"name": "c", "rules": [{"id": "r", "stance": "forbid", "terms": [{"pii": "height"}]}]},
    ],
    ids=["list", "no-name", "name", "unknown-key", "stance", "attempts", "pii"],
)
def test_mistakes_are_found(value):
    assert faults(value)
