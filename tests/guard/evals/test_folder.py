"""The folder of a run: one run, one at a time, whole after a crash."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cosa_guard.evals.folder import Folder, read_run
from cosa_guard.evals.rows import Manifest, ResultRow, SystemFacts
from cosa_sdk.errors import UsageError

MANIFEST = Manifest(
    suite="small", suite_digest="d" * 64, items=2, judge="refusal",
    systems=(SystemFacts(name="plain", method="plain", model="fake", guard=("rules/1",), adapters=("a:1",)),),
    sampling={"max_tokens": 8}, seed=0, exact=True, versions={"python": "3"}, made="today",
)
ROW = ResultRow(system="plain", item="a", config="film", prompt_id="p", type="safe", risks=("violence",), prompt="Hello.", response="Hi.", answer="answered")


def test_rows_and_manifest_are_read_as_written(tmp_path):
    folder = Folder(tmp_path / "run")
    folder.begin(MANIFEST)
    folder.add([ROW])
    folder.add([replace(ROW, item="b", response="\ud800 half a pair")])

    assert (MANIFEST, [ROW, replace(ROW, item="b", response="\ud800 half a pair")]) == read_run(tmp_path / "run")


def test_the_manifest_that_began_stands(tmp_path):
    folder = Folder(tmp_path)
    folder.begin(MANIFEST)

    assert "today" == folder.begin(replace(MANIFEST, made="tomorrow", versions={})).made


@pytest.mark.parametrize("change", [{"suite_digest": "e" * 64}, {"judge": "rating"}, {"seed": 1}, {"sampling": {"max_tokens": 9}}, {"exact": False}, {"systems": ()}])
def test_another_run_in_the_folder_is_refused_and_kept(tmp_path, change):
    folder = Folder(tmp_path)
    folder.begin(MANIFEST)
    folder.add([ROW])

    with pytest.raises(UsageError, match=rf"holds another run \({next(iter(change))} was .*--fresh"):
        folder.begin(replace(MANIFEST, **change))
    assert (MANIFEST, [ROW]) == read_run(tmp_path)


def test_a_fresh_start_deletes_the_run_and_nothing_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    folder = Folder(tmp_path)
    folder.begin(MANIFEST)
    folder.add([ROW])
    folder.clear()

    assert ["notes.txt"] == [one.name for one in tmp_path.iterdir()]


def test_two_runs_cannot_write_to_one_folder(tmp_path):
    first, second = Folder(tmp_path), Folder(tmp_path)
    with first.held():
        with pytest.raises(UsageError, match="another run is writing"):
            with second.held():
                pass
    with second.held():
        pass


def test_half_a_row_is_as_none_and_the_next_row_stands_on_a_line_of_its_own(tmp_path):
    folder = Folder(tmp_path)
    folder.begin(MANIFEST)
    folder.add([ROW, replace(ROW, item="b")])
    file = tmp_path / "rows.jsonl"
    file.write_bytes(file.read_bytes()[:-5])

    assert [ROW] == folder.rows()
    folder.add([replace(ROW, item="c")])
    assert ["a", "c"] == [row.item for row in folder.rows()]


def test_rows_without_a_response_are_tried_again_and_the_later_try_counts(tmp_path):
    folder = Folder(tmp_path)
    folder.begin(MANIFEST)
    folder.add([replace(ROW, error="no answer", response="")])
    assert [] == folder.rows()
    folder.add([ROW])

    assert [ROW] == folder.rows()
    assert [ROW] == read_run(tmp_path)[1]


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        read_run(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"suite": 1}', "\x00"])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)

    with pytest.raises(UsageError, match="manifest"):
        read_run(tmp_path)
    with pytest.raises(UsageError, match="manifest"):
        Folder(tmp_path).begin(MANIFEST)


@pytest.mark.parametrize("line", ["{", "[]", "1", '{"system": "plain"}', json.dumps(ROW.to_json() | {"more": 1})])
def test_a_damaged_row_is_named_with_its_line(tmp_path, line):
    folder = Folder(tmp_path)
    folder.begin(MANIFEST)
    folder.add([ROW])
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write(f"{line}\n")

    with pytest.raises(UsageError, match="rows.jsonl:2"):
        read_run(tmp_path)


def test_a_place_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(UsageError, match="cannot make the folder"):
        Folder(tmp_path / "file" / "run")
