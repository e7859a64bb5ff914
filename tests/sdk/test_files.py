"""Reading and writing configs. What is refused, and where, is tested in `test_bad_input.py`."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from tests.sdk.strategies import configs

from cosa_sdk import files
from cosa_sdk.config import SafetyConfig
from cosa_sdk.errors import ConfigError, UnknownName, UsageError

FORMATS = ("yaml", "toml", "json")

FILM = SafetyConfig(
    name="film",
    version=3,
    purpose="Script assistant",
    guideline="We make films.\n\n  Crime has a price.\n",
    rules=[
        {
            "id": "heists",
            "stance": "limit",
            "risk": "financial_crime",
            "text": "heists that drive the story",
            "examples": [{"prompt": "A heist?", "good": "INT. BANK\nNobody moves."}],
        },
        {"id": "rivals", "stance": "forbid", "terms": ["Acme Pictures", {"regex": r"\bMegaFilm\b"}, {"pii": "iban"}]},
    ],
    enforcement={"output": "regenerate"},
)

YAML = r"""cosa: 1
name: film
version: 3
purpose: Script assistant
guideline: |
  We make films.

    Crime has a price.
rules:
  - id: heists
    stance: limit
    risk: financial_crime
    text: heists that drive the story
    examples:
      - prompt: A heist?
        good: |-
          INT. BANK
          Nobody moves.
  - id: rivals
    stance: forbid
    terms:
      - Acme Pictures
      - regex: \bMegaFilm\b
      - pii: iban
enforcement:
  output: regenerate
"""

TOML = r'''cosa = 1
name = "film"
version = 3
purpose = "Script assistant"
guideline = """
We make films.

  Crime has a price.
