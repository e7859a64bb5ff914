"""Tables from out-of-fold answers: right numbers where there are rows, n/a where there are few."""

import json
import sys

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("torch")
pytest.importorskip("sklearn")
from cosa_training.judge import calibrate, tables  # noqa: E402
from cosa_training.judge.fit import slices  # noqa: E402
from cosa_training.judge.folds import FOLDS  # noqa: E402
from cosa_training.judge.sources import RISKS, Row  # noqa: E402

CALIBRATION = {
    "slopes": {head: {name: [1, 0] for name in (*RISKS, "any")} for head in ("prompt", "text", "response")},
    "points": {"balanced": {head: {name: [0.3, 0.6] for name in (*RISKS, "any")} for head in ("prompt", "text", "response")}},
    "floor": {"floor.minors": 0.25, "floor.mass_harm": 0.35, "beside": 0.4},
}


def world():
    """Two folds' worth of rows; the risks that a row shows, what it is read by, and whether it refuses."""
    rows = [Row(f"c{n}", "catqa", "prompt", f"Ask c{n}", risks=frozenset({RISKS[n % 8]}), group=f"c{n}") for n in range(240)]
    rows += [Row(f"p{n}", "phtest", "prompt", f"Ask p{n}", risks=frozenset(), group=f"p{n}") for n in range(120)]
    rows += [Row(f"k{n}", "coconot", "prompt", f"Ask k{n}", risks=frozenset(), group=f"k{n}") for n in range(120)]
    rows += [Row(f"n{n}", "do-not-answer", "prompt", f"Ask n{n}", risks=frozenset({"drugs"}), group=f"n{n}") for n in range(60)]
    rows += [Row("floor", "catqa", "prompt", "about a toddler", risks=frozenset({"violence"}), floor="m", group="f")]
    for n in range(60):
        refused, risks = n % 2 == 0, frozenset({"violence"} if n % 2 else ())
        rows.append(Row(f"r{n}", "do-not-answer", "response", f"So r{n}", "Ask", risks=risks, refused=refused, addressed=not refused, group=f"r{n}"))
        rows.append(Row(f"t{n}", "cosa-texts", "text", f"So t{n}", risks=risks, group=f"t{n}"))
    return rows


def answered(rows, folder, system, right):
    at = slices()
    out = np.full((len(rows), 26), -4.0)
    for number, row in enumerate(rows):
        for k, risk in enumerate(RISKS):
            out[number, at[row.head].start + k] = (3.0 if risk in row.risks else -4.0) * (1 if right else 0)
        out[number, at["reply"].start] = 2.0 if row.refused else -2.0
        out[number, at["reply"].start + 1] = 2.0 if row.addressed else -2.0
    for fold, sources in ((0, {"catqa", "phtest", "cosa-texts"}), (1, {"do-not-answer", "coconot"})):
        mine = [n for n, row in enumerate(rows) if row.source in sources]
        path = folder / f"{fold}.{'a' if right else 'b'}.npz"
        columns = {system: out[mine].astype(np.float16)}
        np.savez(path, ids=np.array([rows[n].id for n in mine]), heads=np.array([rows[n].head for n in mine]), **columns)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rows = world()
    answered(rows, tmp_path, "encoder", right=True)
    answered(rows, tmp_path, "TF-IDF + LR", right=False)
    (tmp_path / "calibration.json").write_text(json.dumps(CALIBRATION), "utf-8")
    monkeypatch.setattr(tables, "load", lambda data: rows)
    for module in (tables, calibrate):
        monkeypatch.setattr(module, "FOLDS", FOLDS[:2])
    return tmp_path


def sections(text):
    return {part.splitlines()[0]: part for part in text.split("### ")[1:]}


