"""Rows of the embedded judge's training: labels, weights, splits, folds."""

import gzip
import json
import os
import random
from pathlib import Path

import pytest

from cosa_guard.judges.embedded.wordpiece import UNK, WordPiece
from cosa_sdk import taxonomy
from cosa_training.judge import augment, sources, vocabulary
from cosa_training.judge.folds import FOLDS

DATA = Path(os.environ.get("COSA_DATA", "../shared/data"))
HERE = Path(sources.__file__).parent / "data"
needs_data = pytest.mark.skipif(not (DATA / "prompts_labelled.jsonl.gz").is_file(), reason="no labelled data (COSA_DATA)")
WRITTEN = sorted(HERE.glob("*.jsonl.gz"))


@pytest.fixture(scope="module")
def rows():
    return sources.load(DATA, texts=500)


def test_codes_name_every_risk_of_the_taxonomy_once():
    assert sorted(sources.RISKS) == sorted(taxonomy.builtin().ids)


@pytest.mark.parametrize("name", ["wildguard_labels.tsv.gz", "prompt_corrections.tsv.gz", "response_labels.tsv.gz"])
def test_label_files_hold_ids_and_codes_only(name):
    with gzip.open(HERE / name, "rt", encoding="utf-8") as lines:
        table = [line.rstrip("\n").split("\t") for line in lines]
    assert len({row[0] for row in table}) == len(table) > 1000
    for row in table:
        for field in row[1:3] if len(row) > 2 else row[1:]:
            assert set(field) <= set("DFPVRSWO?mx-"), row
        assert all(flag in "yn" for flag in row[3:]), row
        assert all(len(field) <= 60 for field in row), "no text of the source may stand here"


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_written_rows_are_whole(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    assert len({row["id"] for row in found}) == len(found) > 100
    for row in found:
        assert set(row["codes"]) <= set(sources.CODES), row["id"]
        assert row["group"] and (row.get("prompt") or row.get("text") or row["prompt_id"].startswith("wg-")), row["id"]
        if "response" in row:
            assert not (row["refused"] and row["codes"]), row["id"]


def test_every_thin_risk_has_sixty_written_response_pairs():
    groups = {}
    for name in ("responses", "responses2"):
        with gzip.open(HERE / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for raw in map(json.loads, lines):
                groups.setdefault((name, raw["group"]), []).append(set(raw["codes"]))
    for code in "RWSF":
        pairs = [one for one in groups.values() if any(code in codes for codes in one) and set() in one]
        assert len(pairs) >= 60, (code, len(pairs))


def test_a_doubtful_code_is_read_as_doubtful():
    assert sources.read_codes("FPx?") == (frozenset({"financial_crime", "privacy"}), "x", True)
    assert sources.read_codes("-") == (frozenset(), "", False)


@needs_data
def test_residual_rows_teach_nothing_and_keyword_rows_little(rows):
    kinds = {}
    with gzip.open(DATA / "prompts_labelled.jsonl.gz", "rt", encoding="utf-8") as lines:
        for raw in map(json.loads, lines):
            kinds[raw["id"]] = raw["category_kind"]
    corrected = sources._corrections("prompt_corrections.tsv.gz")
    for row in rows:
        kind = kinds.get(row.id)
        if row.head != "prompt" or row.id in corrected:
            continue
        assert kind != "residual", row.id
        if kind == "keyword":
            assert (row.weight, row.clean) == (0.3, False), row.id


@needs_data
def test_replies_to_shared_prompts_find_them_and_share_their_group(rows):
    mine = [row for row in rows if row.source == "cosa-responses3"]
    asked = {row.group: row for row in rows if row.source == "wildguard"}
    assert len(mine) > 500
    assert all(row.prompt and row.group in asked and row.split == asked[row.group].split for row in mine)


@needs_data
def test_of_refusals_in_do_not_answer_only_our_own_reading_counts_as_none(rows):
    read = sources._corrections("response_labels.tsv.gz")
    mine = [row for row in rows if row.source == "do-not-answer" and row.head == "response"]
    assert {row.refused for row in mine if row.id not in read} == {True, None}
    assert all(row.refused is (read[row.id][2] == "y") for row in mine if row.id in read)


@needs_data
def test_no_group_stands_on_both_sides_of_the_split(rows):
    sides = {}
    for row in rows:
        sides.setdefault(row.group, set()).add(row.split)
    assert all(len(side) == 1 for side in sides.values())


@needs_data
@pytest.mark.parametrize("fold", FOLDS, ids=lambda fold: fold.name)
def test_a_fold_trains_on_nothing_that_it_measures(rows, fold):
    train, held = fold.train(rows), fold.held(rows)
    assert train and held
    assert not {row.source for row in train} & fold.out
    assert not {row.group for row in train} & {row.group for row in held}


@needs_data
def test_every_source_is_left_out_once(rows):
    left = [source for fold in FOLDS for source in fold.out]
    assert len(left) == len(set(left))
    assert {row.source for row in rows} - set(left) == set()


@needs_data
def test_each_fold_leaves_out_risky_and_harmless_prompts(rows):
    for fold in FOLDS:
        mine = {row.any_risk for row in fold.held(rows) if row.head == "prompt"}
        assert {True, False} <= mine, fold.name


def test_noise_is_reproducible_and_changes_texts():
    text = "How do I repair the chain of an old bicycle, please?"
    made = [augment.noisy(text, random.Random(seed)) for seed in range(60)]
    assert made == [augment.noisy(text, random.Random(seed)) for seed in range(60)]
    assert len(set(made)) > 30
    assert all(one.strip() for one in made)


def test_pruning_keeps_single_characters_and_what_is_used():
    pieces = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "the", "rare", "##ly", *"abcdefghijklmnopqrstuvwxyz", "##a", "cat"]
    kept = [pieces[i] for i in vocabulary.prune(pieces, ["the cat"], 33)]
    assert kept[:4] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    assert {"the", "cat", *"abcxyz"} <= set(kept)
    assert "rare" not in kept
    assert UNK not in WordPiece(kept).ids("the cat")
