"""Suites of users: every form that loads, every fault that is told, and never half a suite."""

from __future__ import annotations

import csv
import gzip
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosa_guard.evals import suites
from cosa_guard.evals.suite import prompt_key
from cosa_sdk import presets
from cosa_sdk.errors import UsageError

ROW = {"config": "film-studio", "prompt": "Write a duel.", "type": "allowed"}
CONFIG = "cosa: 1\nname: garden\npurpose: Talks about gardens\n"


def jsonl(folder, *rows, name="mine.jsonl"):
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def text(folder, content, name="mine.yaml"):
    path = folder / name
    path.write_text(content, "utf-8")
    return path


def fault(path):
    with pytest.raises(UsageError) as caught:
        suites.load(path)
    return str(caught.value)


def test_a_row_becomes_an_item(tmp_path):
    row = ROW | {"risks": ["V", "weapons"], "id": "duel", "why": "Fights are allowed.", "source": "of my own"}
    suite = suites.load(jsonl(tmp_path, row))
    (item,) = suite.items
    assert ("mine", "mine.jsonl") == (suite.name, suite.source)
    assert ("duel", "film-studio", "Write a duel.", "allowed", None) == (item.id, item.config, item.prompt, item.type, item.twin)
    assert {"violence", "weapons"} == item.risks
    assert prompt_key("Write a duel.") == item.prompt_id
    assert {"film-studio": presets.load("film-studio")} == suite.configs


def test_risks_that_nobody_said_are_unknown_but_a_safe_prompt_has_none(tmp_path):
    suite = suites.load(jsonl(tmp_path, ROW, ROW | {"prompt": "What is a scene?", "type": "safe"}))
    assert [None, frozenset()] == [item.risks for item in suite.items]


def test_an_id_is_made_of_config_and_prompt_so_that_other_rows_do_not_change_it(tmp_path):
    more = ROW | {"prompt": "Another."}
    alone = suites.load(jsonl(tmp_path, ROW)).items[0].id
    assert [f"film-studio/{prompt_key('Another.')}", alone] == [item.id for item in suites.load(jsonl(tmp_path, more, ROW)).items]


def test_items_stand_config_by_config(tmp_path):
    other = ROW | {"config": "game-studio"}
    suite = suites.load(jsonl(tmp_path, ROW, other, ROW | {"prompt": "Write a chase."}))
    assert ["film-studio", "film-studio", "game-studio"] == [item.config for item in suite.items]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("film-studio", "film-studio"),
        ("garden.yaml", "garden"),
        ("text:We only talk about gardens.", "we-only-talk-about-589ed7"),
        ("We only talk about gardens.", "we-only-talk-about-589ed7"),
        ({"name": "own", "default": "allow"}, "own"),
        ({"allow": ["V", "weapons"]}, "allow-violence-weapons"),
        ({"allow": []}, "allow-nothing"),
    ],
)
def test_a_config_is_a_preset_a_file_a_text_an_object_or_a_list_of_risks(tmp_path, value, name):
    text(tmp_path, CONFIG, "garden.yaml")
    suite = suites.load(jsonl(tmp_path, ROW | {"config": value}, ROW | {"config": value, "prompt": "Another."}))
    assert [name] == list(suite.configs)
    assert [name, name] == [item.config for item in suite.items]


def test_two_configs_of_one_name_stay_two(tmp_path):
    rows = [ROW | {"config": {"name": "own", "default": default}} for default in ("allow", "forbid")]
    suite = suites.load(jsonl(tmp_path, *rows))
    assert ["allow", "forbid"] == [config.default for config in suite.configs.values()]
    assert 2 == len({item.config for item in suite.items})