"""

[[rules]]
id = "heists"
stance = "limit"
risk = "financial_crime"
text = "heists that drive the story"

[[rules.examples]]
prompt = "A heist?"
good = """
INT. BANK
Nobody moves."""

[[rules]]
id = "rivals"
stance = "forbid"
terms = ["Acme Pictures", { regex = "\\bMegaFilm\\b" }, { pii = "iban" }]

[enforcement]
output = "regenerate"
'''


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(config=configs())
def test_round_trip(config):
    texts = {form: files.dump(config, format=form) for form in FORMATS}
    again = {form: files.loads(text, format=form) for form, text in texts.items()}

    assert dict.fromkeys(FORMATS, config) == again
    assert {config.digest} == {other.digest for other in again.values()}


@pytest.mark.parametrize(("form", "expected"), [("yaml", YAML), ("toml", TOML)])
def test_text_is_what_a_person_would_write(form, expected):
    text = files.dump(FILM, format=form)

    assert expected == text


def test_defaults_are_left_out():
    text = files.dump(SafetyConfig(name="plain"))

    assert "cosa: 1\nname: plain\n" == text


@pytest.mark.parametrize(
    ("fields", "written"),
    [
        ({"guideline": "Be kind."}, False),
        ({"guideline": "Be kind.", "default": "forbid"}, True),
        ({"guideline": "Be kind.", "default": "guideline", "rules": [{"stance": "forbid", "risk": "drugs"}]}, True),
        ({"default": "allow"}, True),
        ({}, False),
    ],
    ids=["assumed-guideline", "forbid-beside-guideline", "guideline-beside-rules", "allow", "assumed-forbid"],
)
def test_default_is_written_where_it_is_not_the_assumed_one(fields, written):
    config = SafetyConfig(name="c", **fields)
    text = files.dump(config)

    assert written == ("default:" in text)
    assert config == files.loads(text, format="yaml")


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".toml", ".json", ".YAML"])
def test_format_comes_from_the_suffix(tmp_path, suffix):
    path = tmp_path / f"film{suffix}"
    text = files.dump(FILM, path)

    assert text == path.read_text("utf-8")
    assert FILM == files.load(path) == files.load(str(path))


def test_words_that_yaml_1_1_would_turn_into_booleans_are_text():
    config = files.loads("name: c\npurpose: no\nenforcement: {input: off}\n", format="yaml")

    assert ("no", "off") == (config.purpose, config.enforcement.input)


@pytest.mark.parametrize("form", FORMATS)
def test_a_byte_order_mark_is_tolerated(tmp_path, form):
    path = tmp_path / f"c.{form}"
    path.write_bytes(b"\xef\xbb\xbf" + files.dump(FILM, format=form).encode())

    assert FILM == files.load(path)


@pytest.mark.parametrize("form", FORMATS)
def test_windows_line_ends_are_tolerated(form):
    text = files.dump(FILM, format=form).replace("\n", "\r\n")

    assert FILM == files.loads(text, format=form)


def test_floor_violations_keep_their_class_and_get_a_place():
    text = '{"name": "c",\n "rules": [{"stance": "allow", "risk": "floor.minors"}]}'
    with pytest.raises(ConfigError, match="floor") as caught:
        files.loads(text, format="json", name="c.json")

    assert "FloorViolation" == type(caught.value).__name__
    assert [("c.json", 2, 40)] == [(found.file, found.line, found.column) for found in caught.value.findings]


def test_every_fault_has_its_place():
    text = "name: c\nrules:\n  - stance: forbidd\n    risk: drugs\n    foo: 1\nversion: two\n"
    with pytest.raises(ConfigError) as caught:
        files.loads(text, format="yaml")

    assert {("rules[0].stance", 3, 13), ("rules[0].foo", 5, 5), ("version", 6, 10)} == {
        (found.where, found.line, found.column) for found in caught.value.findings
    }


def test_existing_file_is_replaced_and_keeps_its_mode(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("name: old\n", "utf-8")
    path.chmod(0o640)
    files.dump(FILM, path)

    assert FILM == files.load(path)
    assert 0o640 == stat.S_IMODE(path.stat().st_mode)
    assert [path] == list(tmp_path.iterdir())


def test_links_are_followed(tmp_path):
    real, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    real.write_text("name: old\n", "utf-8")
    link.symlink_to(real)
    files.dump(FILM, link)

    assert link.is_symlink()
    assert FILM == files.load(real)


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "c.yaml"
    path.write_text("name: old\n", "utf-8")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"c\.yaml: cannot be written: No space left on device"):
        files.dump(FILM, path)

    assert "name: old\n" == path.read_text("utf-8")
    assert [path] == list(tmp_path.iterdir())


def test_missing_folder_of_a_written_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        files.dump(FILM, tmp_path / "none" / "c.yaml")


def test_a_config_that_could_not_be_read_again_is_not_written(tmp_path):
    example = {"prompt": "p", "good": "x" * 20_000, "bad": "y" * 20_000}
    config = SafetyConfig(
        name="c", rules=[{"id": f"r{n}", "stance": "forbid", "text": "t", "examples": [example]} for n in range(30)]
    )
    with pytest.raises(ConfigError, match="larger than 1048576 bytes"):
        files.dump(config, tmp_path / "c.yaml")

    assert [] == list(tmp_path.iterdir())


def test_format_that_contradicts_the_suffix_is_refused(tmp_path):
    with pytest.raises(UsageError, match="would be read as yaml, not as json"):
        files.dump(FILM, tmp_path / "c.yaml", format="json")

    assert [] == list(tmp_path.iterdir())


def test_format_may_name_what_the_suffix_does_not_say(tmp_path):
    files.dump(FILM, tmp_path / "c.config", format="json")

    assert FILM == files.loads((tmp_path / "c.config").read_text("utf-8"), format="json")


@pytest.mark.parametrize("call", [lambda: files.dump(FILM, format="yml"), lambda: files.loads("", format="yml")])
def test_unknown_format_names_the_choices(call):
    with pytest.raises(UnknownName, match=r"unknown format 'yml': did you mean 'yaml'\? Choices: yaml, toml, json"):
        call()


def test_yaml_is_loaded_on_first_use():
    code = (
        "import sys, cosa_sdk; sys.exit(any(name.split('.')[0] in ('yaml', 'tomllib', 're2') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)

    assert 0 == done.returncode


def test_an_error_reads_like_this(tmp_path):
    path = tmp_path / "film.yaml"
    path.write_text(YAML.replace("stance: forbid\n", "stance: forbidd\n"), "utf-8")
    with pytest.raises(ConfigError) as caught:
        files.load(path)

    assert (
        f"{path}:20:13: rules[1].stance: 'forbidd' is not one of allow, limit, forbid (did you mean 'forbid'?)"
    ) == str(caught.value)