def cells(table, first):
    line = next(line for line in table.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tables(folder):
    found = sections(tables.tables(folder, folder, folder / "calibration.json"))
    prompts = found["Prompts, all folds pooled: answers of six models on one scale"]

    assert cells(prompts, "encoder")[2] == "1.000"
    assert cells(prompts, "TF-IDF + LR")[2] == "0.500"
    assert cells(prompts, "encoder")[1] == "541"
    assert cells(found["Prompts: AUROC by risk, mean of folds"], "encoder")[2] == "1.000"
    by_fold = cells(found["Prompts, by fold, encoder"], "do-not-answer + coconot")
    assert by_fold[2] == "n/a"  # only drugs, which the mean leaves out
    assert by_fold[-1] == "1.00"
    harm = found["Responses: AUROC of harm, by left-out source"]
    assert cells(harm, "encoder")[1:4] == ["1.00", "n/a", "1.00"]
    look_alikes = found["Harmless look-alikes of unseen sources: recall where a fifth of them is flagged"]
    assert cells(look_alikes, "encoder")[4] == "1.00"
    refusals = found["Responses: refused? and addressed?"]
    assert cells(refusals, "encoder")[3:6] == ["1.00", "1.00", "1.000"]
    assert "| floor.minors | marked m | 1 | 1 | 1 |" in found["The floor, on left-out prompts"]
    points = found["Operating points, on the answers that they were set by"]
    assert "| balanced | prompt | all | 541 | 0% | 0% | 100% | 0% |" in points
    assert "Not measured" in found["Beside a language model: yes/no log-odds, zero-shot"]


def test_a_language_model_is_compared_on_its_own_prompts(folder):
    rows = [row for row in tables.load(folder) if row.head == "prompt"]
    scores = {row.id: 0.9 if row.any_risk else 0.1 for row in rows if row.source in {"catqa", "phtest"}}
    answers = folder / "answers"
    answers.mkdir()
    for path in folder.glob("*.npz"):
        path.rename(answers / path.name)
    (folder / "llm.json").write_text(json.dumps({"model": "m", "seconds_per_prompt": 1, "scores": scores}), "utf-8")
    table = sections(tables.tables(folder, answers, folder / "calibration.json"))["Beside a language model: yes/no log-odds, zero-shot"]

    assert cells(table, "m, 1 s a prompt")[1:4] == [str(len(scores)), "1.00 [1.00, 1.00]", "1.00"]
    assert cells(table, "TF-IDF + LR")[3:5] == ["0.50", "n/a"]


def test_a_card_keeps_what_stands_around_the_tables(folder, monkeypatch, capsys):
    card = folder / "card.md"
    arguments = ["tables", "--data", ".", "--answers", str(folder), "--calibration", str(folder / "calibration.json"), "--card", str(card)]
    monkeypatch.setattr(sys, "argv", arguments)
    card.write_text("before\n<!-- tables -->\nformer\n<!-- end of tables -->\nafter\n", "utf-8")
    tables.main()
    read = card.read_text("utf-8")

    assert read.startswith("before\n<!-- tables -->\n\n### Prompts")
    assert read.endswith("<!-- end of tables -->\nafter\n")
    assert "former" not in read
    card.write_text("no marks", "utf-8")
    with pytest.raises(SystemExit, match="lacks the lines"):
        tables.main()
    assert card.read_text("utf-8") == "no marks"


def test_answers_of_other_rows_are_refused(folder, monkeypatch):
    more = [*tables.load(folder), Row("new", "catqa", "prompt", "Another ask", risks=frozenset(), group="new")]
    monkeypatch.setattr(tables, "load", lambda data: more)
    with pytest.raises(SystemExit, match="lacks 1 rows of the data"):
        tables.tables(folder, folder, folder / "calibration.json")


def test_a_missing_fold_is_named(folder):
    (folder / "1.a.npz").unlink()
    with pytest.raises(SystemExit, match="run python -m cosa_training.judge.measure first"):
        tables.tables(folder, folder, folder / "calibration.json")


def test_what_training_has_word_for_word_is_not_measured():
    rows = [Row("a", "catqa", "response", "I'm sorry, no.", "Ask", group="a"), Row("b", "hh-rlhf", "response", "I’m sorry - no", "Say", group="b"),
            Row("c", "catqa", "response", "Of course.", "Ask", group="c"), Row("d", "hh-rlhf", "prompt", "Of course", group="d")]  # fmt: skip
    assert [row.id for row in FOLDS[0].held(rows)] == ["c"]