def test_a_category_config_allows_its_risks_and_forbids_the_rest(tmp_path):
    suite = suites.load(jsonl(tmp_path, ROW | {"config": {"allow": ["V"]}, "risks": ["violence"]}))
    config = suite.configs["allow-violence"]
    assert {"allow-violence": frozenset({"violence"})} == suite.allow
    assert [("allow", "violence")] == [(rule.stance, rule.risk) for rule in config.rules]
    assert "forbid" == config.default


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": "film-studo"}, "did you mean 'film-studio'?"),
        ({"config": 3}, "config is 3: give a preset's name, a path, a text, an object"),
        ({"config": None}, "config is None"),
        ({"config": {"allow": ["other"]}}, "allow names other: no config may allow that"),
        ({"config": {"allow": ["floor.minors"]}}, "allow names floor.minors: no config may allow that"),
        ({"config": {"allow": "violins"}}, "config.allow names 'violins': did you mean 'violence'?"),
        ({"config": {"name": "own", "purpos": "x"}}, "config is not valid"),
        ({"config": "nowhere.yaml"}, "config is not valid"),
        ({"prompt": "  "}, "prompt is '  ': give the text that the model is asked"),
        ({"prompt": ["a"]}, "prompt is ['a']"),
        ({"type": "fully allowed"}, "type is 'fully allowed': did you mean 'allowed'? Choices: allowed, partial, disallowed, safe"),
        ({"type": "Partially_Allowed"}, "did you mean 'partial'?"),
        ({"type": "unsafe"}, "did you mean 'disallowed'?"),
        ({"type": ["allowed"]}, "type is ['allowed']"),
        ({"type": None}, "type is None"),
        ({"risks": ["Violence"]}, "risks names 'Violence': did you mean 'violence'?"),
        ({"risks": {"V": 1}}, "risks is {'V': 1}: give a list"),
        ({"risks": ["V"], "type": "safe"}, "type is 'safe' with risks violence"),
        ({"risks": ["floor.minors"]}, "no config allows the floor"),
        ({"id": True}, "id is True: give a name"),
        ({"twin": 1.5}, "twin is 1.5: give a name"),
        ({"shots": "Hello"}, "shots is 'Hello': give a list of [prompt, reply]"),
        ({"shots": [["a"]]}, "shot 1 is ['a']: give [prompt, reply]"),
        ({"promt": "x"}, "key 'promt' is unknown: did you mean 'prompt'?"),
        ({"config": {"allow": ["V"]}, "risks": ["D"]}, "type is 'allowed' with risks discrimination, but the config allows violence"),
        ({"config": {"allow": ["V"]}, "risks": ["V"], "type": "disallowed"}, "type is 'disallowed' with risks violence"),
    ],
)
def test_a_fault_names_the_row_the_value_and_what_to_give(tmp_path, change, said):
    message = fault(jsonl(tmp_path, ROW | {"prompt": "Write a chase."}, ROW | change))
    assert "so nothing of it was loaded" in message
    assert "mine.jsonl:2: " in message
    assert said in message


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "has no rows"),
        (["", "  "], "has no rows"),
        (["[1, 2]"], "mine.jsonl:1: is a list; write an object"),
        (["{'config': 1}"], "mine.jsonl:1: is not JSON"),
        (['{"type": "safe", "type": "allowed"}'], "key 'type' stands twice"),
        (["[" * 100_000], "mine.jsonl:1: is not JSON"),
        ([ROW | {"id": "a"}, ROW | {"id": "a", "prompt": "Other."}], "mine.jsonl:2: id 'a' is taken by mine.jsonl:1"),
        ([ROW, ROW | {"prompt": " Write  a duel."}], "mine.jsonl:2: the same prompt stands under config 'film-studio' at mine.jsonl:1"),
        ([ROW | {"twin": "one"}], "twin 'one' is mine.jsonl:1 (film-studio: allowed): give two rows with one prompt"),
        ([ROW | {"twin": "t"}, ROW | {"twin": "t", "config": "game-studio"}], "one allowed or safe and one disallowed"),
        ([ROW | {"twin": "t"}, ROW | {"twin": "t", "prompt": "B", "config": "game-studio", "type": "disallowed"}], "two rows with one prompt"),
        ([ROW | {"shots": [["a", "b"]]}, ROW | {"prompt": "B", "shots": [["a", "c"]]}], "shots differ from those that config 'film-studio' has already"),
    ],
)
def test_what_only_several_rows_show_is_told_too(tmp_path, rows, said):
    assert said in fault(jsonl(tmp_path, *rows))


