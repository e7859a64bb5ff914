"""CoSApien and CoSAlign-Test, from local files with the columns of the published sets. The rows here are made up."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter

import pytest

from cosa_guard.evals import suites
from cosa_guard.evals.suites import cosalign_test, cosapien
from cosa_sdk.errors import MissingExtra, UsageError

SCENARIOS = {
    "game_development": "We make board games. Battles of toy soldiers are fine. Jokes about groups are not.",
    "film_production": "We make films about the sea. Storms are fine. Pirates are not.",
}
TYPES = ("allowed", "disallowed", "partial", "safe")
SPLITS = {
    "safe": "allow-nothing",
    "Violence": "allow-violence",
    "Financial_Crime_and_Theft.Privacy_Violations": "allow-financial-crime-privacy",
    "Discrimination_and_Verbal_Abuse.Violence": "allow-discrimination-violence",
    "Financial_Crime_and_Theft.Discrimination_and_Verbal_Abuse.Violence": "allow-discrimination-financial-crime-violence",
    "Illegal_Drug.Related_Activities_and_Substance_Abuse": "allow-drugs",
    "Sexual_Misconduct_Exploitation_and_Infidelity": "allow-sexual",
    "Violence.Weapons_Explosives_Arson_and_Illegal_Firearm_Transactions": "allow-violence-weapons",
}
"""Split names of the published set, and what they allow."""


def pien_rows(name):
    return [
        {"prompt": f"Prompt {number} about {name}", "scenario": SCENARIOS[name], "type": TYPES[number % 4]}
        for number in range(8)
    ]


def align_rows():
    modes = [("safe", 1), ("exact", 1), ("subset", 1), ("not subset", 2), ("not subset", 3)]
    return [
        {"prompt": f"Prompt {number}", "mode": mode, "situation": f"situation_{situation}"}
        for number, (mode, situation) in enumerate(modes)
    ]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def pien_folder(folder, suffix=".csv"):
    for name in SCENARIOS:
        write(folder / f"{name}{suffix}", pien_rows(name))
    return folder


def align_folder(folder, suffix=".csv"):
    for split in SPLITS:
        write(folder / f"{split}{suffix}", align_rows() if split != "safe" else align_rows()[::4])
    return folder


def fault(load, *args, **options):
    with pytest.raises(UsageError) as caught:
        load(*args, **options)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_cosapien_is_a_folder_with_a_file_for_each_split(tmp_path, suffix):
    suite = suites.load(f"cosapien:{pien_folder(tmp_path, suffix)}")
    assert ("cosapien", "CDLA-Permissive-2.0") == (suite.name, suite.licence)
    assert {"film_production", "game_development"} == set(suite.configs)
    for name, scenario in SCENARIOS.items():
        config = suite.configs[name]
        assert (scenario, "guideline") == (config.guideline, config.default)
        kinds = Counter(item.type for item in suite.items if item.config == name)
        assert dict.fromkeys(TYPES, 2) == kinds
    assert all((item.type == "safe") == (item.risks == frozenset()) for item in suite.items)


@pytest.mark.parametrize(("column", "names"), [("split", set(SCENARIOS)), (None, None)])
def test_cosapien_is_one_file_split_by_a_column_or_by_its_texts(tmp_path, column, names):
    rows = [row | ({column: name} if column else {}) for name in SCENARIOS for row in pien_rows(name)]
    suite = suites.load(f"cosapien:{write(tmp_path / 'all.jsonl', rows)}")
    if names is None:
        assert ["we-make-board-games", "we-make-films-about"] == [name.rpartition("-")[0] for name in suite.configs]
    else:
        assert names == set(suite.configs)
    assert 16 == len(suite.items)


def test_types_as_the_card_spells_them_are_read(tmp_path):
    kinds = ["Fully allowed", "fully_disallowed", "partially allowed", "Safe"]
    rows = [row | {"type": kind} for row, kind in zip(pien_rows("film_production"), kinds, strict=False)]
    suite = cosapien.load(write(tmp_path / "film_production.csv", rows))
    assert list(TYPES) == [item.type for item in suite.items]


def test_a_row_that_stands_twice_is_taken_once(tmp_path):
    rows = pien_rows("film_production")
    suite = cosapien.load(write(tmp_path / "film_production.csv", [*rows, rows[0]]))
    assert 8 == len(suite.items)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": "maybe"}, "type is 'maybe': Choices: allowed"),
        ({"scenario": "Another text."}, "scenario differs from that of earlier rows"),
        ({"scenario": ""}, "scenario is None"),
        ({"prompt": "Prompt 0 about film_production"}, "type is 'disallowed', but the same prompt stood there as 'allowed'"),
    ],
)
def test_faults_of_cosapien_are_told_with_their_rows(tmp_path, change, said):
    rows = pien_rows("film_production")
    rows[1] |= change
    write(pien_folder(tmp_path) / "film_production.csv", rows)
    assert f"film_production.csv:3: {said}" in fault(cosapien.load, tmp_path)


@pytest.mark.parametrize(("loader", "name"), [(cosapien.load, "cosapien"), (cosalign_test.load, "cosalign-test")])
def test_a_place_without_rows_is_no_suite(tmp_path, loader, name):
    assert "has no table" in fault(loader, tmp_path)
    (tmp_path / "safe.jsonl").write_text("", "utf-8")
    assert "has no rows" in fault(loader, tmp_path)
    (tmp_path / "README.md").write_text("about", "utf-8")
    assert "is no table" in fault(loader, tmp_path / "README.md")
    assert "has no table" in fault(suites.load, f"{name}:{tmp_path / 'missing.csv'}")


@pytest.mark.parametrize("by", ["name", "text"])
def test_turns_are_given_by_the_config_s_name_or_its_text(tmp_path, by):
    turns = [
        {"scenario": name if by == "name" else text, "position": 1, "prompt": f"{name}?", "response": f"{name}!"}
        for name, text in SCENARIOS.items()
    ]
    (tmp_path / "turns.json").write_text(json.dumps(turns), "utf-8")
    folder = pien_folder(tmp_path / "sets")
    expected = {name: ((f"{name}?", f"{name}!"),) for name in SCENARIOS}
    assert expected == suites.load(f"cosapien:{folder}", shots=tmp_path / "turns.json").shots
    assert expected == suites.load(f"cosapien:{folder},shots={tmp_path / 'turns.json'}").shots


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[3]", "cannot be read"),
        ('[{"scenario": "film_production", "prompt": "Hi"}]', "cannot be read"),
        ('[{"scenario": "film_production", "prompt": "Hi", "response": 3}]', "give two texts"),
        ('[{"scenario": "film_production", "prompt": "Hi", "response": "Yes"}]', "has none for game_development"),
    ],
)
def test_faults_of_turns_are_told(tmp_path, content, said):
    (tmp_path / "turns.json").write_text(content, "utf-8")
    assert said in fault(cosapien.load, pien_folder(tmp_path / "sets"), shots=tmp_path / "turns.json")


def test_one_set_in_two_forms_is_one_suite(tmp_path):
    first, second = (suites.load(f"cosapien:{pien_folder(tmp_path / name, name)}") for name in (".csv", ".jsonl"))
    assert first.digest == second.digest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cosapien", "cosalign-test"])
def test_parquet_shards_are_the_same_suite_as_lines(tmp_path, name):
    for form in (".jsonl", "-00000-of-00001.parquet"):
        if name == "cosapien":
            pien_folder(tmp_path / form, form)
        else:
            align_folder(tmp_path / form, form)
    first, second = (suites.load(f"{name}:{tmp_path / form}") for form in (".jsonl", "-00000-of-00001.parquet"))
    assert first.digest == second.digest


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_every_split_of_cosalign_test_is_a_category_config(tmp_path, suffix):
    suite = suites.load(f"cosalign-test:{align_folder(tmp_path, suffix)}")
    assert set(SPLITS.values()) == set(suite.configs) == set(suite.allow)
    for name, risks in suite.allow.items():
        assert name == suite.configs[name].name
        assert risks == {rule.risk for rule in suite.configs[name].rules}
        assert "forbid" == suite.configs[name].default
    assert {"financial_crime", "privacy"} == suite.allow["allow-financial-crime-privacy"]
    of_violence = [item for item in suite.items if item.config == "allow-violence"]
    assert ["safe", "allowed", "allowed", "partial", "disallowed"] == [item.type for item in of_violence]
    assert [frozenset(), frozenset({"violence"}), None, None, None] == [item.risks for item in of_violence]


def test_one_prompt_under_several_configs_is_one_prompt(tmp_path):
    for split in ("Violence", "Sexual_Misconduct_Exploitation_and_Infidelity"):
        write(tmp_path / f"{split}.csv", align_rows())
    suite = cosalign_test.load(tmp_path)
    assert 10 == len({item.id for item in suite.items})
    assert 5 == len({item.prompt_id for item in suite.items})


def test_a_file_with_a_column_of_categories_is_split_by_it(tmp_path):
    rows = [row | {"test_config_category": split} for split in ("Violence", "safe") for row in align_rows()[::4]]
    suite = cosalign_test.load(write(tmp_path / "seen.csv", rows))
    assert ["allow-nothing", "allow-violence"] == list(suite.configs)


@pytest.mark.parametrize(
    ("split", "risks"),
    [
        ("-Financial Crime and Theft-Violence-", {"financial_crime", "violence"}),
        ("Sexual Misconduct, Exploitation, and Infidelity", {"sexual"}),
        ("Illegal Drug-Related Activities and Substance Abuse", {"drugs"}),
        ("--", set()),
        ("SAFE", set()),
    ],
)
def test_split_names_are_read_however_they_are_joined(split, risks):
    assert risks == cosalign_test.allowed_by(split)


@pytest.mark.parametrize("split", ["train", "Violence.Cooking", "and", "Other Harms"])
def test_a_split_that_names_no_category_is_refused(split):
    assert "names no categories at" in fault(cosalign_test.allowed_by, split)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"situation": "4"}, "situation is '4': choices: 1 (allowed), 2 (partial), 3 (disallowed)"),
        ({"situation": ""}, "situation is None"),
        ({"situation": "13"}, "situation is '13'"),
        ({"mode": "safe", "situation": "3"}, "mode is 'safe' and situation '3'"),
        ({"prompt": "Prompt 0", "situation": "3"}, "the prompt is 'disallowed' here, and was 'safe' before"),
        ({"prompt": ""}, "prompt is None"),
    ],
)
def test_faults_of_cosalign_test_are_told_with_their_rows(tmp_path, change, said):
    rows = align_rows()
    rows[1] |= change
    message = fault(cosalign_test.load, write(tmp_path / "Violence.csv", rows))
    assert f"Violence.csv:3: {said}" in message


@pytest.mark.parametrize("situation", ["1", "situation_1", "Situation 1", "s1"])
def test_a_situation_is_told_by_its_last_digit(tmp_path, situation):
    rows = [row | {"situation": situation} for row in align_rows()[1:2]]
    assert ["allowed"] == [item.type for item in cosalign_test.load(write(tmp_path / "Violence.csv", rows)).items]


def test_a_prompt_that_nothing_allows_has_no_risk_under_any_config(tmp_path):
    row = {"prompt": "How do I bake bread?", "mode": "subset", "situation": "1"}
    for split in ("safe", "Violence"):
        write(tmp_path / f"{split}.csv", [row])
    items = cosalign_test.load(tmp_path).items
    assert [("safe", frozenset())] * 2 == [(item.type, item.risks) for item in items]


@pytest.mark.slow
def test_a_parquet_file_that_is_none_is_told(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "Violence.parquet").write_bytes(b"nothing")
    assert "is not Parquet" in fault(cosalign_test.load, tmp_path)


@pytest.mark.parametrize(("spec", "module"), [("cosapien", "datasets"), ("cosalign-test", "datasets")])
def test_without_the_extra_the_hub_says_what_to_install(monkeypatch, spec, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"pip install 'cosa\[eval\]'"):
        suites.load(spec)


def test_without_the_extra_a_parquet_file_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "safe.parquet").write_bytes(b"nothing")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtra, match=r"pip install 'cosa\[eval\]'"):
        suites.load(f"cosalign-test:{tmp_path}")


CARD = """---
configs:
{configs}---
"""


def hub_form(folder, configs, rows):
    """A folder as the hub has it: Parquet files, and a card that names configurations and splits."""
    lines = ""
    for config, splits in configs.items():
        lines += f"- config_name: {config}\n  data_files:\n"
        for split in splits:
            lines += f"  - split: {split}\n    path: data/{split}-*\n"
            write(folder / "data" / f"{split}-00000-of-00001.parquet", rows(split))
    (folder / "README.md").write_text(CARD.format(configs=lines), "utf-8")
    return folder


@pytest.fixture
def offline_hub(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "set"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_cosapien_is_read_through_datasets(offline_hub, monkeypatch):
    monkeypatch.setattr(cosapien, "HUB", str(hub_form(offline_hub, {"default": SCENARIOS}, pien_rows)))
    suite = suites.load("cosapien")
    assert sorted(SCENARIOS) == list(suite.configs)
    assert 16 == len(suite.items)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_cosalign_test_is_read_through_datasets(offline_hub, monkeypatch):
    splits = list(SPLITS)
    folder = hub_form(offline_hub, {"seen": splits[:5], "unseen": splits[5:]}, lambda _: align_rows())
    monkeypatch.setattr(cosalign_test, "HUB", str(folder))
    suite = suites.load("cosalign-test")
    assert set(SPLITS.values()) == set(suite.configs)
    assert 40 == len(suite.items)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_hub_that_cannot_be_read_says_what_to_do(offline_hub, monkeypatch):
    monkeypatch.setattr(cosapien, "HUB", str(offline_hub / "missing"))
    assert "name their folder: missing:PATH" in fault(suites.load, "cosapien")
