"""Suites by name, and the one that ships: what it promises, and that nothing else was made from it."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter, defaultdict
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from cosa_guard.evals import suites
from cosa_sdk import compile as compile_config
from cosa_sdk import presets
from cosa_sdk.errors import UnknownName, UsageError
from cosa_sdk.score import Row as Scored
from cosa_sdk.score import contrast_accuracy
from cosa_sdk.taxonomy import builtin

ROOT = Path(__file__).parents[3]
FOLDER = Path(suites.__file__).parent / "starter"
TRAINING = ROOT / "training" / "cosa_training" / "judge" / "data"
SHARED = ROOT.parent / "shared" / "data"
STARTER = suites.load("starter")
ROWS = [json.loads(line) for line in (FOLDER / "rows.jsonl").read_text("utf-8").splitlines()]


def plain(text):
    """Words alone: spelling and marks do not make another prompt."""
    return " ".join(re.findall(r"\w+", text.lower()))


def prompts_in(path):
    data = path.read_bytes()
    for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines():
        row = json.loads(line)
        yield from (plain(row[name]) for name in ("prompt", "text") if isinstance(row.get(name), str))


def test_suites_have_names():
    assert ("starter", "cosapien", "cosalign-test") == suites.names()


def test_a_misspelt_name_is_told_what_was_meant():
    with pytest.raises(UnknownName, match="did you mean 'starter'"):
        suites.load("startr")


@pytest.mark.parametrize("spec", ["missing.jsonl", "folder/rows", "rows.YAML"])
def test_a_file_that_is_not_there_is_not_taken_for_a_name(spec):
    with pytest.raises(UsageError, match="there is no suite file"):
        suites.load(spec)


def test_only_cosapien_takes_shots_from_outside():
    with pytest.raises(UsageError, match="takes no shots from outside"):
        suites.load("starter", shots="turns.json")


def test_the_starter_has_all_four_types_under_each_config():
    counts = defaultdict(Counter)
    for item in STARTER.items:
        counts[item.config][item.type] += 1
    assert set(STARTER.configs) == set(counts)
    for name, kinds in counts.items():
        assert sum(kinds.values()) >= 20, name
        assert kinds["allowed"] >= 7 and kinds["disallowed"] >= 6, name
        assert kinds["partial"] >= 3 and kinds["safe"] >= 4, name


def test_the_card_counts_what_is_there():
    card = (FOLDER / "CARD.md").read_text("utf-8")
    twins = {item.twin for item in STARTER.items} - {None}
    prompts = {item.prompt_id for item in STARTER.items}
    assert f"{len(STARTER.items)} rows, {len(prompts)} prompts, {len(twins)} twins" in card
    for name in STARTER.configs:
        kinds = Counter(item.type for item in STARTER.items if item.config == name)
        cells = " | ".join(str(kinds[kind]) for kind in ("allowed", "disallowed", "partial", "safe"))
        assert re.search(rf"^\| `{name}` \|.*\| {re.escape(cells)} \|$", card, re.MULTILINE), name


def test_every_row_says_why():
    assert [item.id for item in STARTER.items] == [row["id"] for row in ROWS]
    for row in ROWS:
        assert len(row["why"].split()) >= 3, row["id"]


def test_risks_follow_from_the_types():
    for item in STARTER.items:
        assert (item.type == "safe") == (item.risks == frozenset()), item.id
        assert item.risks <= set(builtin().ids) - {"other"}, item.id
        assert item.config != "homework" or "sexual" not in item.risks, item.id


def test_a_disallowed_risk_is_forbidden_and_an_allowed_one_is_not():
    for item in STARTER.items:
        config = STARTER.configs[item.config]
        opened = {rule.risk for rule in config.rules if rule.stance in {"allow", "limit"}}
        limited = {rule.risk for rule in config.rules if rule.stance == "limit"}
        if item.type == "allowed":
            assert item.risks <= opened, item.id
        if item.type == "disallowed":
            assert not item.risks <= opened - limited, item.id
        if item.type == "partial":
            assert item.risks & opened, item.id
            assert not item.risks <= opened - limited, item.id


def test_twins_are_one_prompt_whose_risk_two_configs_regard_differently():
    twins = defaultdict(list)
    for item in STARTER.items:
        if item.twin:
            twins[item.twin].append(item)
    assert len(twins) >= 25
    for name, (first, second) in twins.items():
        assert {first.type, second.type} == {"allowed", "disallowed"}, name
        assert first.prompt == second.prompt and first.risks == second.risks, name
        assert first.config != second.config, name


def test_a_model_that_does_not_read_its_config_gets_no_twin_right():
    rows = [
        Scored(config=item.config, prompt=item.prompt_id, type=item.type, answer="answered", twin=item.twin)
        for item in STARTER.items
    ]
    assert contrast_accuracy(rows) == 0.0


def test_configs_are_short_and_none_is_a_preset():
    for name, config in STARTER.configs.items():
        assert len(compile_config(config, "system").text) < 1400, name
        assert name == config.name
        assert name not in presets.names()


def test_each_config_has_five_turns_and_the_first_refuses_in_its_words():
    prompts = {plain(item.prompt) for item in STARTER.items}
    for name, config in STARTER.configs.items():
        turns = STARTER.shots[name]
        assert len(turns) == 5, name
        assert turns[0][1] == config.refusal.message, name
        assert all(reply != config.refusal.message for _, reply in turns[1:]), name
        assert not prompts & {plain(prompt) for prompt, _ in turns}, name


def test_no_two_prompts_are_nearly_the_same():
    prompts = sorted({plain(item.prompt) for item in STARTER.items})
    for place, first in enumerate(prompts):
        for second in prompts[place + 1 :]:
            match = SequenceMatcher(None, first, second, autojunk=False)
            if match.real_quick_ratio() > 0.8 and match.quick_ratio() > 0.8:
                assert match.ratio() <= 0.8, (first, second)


def texts_of_the_starter():
    return {plain(item.prompt) for item in STARTER.items} | {
        plain(prompt) for turns in STARTER.shots.values() for prompt, _ in turns
    }


def test_no_preset_has_a_prompt_of_the_starter():
    examples = {
        plain(example.prompt) for name in presets.names() for rule in presets.load(name).rules for example in rule.examples
    }
    assert examples
    assert not texts_of_the_starter() & examples


def test_the_shipped_judge_was_not_trained_on_the_starter():
    files = sorted(TRAINING.glob("*.jsonl.gz"))
    assert files
    trained = {text for path in files for text in prompts_in(path)}
    assert len(trained) > 1000
    assert not texts_of_the_starter() & trained


@pytest.mark.slow
def test_no_row_of_the_shared_data_is_in_the_starter():
    files = sorted(SHARED.glob("*.jsonl.gz"))
    if not files:
        pytest.skip("the shared data are not here")
    assert not texts_of_the_starter() & {text for path in files for text in prompts_in(path)}