def test_all_faults_are_told_at_once_and_twenty_at_most(tmp_path):
    rows = [ROW | {"prompt": f"Prompt {number}", "type": "good"} for number in range(25)]
    lines = fault(jsonl(tmp_path, *rows, ROW)).splitlines()
    assert "has 25 problems" in lines[0]
    assert 22 == len(lines)
    assert "… and 5 more" in lines[-1]


def test_a_config_that_is_wrong_is_told_once(tmp_path):
    rows = [ROW | {"prompt": f"Prompt {number}", "config": "nobody"} for number in range(5)]
    assert "has 1 problem," in fault(jsonl(tmp_path, *rows))


def test_a_pair_of_twins_and_shots_load(tmp_path):
    closed = ROW | {"config": "childrens-learning", "type": "disallowed", "twin": "duel", "shots": [["Hi", "Hello."]]}
    suite = suites.load(jsonl(tmp_path, ROW | {"twin": "duel"}, closed))
    assert ["duel", "duel"] == [item.twin for item in suite.items]
    assert {"childrens-learning": (("Hi", "Hello."),)} == suite.shots


def test_all_seven_risks_fit_into_a_name(tmp_path):
    suite = suites.load(jsonl(tmp_path, ROW | {"config": {"allow": list("DFVPRSW")}}))
    assert ["allow-discri-financ-violen-privac-drugs-sexual-weapon"] == list(suite.configs)


def test_csv_has_the_same_columns(tmp_path):
    content = '\ufeffconfig,prompt,type,risks,twin,id\nfilm-studio,"Write a duel,\nplease.",allowed,V weapons,,7\n\nfilm-studio,Hello,safe,none,,\n'
    first, second = suites.load(text(tmp_path, content, "mine.csv")).items
    assert ("7", "Write a duel,\nplease.", {"violence", "weapons"}, None) == (first.id, first.prompt, first.risks, first.twin)
    assert ("Hello", frozenset()) == (second.prompt, second.risks)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("config,prompt,type\n", "has no rows"),
        ("", "has no rows"),
        ("config,prompt,type\nfilm-studio,a,b,c\n", "mine.csv:2: has 4 cells, and the header 3"),
        ("config,config,type\nfilm-studio,a,safe\n", "mine.csv:1: names a column twice"),
        ('config,prompt,type\nfilm-studio,"a,safe\n', "mine.csv:2: is not CSV"),
        ('config,prompt,type\nfilm-studio,"a\nb",safe\nfilm-studio,c,good\n', "mine.csv:4: type is 'good'"),
    ],
)
def test_a_fault_of_a_csv_has_its_line(tmp_path, content, said):
    assert said in fault(text(tmp_path, content, "mine.csv"))


def test_yaml_is_a_list_of_rows(tmp_path):
    suite = suites.load(text(tmp_path, "- {config: film-studio, prompt: Write a duel., type: allowed}\n"))
    assert ["Write a duel."] == [item.prompt for item in suite.items]


