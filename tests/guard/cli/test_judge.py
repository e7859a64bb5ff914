"""`cosa judge`: what scripts read, what people read, and errors that say the next step."""

from __future__ import annotations

import errno
import gzip
import json
import re
import sys
from pathlib import Path

import pytest

from cosa_guard import backends, judges
from cosa_guard.cli.judge import select
from cosa_guard.labelled import LabelledRow
from cosa_guard.testing import FakeBackend, ScriptedJudge
from cosa_guard.verdicts import Verdict
from cosa_sdk.decide import Evidence
from cosa_sdk.errors import JudgeError, UsageError


class Fitted:
    """Gives probabilities, can be fitted, and says which words moved it."""

    name, inline = "fitted/1", True

    def __init__(self, point=None):
        self.point, self.cases, self.fitted = point, [], []
        self.gives = {"thresholds": {"violence": 0.4}, "data": "60 rows for text", "report": {
            "before": {"ece": 0.25, "flag_rate": 0.5}, "after": {"ece": 0.125, "flag_rate": 0.0625}}}

    def covers(self, config):
        return config.elements

    def holdback(self, config):
        return 0

    def judge(self, case):
        self.cases.append(case)
        if "crash" in case.text:
            raise JudgeError("it crashed")
        p = 0.9 if "fight" in case.text else 0.1
        found = frozenset({"violence"}) if p > 0.5 else frozenset()
        return Verdict(judge=self.name, evidence=Evidence(found=found, examined=case.config.elements), risks={"violence": p, "drugs": 0.05})

    def recalibrate(self, rows, name):
        self.fitted.append((rows, name))
        return self.gives

    def explain(self, case):
        at = case.text.find("fight")
        return [] if at < 0 else [(at, at + 5, "violence", 0.4), (0, len(case.text.split()[0]), "drugs", -0.5)]


@pytest.fixture
def cosa(cosa, monkeypatch):
    """`cosa judge …`, a hundred columns wide."""
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *arguments: cosa("judge", *arguments)


@pytest.fixture
def made(monkeypatch):
    """Judges by name, and every specification that was asked for."""
    known = {"fitted": Fitted(), "scripted": ScriptedJudge({"violence": ["fight"]}), "broken": ScriptedJudge(error=JudgeError("no"))}
    real, asked = judges.make, []

    def make(spec, **options):
        asked.append((spec, options))
        name, _, argument = spec.partition(":")
        if name == "model":
            return known["scripted"]
        return known[name] if name in known else real(spec, **options)

    monkeypatch.setattr(judges, "make", make)
    return known, asked


def own(harmful=30, harmless=30, **fields):
    rows = [{"id": f"h{n}", "text": f"a fight {n}", "categories": ["V"], **fields} for n in range(harmful)]
    return rows + [{"id": f"n{n}", "text": f"a walk {n}", "categories": [], **fields} for n in range(harmless)]


@pytest.fixture
def file(tmp_path):
    def write(rows, name="own.jsonl"):
        path = tmp_path / name
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        return path

    return write


# --- validate

@pytest.mark.parametrize("name", ["own.jsonl", "own.jsonl.gz"])
def test_validate_json_has_the_contract_keys(cosa, made, file, name):
    code, out, err = cosa("validate", file(own(), name), "--judge", "fitted", "--json")
    body = json.loads(out)

    assert 0 == code
    assert {"n", "macro", "risks", "flag_rate", "ms_per_text"} <= body.keys()
    assert {"auroc": 1.0, "ap": 1.0, "f1": 1.0} == body["macro"]
    assert {"n", "positives", "auroc", "ap", "precision", "recall", "f1", "ci"} <= body["risks"]["violence"].keys()
    assert (60, 30, 1.0) == tuple(body["risks"]["violence"][key] for key in ("n", "positives", "recall"))
    assert body["risks"]["drugs"]["auroc"] is None
    assert (60, 0.5, "fitted/1", name) == tuple(body[key] for key in ("n", "flag_rate", "judge", "file"))
    assert 1 == out.count("\n")
    assert "judged 60 of 60, 0:00 left" in err


def test_the_labelled_replies_that_ship_are_there_by_name(cosa):
    code, out, _ = cosa("validate", "starter", "--judge", "rules", "--json")

    assert (0, 306) == (code, json.loads(out)["n"])


