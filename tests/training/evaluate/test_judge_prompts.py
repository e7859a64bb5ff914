"""Measuring judges' questions: what is drawn, and what an answer counts as."""

from __future__ import annotations

import gzip
import json
import math

import pytest

pytest.importorskip("sklearn")

from cosa_training.evaluate import judge_prompts as jp


def row(number, source, harmful=None, answered=None):
    return jp.Row(id=f"{source}-{number}", source=source, prompt="p", response="r", harmful=harmful, answered=answered)


ROWS = [
    *(row(n, "gptfuzz-labeled", harmful=n % 5 == 0) for n in range(400)),
    *(row(n, "diasafety", harmful=n % 3 == 0) for n in range(300)),
    *(row(n, "do-not-answer", harmful=n % 9 == 0, answered=(None, True, False)[n % 3]) for n in range(300)),
    *(row(n, "pairs", answered=n % 2 == 0) for n in range(60)),
]


def test_a_draw_is_stratified_and_the_same_for_the_same_seed():
    drawn = jp.choose(ROWS, 340)

    assert drawn == jp.choose(ROWS, 340) != jp.choose(ROWS, 340, seed=1)
    assert len(drawn) == len({one.id for one in drawn}) == 340
    assert dict(jp.SHARES) == {source: sum(one.source == source for one in drawn) for source in jp.SHARES}
    assert 55 == sum(one.harmful for one in drawn if one.source == "gptfuzz-labeled")
    assert 20 == sum(one.answered for one in drawn if one.source == "pairs")


@pytest.mark.parametrize(
    ("shares", "kind", "expected"),
    [
        ({"Yes": 0.6, " no": 0.3}, "Yes/No", math.log(2)),
        ({"Yes": 0.4, "yes": 0.2, "No": 0.3}, "Yes/No", math.log(2)),
        ({"Yes": 0.6, "No": 0.3}, "No/Yes", -math.log(2)),
        ({"A": 0.3, "B": 0.6}, "B/A", math.log(2)),
        ({"0": 0.25, "5": 0.25, "The": 0.5}, "digits", 2.5),
        ({"The": 1.0}, "digits", None),
        ({"The": 1.0}, "Yes/No", None),
    ],
)
def test_an_answer_is_a_number(shares, kind, expected):
    found = jp.scale({token: math.log(p) for token, p in shares.items()}, kind)

    assert expected == (found if expected is None else pytest.approx(found))


def test_a_table_is_made_of_the_answers_and_leaves_out_what_was_not_asked(tmp_path, capsys):
    with gzip.open(tmp_path / "qa_labelled.jsonl.gz", "wt") as file:
        for n in range(60):
            one = {"id": f"q{n}", "label_kind": "human", "source": ("diasafety", "gptfuzz-labeled")[n % 2], "prompt": "Hello?", "response": "Good day to you.", "harmful": n < 30, "refused": None}
            file.write(json.dumps(one) + "\n")
    with gzip.open(tmp_path / "preference_pairs.jsonl.gz", "wt") as file:
        file.write(json.dumps({"id": "c", "why": "safer", "source": "coconot"}) + "\n")
    answers = [{"id": f"q{n}", "said": {"harmful": 30.0 - n, "letter": 0.5} | ({"crime": 1.0} if n < 5 else {})} for n in range(60)]
    out = tmp_path / "answers.jsonl"
    out.write_text("".join(json.dumps(one) + "\n" for one in answers))

    jp.main(["--data", str(tmp_path), "--out", str(out), "--read"])
    lines = {line.split("|")[1].strip(): line for line in capsys.readouterr().out.splitlines() if line.startswith("|")}

    assert "| 1.000 (0.886–1.000), n 60 |" in lines["harmful"]
    assert "| 0.500 (" in lines["letter"]
    assert "| – (n 5) |" in lines["crime"]
    assert ["1.000 (0.796–1.000), n 30"] * 2 == [cell.strip() for cell in lines["read-out, by source"].split("|")[3:5]]