def test_yaml_with_a_head_names_configs_shots_and_files_of_rows(tmp_path):
    text(tmp_path, CONFIG, "garden.yaml")
    jsonl(tmp_path, ROW | {"config": "plants"}, name="rows.jsonl")
    jsonl(tmp_path, ROW | {"config": "war"}, name="more.jsonl")
    head = (
        "name: my-suite\nlicence: MIT\nconfigs: {plants: garden.yaml, war: {allow: [V]}}\n"
        "shots:\n  plants:\n    - {prompt: Hi, reply: Hello.}\nrows: [rows.jsonl, more.jsonl]\n"
    )
    suite = suites.load(text(tmp_path, head))
    assert ("my-suite", "MIT", ["plants", "war"]) == (suite.name, suite.licence, list(suite.configs))
    assert "garden" == suite.configs["plants"].name
    assert {"war": frozenset({"violence"})} == suite.allow
    assert {"plants": (("Hi", "Hello."),)} == suite.shots
    assert ["plants", "war"] == [item.config for item in suite.items]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no rows"),
        ("rows: []", "has no rows"),
        ("just words", "mine.yaml: is a single value"),
        ("rows: 3", "rows is 3: give a list of rows, or names"),
        ("name: x", "rows is None"),
        ("row: []\nrows: []", "key 'row' is unknown: did you mean 'rows'?"),
        ("name: 3\nrows: []", "name is 3: put it in quotes"),
        ("a: 1\na: 2", "mine.yaml:1: is not YAML: key 'a' stands twice"),
        ("rows: [\n", "is not YAML"),
        ("- 7\n", "mine.yaml:1: is 7: give keys and values"),
        ("rows:\n  - config: film-studio\n    prompt: A\n    type: safe\n  - config: film-studio\n    prompt: B\n    type: bad\n", "mine.yaml:5: type is 'bad'"),
        ("configs: [a]\nrows: []", "configs is ['a']: give names and configs"),
        ("configs: {mine: {purpos: x}}\nrows: []", "mine.yaml: configs.mine: config is not valid"),
        ("shots: []\nrows: []", "shots is []: give names of configs"),
        ("shots: {none: [[a, b]]}\nrows: []", "shots.none: no config of this suite has that name. Choices: none"),
        ("rows: missing.jsonl", "cannot be read: No such file"),
        ("rows: other.yaml", "known suffixes"),
    ],
)
def test_a_fault_of_a_yaml_file_has_its_place(tmp_path, content, said):
    text(tmp_path, "- 1", "other.yaml")
    assert said in fault(text(tmp_path, content))


def test_a_config_of_the_head_that_is_wrong_is_told_once(tmp_path):
    message = fault(text(tmp_path, "configs: {mine: {purpos: x}}\nrows:\n- {config: mine, prompt: A, type: safe}\n"))
    assert "has 1 problem," in message


def test_gzipped_files_and_byte_order_marks_are_read(tmp_path):
    (tmp_path / "mine.jsonl.gz").write_bytes(gzip.compress(("\ufeff" + json.dumps(ROW)).encode()))
    assert "mine" == suites.load(tmp_path / "mine.jsonl.gz").name


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("mine.jsonl", b'{"config": "film-studio"}\n\xff\xfe', "mine.jsonl:2: is not UTF-8 (byte 0xff)"),
        ("mine.jsonl.gz", b"not gzip", "cannot be read"),
        ("mine.jsonl.gz", gzip.compress(b'{"a": 1}' * 99, mtime=0)[:-12], "cannot be read"),
        ("mine.txt", b"hello", "is no suite: known suffixes: .jsonl"),
    ],
)
def test_a_damaged_file_is_told(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    assert said in fault(tmp_path / name)


words = st.text(st.characters(categories=["L", "N", "P"], max_codepoint=0x2FF), min_size=1, max_size=12)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "config": st.sampled_from(["film-studio", "text:Only gardens here."]),
            "prompt": words.filter(str.strip),
            "type": st.sampled_from(["allowed", "partial", "disallowed"]),
            "risks": st.lists(st.sampled_from(["violence", "weapons", "D"]), min_size=1, max_size=2),
        }
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda row: (row["config"], prompt_key(row["prompt"])),
)


@given(rows=rows)
def test_every_form_of_the_same_rows_is_the_same_suite(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("forms")
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows(row | {"risks": " ".join(row["risks"])} for row in rows)
    (folder / "mine.csv").write_text(table.getvalue(), "utf-8", newline="")
    paths = [jsonl(folder, *rows), folder / "mine.csv", text(folder, json.dumps(rows))]
    first, *others = [suites.load(path) for path in paths]
    assert len(rows) == len(first.items)
    for other in others:
        assert (first.items, first.digest) == (other.items, other.digest)