def test_validate_for_people(cosa, made, file):
    rows = [*own(source="one"), {"text": "unsure", "categories": None}, {"text": "x", "categories": ["V"], "category_kind": "keyword"}]
    code, out, _ = cosa("validate", file(rows), "--judge", "fitted")
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}

    assert 0 == code
    assert ["violence", "30/60", "1.000", "0.89-1.00", "1.000", "1.000", "1.000", "1.000", "0.000"] == lines["violence"].split()
    assert ["drugs", "0/60", *["n/a"] * 5, "0.000"] == lines["drugs"].split()
    assert "left out: 1 unknown, 1 keyword/residual" in out
    assert "fitted/1: 60 rows, 50.0% flagged, 0 undecided" in out
    assert "by source" not in out


def test_validate_counts_noisy_rows_only_when_asked(cosa, made, file):
    path = file([*own(), *own(5, 0, category_kind="keyword"), *own(5, 0, category_kind="residual")])

    plain = json.loads(cosa("validate", path, "--judge", "fitted", "--json")[1])
    noisy = json.loads(cosa("validate", path, "--judge", "fitted", "--json", "--noisy")[1])

    assert (60, {"unknown": 0, "keyword/residual": 10}) == (plain["n"], plain["skipped"])
    assert (70, {"unknown": 0, "keyword/residual": 0}) == (noisy["n"], noisy["skipped"])


def test_validate_takes_a_split_and_a_limit(cosa, made, file):
    path = file([*own(split="train"), *own(10, 10, split="dev")])

    assert 20 == json.loads(cosa("validate", path, "--judge", "fitted", "--split", "dev", "--json")[1])["n"]
    assert 7 == json.loads(cosa("validate", path, "--judge", "fitted", "--limit", 7, "--json")[1])["n"]
    code, _, err = cosa("validate", path, "--judge", "fitted", "--split", "test")
    assert 2 == code
    assert "no row is of split 'test'; splits in the file: dev, train" in err


def test_a_limit_draws_the_same_rows_from_everywhere():
    rows = [LabelledRow(id=str(n), kind="text", text="t", risks=frozenset(), harmful=False) for n in range(1000)]
    first, _ = select(rows, limit=50)
    again, _ = select(iter(rows), limit=50)
    places = [int(row.id) for row in first]

    assert first == again
    assert sorted(set(places)) == places and 50 == len(places)
    assert places[-1] > 500
    assert rows == select(rows, limit=5000)[0]


@pytest.mark.parametrize(("rows", "says"), [
    ([], "none of the 0 rows can be judged against a label (the file is empty)"),
    ([{"text": "t", "categories": None}], "(1 unknown)"),
    ([{"text": "t", "categories": ["V"], "category_kind": "keyword"}], "take keyword and residual ones too with --noisy"),
])
def test_nothing_to_judge(cosa, made, file, rows, says):
    code, out, err = cosa("validate", file(rows), "--judge", "fitted", "--json")

    assert (2, "") == (code, out)
    assert says in err


def test_rows_known_only_by_their_signs_are_judged():
    row = LabelledRow(id="", kind="response", text="t", refused=True)

    assert ([row], {"unknown": 0, "keyword/residual": 0}) == select([row])


def test_operating_point_is_the_judges_argument(cosa, made, file):
    _, asked = made
    path = file(own())
    code, out, _ = cosa("validate", path, "--judge", "fitted", "--operating-point", "strict", "--json")

    assert 0 == code
    assert [("fitted:strict", {})] == asked
    assert "strict" == json.loads(out)["operating_point"]
    code, _, err = cosa("validate", path, "--judge", "fitted:loose", "--operating-point", "strict")
    assert 2 == code
    assert "--judge 'fitted:loose' has an argument already" in err and "'strict'" in err


def test_backend_is_what_the_model_judge_reads_with(cosa, made, file, monkeypatch):
    _, asked = made
    backend, opened = FakeBackend(), []
    monkeypatch.setattr(backends, "make", lambda spec: opened.append(spec) or backend)
    path = file(own())

    assert 0 == cosa("validate", path, "--judge", "model", "--backend", "local:tiny.gguf", "--json")[0]
    assert (["local:tiny.gguf"], [("model", {"backend": backend})]) == (opened, asked)
    for judge in ("fitted", "model:local"):
        code, _, err = cosa("validate", path, "--judge", judge, "--backend", "local")
        assert 2 == code
        assert f"it needs --judge model, not {judge!r}" in err


