"""The labelled replies, and how the parser does on them: the figures that the card quotes."""


import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from cosa_guard.evals import refusal_report
from cosa_guard.evals.refusal_report import LabelledReply, measure
from cosa_guard.labelled import read_rows
from cosa_sdk.errors import UsageError

DATA = Path(os.environ.get("COSA_DATA", "../shared/data")) / "qa_labelled.jsonl.gz"
A, D, P, R = "answered", "degenerate", "partial", "refused"
COUNTED = {
    ("dev", A): 65, ("dev", D): 23, ("dev", R): 34,
    ("test", A): 62, ("test", D): 29, ("test", R): 33,
    ("fresh", A): 27, ("fresh", D): 4, ("fresh", R): 29,
}  # fmt: skip
READ = {
    "dev": {(A, A): 65, (D, A): 7, (D, D): 15, (D, P): 1, (R, A): 1, (R, P): 1, (R, R): 32},
    "test": {(A, A): 62, (D, A): 12, (D, D): 16, (D, P): 1, (R, A): 3, (R, P): 2, (R, R): 28},
    "fresh": {(A, A): 25, (A, R): 2, (D, D): 3, (D, R): 1, (R, A): 1, (R, R): 28},
}
"""Shipped rows by label and reading."""
READ_ALL = {
    "dev": {(A, A): 84, (A, P): 1, (A, R): 3, (D, A): 7, (D, D): 15, (D, P): 1, (P, A): 2, (P, P): 1, (R, A): 1, (R, P): 1, (R, R): 62},
    "test": {(A, A): 84, (D, A): 12, (D, D): 16, (D, P): 1, (P, P): 3, (R, A): 3, (R, P): 2, (R, R): 67},
    "fresh": {(A, A): 49, (A, R): 5, (D, D): 3, (D, R): 1, (P, P): 2, (R, A): 3, (R, R): 67},
}
"""The same with the rows that are named by their id."""


def reply(answer, prompt="a", response="Eight words are enough for such an answer.", **more):
    fields = {"id": "1", "model": "m", "setting": "plain", "part": "dev"} | more
    return LabelledReply(prompt=prompt, response=response, answer=answer, **fields)


def test_agreement_is_counted_by_hand():
    replies = [reply("refused", "a"), reply("refused", "b"), reply("answered", "b"), reply("partial", "c")]
    read = iter(["refused", "answered", "refused", "partial"])

    found = measure(replies, lambda _: next(read), draws=50)

    assert 4 == found.n
    assert (0.5, 0.5, 0.5) == (found.precision, found.recall, found.f1)
    assert pytest.approx((0.5 + 0 + 1) / 3) == found.macro
    assert {("refused", "refused"): 1, ("refused", "answered"): 1, ("answered", "refused"): 1, ("partial", "partial"): 1} == found.table
    assert [(replies[1], "answered"), (replies[2], "refused")] == list(found.errors)


def test_replies_to_one_prompt_are_drawn_together():
    replies = [reply("refused", prompt) for prompt in "aaaabbbb"]
    read = iter(["refused"] * 4 + ["answered"] * 4)

    found = measure(replies, lambda _: next(read), draws=200)

    assert (0.0, 1.0) == found.ci


def test_nothing_to_measure_is_an_error():
    with pytest.raises(UsageError, match="at least one"):
        measure([])


def test_keywords_are_found_anywhere():
    assert "refused" == refusal_report.keywords(reply("answered", response="Well, I can’t."))
    assert "answered" == refusal_report.keywords(reply("answered", response="Well, you can."))


@pytest.mark.slow
def test_every_part_is_printed_and_what_was_read_twice(capsys):
    assert 0 == refusal_report.main([])

    told = capsys.readouterr().out
    assert all(f"{part}: {sum(n for (at, _), n in COUNTED.items() if at == part)} replies" in told for part in READ)
    assert 3 == told.count("beside it: keyword anywhere")
    assert "Read twice: 38; same label 36" in told


def test_the_table_of_a_part_names_every_disagreement(capsys):
    assert 0 == refusal_report.main(["--part", "dev", "--alone"])

    told = capsys.readouterr().out
    errors = measure([one for one in refusal_report.shipped() if one.part == "dev"]).errors
    assert told.startswith("dev: ")
    for one, read in errors:
        assert f"{one.id}: label {one.answer}, read {read}" in told


def test_rows_named_by_id_need_their_file(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        refusal_report.by_id(tmp_path / "none.jsonl.gz")


def test_a_file_that_lacks_named_rows_is_refused(tmp_path):
    path = tmp_path / "other.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(json.dumps({"id": "x", "prompt": "a", "response": "b"}) + "\n")

    with pytest.raises(UsageError, match=r"lacks \d+ of \d+ labelled rows"):
        refusal_report.by_id(path)


def test_the_shipped_rows_are_what_the_card_says():
    rows = refusal_report.shipped()

    assert len(rows) == len({one.id for one in rows})
    assert COUNTED == Counter((one.part, one.answer) for one in rows)
    assert {"smollm2-135m", "qwen2.5-coder-1.5b"} == {one.model for one in rows}


def test_the_shipped_rows_are_labelled_rows_for_any_judge():
    rows = list(read_rows(refusal_report.starter()))
    by_id = {one.id: one for one in refusal_report.shipped()}

    assert list(by_id) == [one.id for one in rows]
    assert all((by_id[one.id].answer == "refused") == one.refused for one in rows)
    assert not any(one.floor for one in rows)
    assert all(one.harmful is (None if one.risks is None else bool(one.risks)) for one in rows)


@pytest.mark.parametrize("part", ["dev", "test", "fresh"])
def test_the_parser_reads_the_shipped_rows_as_the_card_says(part):
    found = measure([one for one in refusal_report.shipped() if one.part == part])

    assert READ[part] == found.table


@pytest.mark.skipif(not DATA.is_file(), reason="no do-not-answer rows (COSA_DATA)")
def test_the_parser_reads_the_rows_named_by_id_as_the_card_says():
    rows = refusal_report.shipped() + refusal_report.by_id(DATA)

    assert READ_ALL == {part: measure([one for one in rows if one.part == part], draws=1).table for part in READ_ALL}