def test_validate_writes_a_report(cosa, made, file, tmp_path):
    page = tmp_path / "out.html"
    page.write_text("old", "utf-8")
    code, out, err = cosa("validate", file(own()), "--judge", "fitted", "--report", page, "--json")

    assert 0 == code
    assert json.loads(out)["n"] == 60
    assert f"report: {page}" in err
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert {"own.jsonl", "out.html"} == {path.name for path in tmp_path.iterdir()}


def test_a_report_that_cannot_be_written_stops_before_judging(cosa, made, file, tmp_path):
    known, _ = made
    code, _, err = cosa("validate", file(own()), "--judge", "fitted", "--report", tmp_path / "none" / "out.html")

    assert 2 == code
    assert "give a file in a folder that exists" in err
    assert [] == known["fitted"].cases


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_run_is_shown_before_its_report_is_written(cosa, made, file, tmp_path, monkeypatch, form):
    page = tmp_path / "out.html"

    def full(path, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(path), str(target))

    monkeypatch.setattr(Path, "replace", full)
    code, out, err = cosa("validate", file(own()), "--judge", "fitted", "--report", page, *form)

    assert 2 == code
    assert json.loads(out)["n"] == 60 if form else "fitted/1: 60 rows" in out
    assert f"cosa: cannot write {str(page)!r}: No space left on device" == err.splitlines()[-1]
    assert ["own.jsonl"] == [path.name for path in tmp_path.iterdir()]


def test_a_report_is_written_though_nobody_reads_the_result(cosa, made, file, tmp_path, monkeypatch):
    page = tmp_path / "out.html"

    def gone(value):
        raise SystemExit(141)

    monkeypatch.setattr("cosa_guard.cli.options.print_json", gone)

    assert 141 == cosa("validate", file(own()), "--judge", "fitted", "--report", page, "--json")[0]
    assert page.read_text("utf-8").startswith("<!doctype html>")


def test_a_folder_that_takes_no_report_stops_before_judging(cosa, made, file, tmp_path, monkeypatch):
    path, page = file(own()), tmp_path / "out.html"

    def refused(**where):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".cosa-12345678"))

    monkeypatch.setattr("tempfile.mkstemp", refused)
    code, out, err = cosa("validate", path, "--judge", "fitted", "--report", page)

    assert (2, "", f"cosa: cannot write {str(page)!r}: Permission denied\n") == (code, out, err)
    assert [] == made[0]["fitted"].cases


def test_nothing_in_a_file_steers_the_terminal(cosa, made, file):
    path = file([*own(source="a\x1b]0;owned\x07"), *own(source="b\u202e\nc"), {"text": "crash\x1b[2J", "categories": ["V"]}])
    judge, read = made[0]["fitted"], made[0]["fitted"].judge

    def noisy(case):
        if "crash" in case.text:
            raise JudgeError(f"what is {case.text}?")
        return read(case)

    judge.judge = noisy
    code, out, err = cosa("validate", path, "--judge", "fitted")

    assert 0 == code
    assert not {"\x1b", "\x07", "\u202e"} & {*out, *err}
    assert "a\\x1b]0;owned\\x07" in out and "b\\u202e\\nc" in out
    assert "JudgeError: what is crash\\x1b[2J?" in out


def test_error_lines_steer_no_terminal(cosa, made, file):
    judge = made[0]["fitted"]

    def crash(case):
        raise JudgeError(f"what is {case.text}?\nSay it again")

    judge.judge = crash
    for arguments in (("explain", "\x1b]0;owned"), ("validate", file([{"text": "\x1b]0;owned", "categories": []}]))):
        code, out, err = cosa(*arguments, "--judge", "fitted")
        assert (2, "") == (code, out)
        assert "\x1b" not in err
        assert "what is \\x1b]0;owned?\nSay it again" in err
    err = cosa("validate", file([{"text": "t", "categories": [], "split": "\x1b[2J"}]), "--judge", "fitted", "--split", "dev")[2]
    assert "splits in the file: \\x1b[2J" in err


def test_failed_rows_are_told(cosa, made, file):
    path = file([*own(), {"text": "crash", "categories": ["V"]}])
    code, out, err = cosa("validate", path, "--judge", "fitted")

    assert 0 == code
    assert "the judge failed on 1 rows; the first time: JudgeError: it crashed" in out
    assert "1 failed" in err
    body = json.loads(cosa("validate", path, "--judge", "fitted", "--json")[1])
    assert {"n": 1, "messages": ["JudgeError: it crashed"]} == body["errors"]


def test_bad_input_is_one_message_and_exit_code_two(cosa, made, file, tmp_path):
    path = file(own())
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "t", "categories": ["V"]}\n{"text": 5, "categories": []}\n', "utf-8")
    for arguments, says in (
        ((path, "--judge", "fittet"), "unknown judge 'fittet'"),
        ((tmp_path / "none.jsonl", "--judge", "fitted"), "no such file"),
        ((bad, "--judge", "fitted"), f"{bad}:2: text is 5"),
        ((path, "--judge", "broken"), "failed on each of 60 rows"),
    ):
        code, out, err = cosa("validate", *arguments, "--json")
        assert (2, "") == (code, out)
        assert says in err and "Traceback" not in err


def test_a_judge_that_can_only_be_awaited_is_refused(cosa, made, file):
    class Awaited:
        name, inline = "awaited/1", False

    made[0]["awaited"] = Awaited()
    code, _, err = cosa("validate", file(own()), "--judge", "awaited")

    assert 2 == code
    assert "'awaited/1' can only be awaited" in err


# --- calibrate

def test_calibrate_fits_writes_and_says_how_to_use_it(cosa, made, file, tmp_path):
    known, _ = made
    output = tmp_path / "mine.json"
    code, out, _ = cosa("calibrate", file([*own(), {"text": "unsure", "categories": None}]), "--judge", "fitted:point", "--output", output)

    assert 0 == code
    ((rows, name),) = known["fitted"].fitted
    assert 60 == len(rows)
    assert re.fullmatch("mine-[0-9a-f]{6}", name)
    assert known["fitted"].gives == json.loads(output.read_text("utf-8"))
    assert f"use it with --judge fitted:{output}\n" in out
    assert "fitted to 60 rows for text; left out: 1 unknown" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["calibration", "error", "0.250", "0.125"] in lines
    assert ["harmless", "rows", "at", "0.5", "or", "more", "0.500", "0.062"] in lines
    assert ["before", "after,", "two-fold"] in lines
    assert {"own.jsonl", "mine.json"} == {path.name for path in tmp_path.iterdir()}


def test_calibrate_json(cosa, made, file, tmp_path):
    known, _ = made
    output = tmp_path / "mine.json"
    body = json.loads(cosa("calibrate", file(own()), "--judge", "fitted", "-o", output, "--json")[1])

    assert {
        "output": str(output), "judge": f"fitted:{output}", "n": 60, "report": known["fitted"].gives["report"],
        "left_out": {"unknown": 0, "keyword/residual": 0, "passed over by the judge": 0},
    } == body


@pytest.mark.parametrize(("point", "behind"), [("strict", "#strict"), ("permissive", "#permissive"), ("balanced", ""), (None, ""), ("", "")])
def test_the_fitted_judge_keeps_its_operating_point(cosa, made, file, tmp_path, point, behind):
    output = tmp_path / "mine.json"
    made[0]["fitted"].operating_point = point

    out = cosa("calibrate", file(own()), "--judge", f"fitted:{point}", "-o", output)[1]
    body = json.loads(cosa("calibrate", file(own()), "--judge", f"fitted:{point}", "-o", output, "--force", "--json")[1])

    assert out.endswith(f"use it with --judge fitted:{output}{behind}\n")
    assert f"fitted:{output}{behind}" == body["judge"]


def test_what_is_fitted_is_never_named_as_what_ships(cosa, made, file, tmp_path):
    known, output = made[0]["fitted"], tmp_path / "shipped.json"
    for rows in (own(), own(31), own(id="x", source="elsewhere"), own(30, 30, text="same")):
        assert 0 == cosa("calibrate", file(rows), "--judge", "fitted", "-o", output, "--force")[0]
    names = [name for _, name in known.fitted]

    assert names[0] == names[2] and 3 == len(set(names))  # what is fitted to makes the name
    assert all(re.fullmatch("shipped-[0-9a-f]{6}", name) for name in names)


def test_rows_with_half_a_character_can_be_fitted_to(cosa, made, file, tmp_path):
    rows = [*own(), {"text": "\ud800", "categories": []}]

    assert 0 == cosa("calibrate", file(rows), "--judge", "fitted", "-o", tmp_path / "mine.json")[0]


@pytest.mark.parametrize(("data", "n", "told"), [
    ("30 rows for prompt, 20 rows for text", 50, "fitted to 30 rows for prompt, 20 rows for text; left out: 10 passed over by the judge"),
    (None, None, "fitted to at most 60 rows\n"),
    ("some\x1b[2J", None, "fitted to some\\x1b[2J\n"),
])
def test_rows_that_the_judge_passed_over_are_not_counted(cosa, made, file, tmp_path, data, n, told):
    output = tmp_path / "mine.json"
    made[0]["fitted"].gives["data"] = data

    assert told in cosa("calibrate", file(own()), "--judge", "fitted", "-o", output)[1]
    assert n == json.loads(cosa("calibrate", file(own()), "--judge", "fitted", "-o", output, "--force", "--json")[1])["n"]


def test_calibrate_leaves_out_guessed_labels(cosa, made, file, tmp_path):
    known, output = made[0]["fitted"], tmp_path / "mine.json"
    rows = [*own(), *own(5, 0, category_kind="keyword"), *own(0, 4, category_kind="residual"), {"text": "unsure", "categories": None}]
    out = cosa("calibrate", file(rows), "--judge", "fitted", "-o", output)[1]

    assert {""} == {row.category_kind for row in known.fitted[0][0]}
    assert 60 == len(known.fitted[0][0])
    assert "left out: 1 unknown, 9 keyword/residual" in out
    body = json.loads(cosa("calibrate", file(rows), "--judge", "fitted", "-o", output, "--force", "--json")[1])
    assert {"unknown": 1, "keyword/residual": 9, "passed over by the judge": 0} == body["left_out"]


def test_calibrate_without_a_report(cosa, made, file, tmp_path):
    made[0]["fitted"].gives = {"thresholds": {}, "data": "60 rows for text"}
    code, out, _ = cosa("calibrate", file(own()), "--judge", "fitted", "-o", tmp_path / "mine.json")

    assert 0 == code
    assert "the judge does not say what that changed" in out


def test_calibrate_never_overwrites_unless_told(cosa, made, file, tmp_path):
    output = tmp_path / "mine.json"
    output.write_text("precious", "utf-8")
    path = file(own())
    code, _, err = cosa("calibrate", path, "--judge", "fitted", "-o", output)

    assert 2 == code
    assert "exists: give another --output, or replace it with --force" in err
    assert "precious" == output.read_text("utf-8")
    assert [] == made[0]["fitted"].fitted
    assert 0 == cosa("calibrate", path, "--judge", "fitted", "-o", output, "--force")[0]
    assert "thresholds" in json.loads(output.read_text("utf-8"))


def test_a_file_that_appears_while_fitting_is_not_overwritten(cosa, made, file, tmp_path):
    output, judge = tmp_path / "mine.json", made[0]["fitted"]

    def recalibrate(rows, name):
        output.write_text("precious", "utf-8")
        return {}

    judge.recalibrate = recalibrate

    assert 2 == cosa("calibrate", file(own()), "--judge", "fitted", "-o", output)[0]
    assert "precious" == output.read_text("utf-8")


@pytest.mark.parametrize(("rows", "says"), [
    (own(25, 24), "has 49 usable rows of 49; give at least 50, harmful and harmless"),
    ([*own(25, 24), *[{"text": "t", "categories": None}] * 9], "has 49 usable rows of 58 (9 unknown); give"),
    ([*own(25, 24), *own(9, 2, category_kind="keyword")], "has 49 usable rows of 60 (11 keyword/residual); give"),
    (own(50, 0), "all 50 usable rows of"),
    (own(50, 0), "are harmful; add harmless ones"),
    (own(0, 50), "are harmless; add harmful ones"),
])
def test_rows_that_nothing_can_be_fitted_to(cosa, made, file, tmp_path, rows, says):
    output = tmp_path / "mine.json"
    code, _, err = cosa("calibrate", file(rows), "--judge", "fitted", "-o", output)

    assert 2 == code
    assert says in err
    assert not output.exists() and [] == made[0]["fitted"].fitted


def test_fifty_rows_are_enough(cosa, made, file, tmp_path):
    assert 0 == cosa("calibrate", file(own(1, 49)), "--judge", "fitted", "-o", tmp_path / "mine.json")[0]


def test_a_judge_that_cannot_be_calibrated(cosa, made, file, tmp_path):
    code, _, err = cosa("calibrate", file(own()), "--judge", "scripted", "-o", tmp_path / "mine.json")

    assert 2 == code
    assert "'scripted/1' cannot be calibrated; judges that can: embedded" in err


@pytest.mark.parametrize(("gives", "says"), [
    ([1], "gave list as its calibration"), ({"p": float("nan")}, "not JSON"), ({"p": object()}, "not JSON"),
])
def test_a_calibration_that_is_none(cosa, made, file, tmp_path, gives, says):
    made[0]["fitted"].gives = gives
    code, _, err = cosa("calibrate", file(own()), "--judge", "fitted", "-o", tmp_path / "mine.json")

    assert 2 == code
    assert says in err
    assert ["own.jsonl"] == [path.name for path in tmp_path.iterdir()]


# --- explain

def test_explain_json(cosa, made):
    code, out, _ = cosa("explain", "They fight.", "--judge", "fitted", "--json")

    assert 0 == code
    assert {
        "judge": "fitted/1",
        "risks": {"violence": 0.9, "drugs": 0.05},
        "words": [
            {"start": 5, "end": 10, "text": "fight", "risk": "violence", "change": 0.4},
            {"start": 0, "end": 4, "text": "They", "risk": "drugs", "change": -0.5},
        ],
    } == json.loads(out)


def test_explain_for_people_has_signs_and_the_largest_change_first(cosa, made):
    code, out, _ = cosa("explain", "They fight.", "--judge", "fitted")
    lines = [line.split() for line in out.splitlines()]

    assert 0 == code
    assert lines.index(["violence", "0.900"]) < lines.index(["drugs", "0.050"])
    assert lines.index(["They", "-0.500", "drugs"]) < lines.index(["fight", "+0.400", "violence"])
    assert "no word moved them" in cosa("explain", "A walk.", "--judge", "fitted")[1]


def test_explain_shows_words_as_they_are(cosa, made):
    assert "[bold]" in [line.split()[0] for line in cosa("explain", "[bold] fight", "--judge", "fitted")[1].splitlines() if line]


def test_explain_shows_words_that_steer_no_terminal(cosa, made):
    out = cosa("explain", "\x1b]0;owned\x07 fight", "--judge", "fitted")[1]

    assert ["\\x1b]0;owned\\x07", "-0.500", "drugs"] in [line.split() for line in out.splitlines()]
    assert not {"\x1b", "\x07"} & {*out}
    words = json.loads(cosa("explain", "\x1b]0;owned\x07 fight", "--judge", "fitted", "--json")[1])["words"]
    assert "\x1b]0;owned\x07" == words[1]["text"]  # scripts get what was there


def test_explain_judges_a_reply_behind_its_prompt(cosa, made):
    assert 0 == cosa("explain", "fight", "--judge", "fitted", "--stage", "output", "--prompt", "Why?")[0]

    case = made[0]["fitted"].cases[0]
    assert ("output", "fight", ["Why?"]) == (case.stage, case.text, [turn.content for turn in case.turns])
    code, _, err = cosa("explain", "fight", "--judge", "fitted", "--prompt", "Why?")
    assert 2 == code
    assert "--prompt is what a reply answers: it needs --stage output" in err


def test_explain_reads_standard_input(cosa, made, monkeypatch, tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("A fight", "utf-8")
    with path.open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)

        assert "fight" == json.loads(cosa("explain", "-", "--judge", "fitted", "--json")[1])["words"][0]["text"]


def test_a_judge_that_cannot_explain(cosa, made):
    code, _, err = cosa("explain", "fight", "--judge", "scripted")

    assert 2 == code
    assert "'scripted/1' cannot say which words moved it; judges that can: embedded" in err


def test_errors_are_of_the_one_tree():
    with pytest.raises(UsageError):
        select([], split="dev")
