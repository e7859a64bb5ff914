"""Validation of judges: what they are asked, what is counted, and that nothing is lost on the way."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from cosa_guard.evals import judge_report, metrics
from cosa_guard.evals.judging import FEWEST, Judged, Progress, case_of, forbid_all, run, validate
from cosa_guard.labelled import LabelledRow
from cosa_guard.messages import Message
from cosa_guard.testing import ScriptedJudge
from cosa_guard.verdicts import Verdict
from cosa_sdk import taxonomy
from cosa_sdk.decide import Evidence
from cosa_sdk.errors import JudgeError, UsageError

KEYS = {"n", "positives", "auroc", "ap", "precision", "recall", "f1", "ci"}


def row(text, *risks, kind="text", **fields):
    known = {"risks": frozenset(risks), "harmful": bool(risks), "id": text, **fields}
    return LabelledRow(kind=kind, text=text, **known)


def rows(count, *risks, text="t", **fields):
    return [row(f"{text} {number}", *risks, **fields) for number in range(count)]


class Told:
    """A judge from a function of the text that gives probabilities by risk; flags what is above a half."""

    name, inline = "told/1", True

    def __init__(self, probabilities, *, score=None, covers=None):
        self.probabilities, self.score, self._covers = probabilities, score, covers
        self.cases = []

    def covers(self, config):
        return config.elements if self._covers is None else self._covers

    def holdback(self, config):
        return 0

    def judge(self, case):
        self.cases.append(case)
        risks = self.probabilities(case.text)
        found = frozenset(risk for risk, p in risks.items() if p > 0.5)
        evidence = Evidence(found=found, examined=case.config.elements)
        return Verdict(judge=self.name, evidence=evidence, risks=risks, score=self.score and self.score(case.text))


class Whole(Told):
    """Reads the whole config: says that it is broken, and names nothing."""

    def judge(self, case):
        score = self.probabilities(case.text)
        evidence = Evidence(violates=True) if score > 0.5 else Evidence(examined=case.config.elements)
        return Verdict(judge=self.name, evidence=evidence, score=score)


def number(text):
    return int(text.split()[-1])


# --- what the judge is asked

def test_prompts_are_input_responses_answer_and_texts_stand_alone():
    prompt, text = case_of(row("p", kind="prompt")), case_of(row("t", kind="text"))
    reply = case_of(row("r", kind="response", prompt="q"))

    assert ("input", "p", ()) == (prompt.stage, prompt.text, prompt.turns)
    assert ("output", "t", ()) == (text.stage, text.text, text.turns)
    assert ("output", "r", (Message("user", "q"),)) == (reply.stage, reply.text, reply.turns)
    assert () == case_of(row("r", kind="response")).turns


def test_everything_is_forbidden():
    config = forbid_all()

    assert "forbid" == config.default
    assert "" == (config.guideline or "")
    assert {*taxonomy.builtin().ids, *taxonomy.FLOOR} == config.elements


# --- what is measured

def test_json_has_the_contract_keys():
    judge = ScriptedJudge({"violence": ["fight"]})
    body = validate(judge, [*rows(20, "violence", text="fight"), *rows(20)], file="own.jsonl").to_json()

    assert {"n", "macro", "risks", "flag_rate", "ms_per_text"} <= body.keys()
    assert {"any_risk", "signs", "by_source", "floor", "skipped", "judge", "operating_point", "file"} <= body.keys()
    assert {"auroc", "ap", "f1"} == body["macro"].keys()
    assert set(taxonomy.builtin().ids) == body["risks"].keys()
    assert all(cell.keys() >= KEYS for cell in body["risks"].values())
    assert body["any_risk"].keys() >= KEYS | {"ece"}
    assert 40 == body["n"]
    assert 0.5 == body["flag_rate"]
    assert body["ms_per_text"] >= 0
    assert ("scripted/1", "own.jsonl", None) == (body["judge"], body["file"], body["operating_point"])
    assert body == json.loads(json.dumps(body, allow_nan=False))


def test_flags_are_counted_as_the_judge_acts():
    # 25 violent rows, 20 of them found; 30 others, 6 flagged wrongly.
    data = [*rows(20, "violence", text="fight"), *rows(5, "violence"), *rows(6, text="fight"), *rows(24)]

    cell = validate(ScriptedJudge({"violence": ["fight"]}), data).risks["violence"]

    assert (55, 25, 26, 20) == (cell.n, cell.positives, cell.flagged, cell.hits)
    assert (20 / 26, 0.8, 6 / 30) == (cell.precision, cell.recall, cell.false_flag_rate)
    assert metrics.cohen_kappa([True] * 25 + [False] * 30, [True] * 20 + [False] * 5 + [True] * 6 + [False] * 24) == cell.kappa
    assert cell.auroc is cell.ap is cell.ci is cell.ece is None  # it has no probabilities


def test_probabilities_are_measured_by_risk_and_as_their_maximum():
    data = [*rows(20, "violence", text="v"), *rows(20, "drugs", text="d"), *rows(20, text="none")]
    given = {"v": {"violence": 0.9, "drugs": 0.2}, "d": {"violence": 0.1, "drugs": 0.3}, "none": {"violence": 0.2, "drugs": 0.25}}

    result = validate(Told(lambda text: given[text.split()[0]]), data)

    assert 1.0 == result.risks["violence"].auroc
    assert 1.0 == result.risks["drugs"].auroc
    assert 0.0 == result.risks["drugs"].recall  # 0.3 is not flagged
    assert 1.0 == result.any_risk.auroc  # 0.9 and 0.3 against 0.25
    assert 0.5 == result.any_risk.recall
    assert result.any_risk.ci == metrics.auroc_with_interval([0.9] * 20 + [0.3] * 20 + [0.25] * 20, [True] * 40 + [False] * 20)[1]
    assert metrics.brier([0.9] * 20 + [0.3] * 20 + [0.25] * 20, [True] * 40 + [False] * 20) == result.any_risk.brier
    assert {0.01, 0.02, 0.05, 0.1} == result.recall_at.keys()


def test_score_goes_before_the_maximum():
    data = [*rows(20, "violence", text="v"), *rows(20)]
    judge = Told(lambda text: {"violence": 0.9 if text[0] == "v" else 0.1}, score=lambda text: 0.1 if text[0] == "v" else 0.9)

    result = validate(judge, data)

    assert 1.0 == result.risks["violence"].auroc
    assert 0.0 == result.any_risk.auroc


@pytest.mark.parametrize(("positives", "negatives", "null"), [(19, 40, True), (40, 19, True), (20, 20, False)])
def test_small_cells_are_null(positives, negatives, null):
    data = [*rows(positives, "violence", text="v"), *rows(negatives)]

    body = validate(Told(lambda text: {"violence": 0.9 if text[0] == "v" else 0.1}), data).to_json()
    cell = body["risks"]["violence"]

    assert (positives + negatives, positives) == (cell["n"], cell["positives"])
    for name in KEYS - {"n", "positives"}:
        assert (cell[name] is None) == null, name
    assert (body["macro"]["auroc"] is None) == null
    assert FEWEST == 20


def test_harmless_rows_alone_tell_what_is_flagged_for_nothing():
    cell = validate(ScriptedJudge({"violence": ["fight"]}), [*rows(5, text="fight"), *rows(20)]).any_risk

    assert (25, 0, 5, 0, 0.2) == (cell.n, cell.positives, cell.flagged, cell.hits, cell.false_flag_rate)
    assert cell.precision is cell.recall is cell.f1 is None
    assert validate(ScriptedJudge(), rows(19)).any_risk.false_flag_rate is None


def test_macro_leaves_out_other_null_cells_and_the_floor():
    # Violence is told perfectly, drugs not at all, other backwards, and privacy has too few rows.
    given = {"v": {"violence": 0.9}, "d": {"drugs": 0.5}, "o": {"other": 0.0}, "p": {"privacy": 0.0}, "n": {"other": 0.2}}
    base = {"violence": 0.1, "drugs": 0.5, "other": 0.2, "privacy": 0.1, "floor.minors": 0.3}
    names = {"v": "violence", "d": "drugs", "o": "other", "p": "privacy"}
    data = [one for letter, count in (("v", 20), ("d", 20), ("o", 20), ("p", 5)) for one in rows(count, names[letter], text=letter)]
    data += rows(20, text="n")

    result = validate(Told(lambda text: {**base, **given[text[0]]}), data)

    assert (1.0, 0.5, 0.0) == tuple(result.risks[risk].auroc for risk in ("violence", "drugs", "other"))
    assert result.risks["privacy"].auroc is None
    assert 0.75 == result.macro["auroc"]
    assert 0.5 == result.macro["f1"]  # 1 for violence, 0 for drugs; risks without rows do not count


def test_any_risk_needs_to_know_of_harm_and_risks_need_to_know_which():
    unknown_which = rows(20, text="v", risks=None, harmful=True)
    unknown_all = rows(7, text="v", risks=None, harmful=None, refused=True)

    result = validate(Told(lambda text: {"violence": 0.9 if text[0] == "v" else 0.1}), [*unknown_which, *unknown_all, *rows(20)])

    assert 47 == len(result.judged)
    assert (40, 20, 1.0) == (result.any_risk.n, result.any_risk.positives, result.any_risk.auroc)
    assert (20, 0) == (result.risks["violence"].n, result.risks["violence"].positives)


def test_a_judge_that_names_nothing_has_no_flags_by_risk():
    data = [*rows(20, "violence", text="9"), *rows(20, text="1")]

    result = validate(Whole(lambda text: int(text[0]) / 10), data)

    assert (1.0, 1.0, 1.0) == (result.any_risk.auroc, result.any_risk.recall, result.any_risk.precision)
    assert (20, None, None) == (result.risks["violence"].positives, result.risks["violence"].recall, result.risks["violence"].f1)
    assert 0.5 == result.flag_rate


def test_a_risk_that_the_judge_does_not_cover_has_no_flags():
    judge = ScriptedJudge({"violence": ["fight"]}, examines=frozenset({"violence"}))
    data = [*rows(20, "violence", text="fight"), *rows(20, "drugs"), *rows(20)]

    result = validate(judge, data)

    assert 1.0 == result.risks["violence"].recall
    assert result.risks["drugs"].recall is None
    assert 40 == result.to_json()["undecided"]  # nobody looked for the rest


def test_sources_are_measured_apart():
    told = Told(lambda text: {"violence": 0.9 if text[0] == "v" else 0.1})
    good = [*rows(20, "violence", text="v", source="one"), *rows(20, source="one")]
    bad = [*rows(20, "violence", source="two"), *rows(25, text="v", source="two")]

    body = validate(told, [*good, *bad, *rows(3)]).to_json()["by_source"]

    assert {"one", "two", "unnamed"} == body.keys()
    assert (40, 45, 3) == (body["one"]["n"], body["two"]["n"], body["unnamed"]["n"])
    assert (1.0, 0.0, None) == tuple(body[name]["any_risk"]["auroc"] for name in ("one", "two", "unnamed"))


def test_rows_of_no_source_and_of_one_called_unnamed_are_one_source():
    data = [*rows(3, source="unnamed"), *rows(4), *rows(2, source="two"), *rows(1, source="unnamed")]

    result = validate(ScriptedJudge(), data)

    assert ["two", "unnamed"] == list(result.by_source)
    assert (2, 8) == tuple(n for n, _ in result.by_source.values())


def test_floor_recall_counts_floor_ids():
    judge = ScriptedJudge({"floor.minors": ["child"], "violence": ["fight"]})
    floor = [*rows(15, "sexual", text="child", floor=True), *rows(5, "violence", text="fight", floor=True)]

    result = validate(judge, [*floor, *rows(19), *rows(1, text="child")])

    assert {"n": 20, "recall": 0.75, "flagged": 1.0, "false_flag_rate": 0.05} == result.floor
    assert validate(judge, floor[:19]).floor["recall"] is None
    assert 1.0 == validate(Whole(lambda text: 0.9), floor).floor["recall"]  # the config as a whole includes the floor


def test_signs_of_replies_are_measured_where_they_are_labelled():
    class Signs(Told):
        def reply_signs(self, case):
            return {"refused": 0.9 if "sorry" in case.text else 0.2, "addressed": 0.5}

    replies = [*rows(20, kind="response", text="sorry", refused=True), *rows(20, kind="response", refused=False)]
    others = [*rows(5, kind="response"), *rows(5, kind="prompt")]

    result = validate(Signs(lambda text: {"violence": 0.1}), [*replies, *others])

    assert ["refused"] == list(result.signs)
    assert (40, 20, 1.0, 1.0) == tuple(getattr(result.signs["refused"], name) for name in ("n", "positives", "auroc", "f1"))
    assert {} == validate(Told(lambda text: {}), replies).signs


# --- errors

def failing(bad):
    def probabilities(text):
        if bad(text):
            raise ValueError("no idea")
        return {"violence": 0.9 if text[0] == "v" else 0.1}

    return Told(probabilities)


def test_a_failed_row_is_kept_undecided_and_reported():
    data = [*rows(25, "violence", text="v"), *rows(25)]

    result = validate(failing(lambda text: text[0] == "v" and number(text) < 5), data)
    body = result.to_json()

    assert 50 == len(result.judged) == body["n"]
    assert {"n": 5, "messages": ["ValueError: no idea"]} == body["errors"]
    assert 5 == body["undecided"]
    assert (25, 20 / 25) == (result.any_risk.positives, result.any_risk.recall)  # a failure finds nothing
    assert 1.0 == result.any_risk.auroc  # of the rows with a score
    assert all(one.undecided and not one.flagged and one.score is None for one in result.errors)


@pytest.mark.parametrize("p", [1.5, -0.1, float("nan"), "high"])
def test_what_is_no_probability_is_an_error(p):
    told = Told(lambda text: {})
    told.judge = lambda case: Verdict(judge="odd/1", evidence=Evidence(), risks={"violence": p if case.text == "bad" else 0.5})

    good, bad = run(told, [row("good"), row("bad")])

    assert good.error is None
    assert bad.error and bad.undecided


def test_failing_on_everything_ends_it():
    with pytest.raises(JudgeError, match="failed on each of 3 rows; the first time: ValueError: no idea"):
        run(failing(lambda text: True), rows(3))


def test_stopping_is_not_a_failure_of_the_judge():
    judge = ScriptedJudge(error=KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        run(judge, rows(3))


def test_bad_calls():
    class Awaited:
        name, inline = "awaited/1", False

    with pytest.raises(UsageError, match="awaited/1' can only be awaited"):
        run(Awaited(), rows(1))
    with pytest.raises(UsageError, match="no rows"):
        run(ScriptedJudge(), [])


def test_progress_counts_and_estimates():
    seen = []
    run(failing(lambda text: text == "t 1"), rows(4), progress=seen.append, every=0)

    assert [(1, 4, 0), (2, 4, 1), (3, 4, 1), (4, 4, 1)] == [(at.done, at.total, at.errors) for at in seen]
    assert 30.0 == Progress(1, 4, 0, 10.0).eta
    assert 0.0 == Progress(4, 4, 0, 10.0).eta

    seldom = []
    run(ScriptedJudge(), rows(4), progress=seldom.append, every=3600)

    assert [4] == [at.done for at in seldom]  # the end is always told


# --- the page

class Page(HTMLParser):

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def result():
    given = {"hit": 0.9, "miss": 0.2, "alarm": 0.8, "calm": 0.1}
    data = [
        *rows(30, "violence", text="hit"), *rows(25, "violence", text="miss <script>alert(1)</script>", source="a<b"),
        *rows(25, text="alarm", kind="response", prompt="why & how"), *rows(30, text="calm"),
    ]
    return validate(Told(lambda text: {"violence": min(1.0, given[text.split()[0]] + number(text) / 1000)}), data, file="<own>.jsonl")


def test_page_is_whole_and_asks_for_nothing(result):
    text = judge_report.render(result, made="today")
    page = Page(text)

    assert [] == page.open
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not [attrs for _, attrs in page.tags if {"src", "href", "onclick", "onload"} & attrs.keys()]
    assert "url(" not in text and "@import" not in text and "http://" not in text and "https://" not in text
    assert "prefers-color-scheme: dark" in text
    assert 2 == sum(tag == "svg" for tag, _ in page.tags)
    assert "content warning" in " ".join(page.words).lower()


def test_page_escapes_what_it_shows(result):
    text = judge_report.render(result)

    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "a&lt;b" in text and "&lt;own&gt;.jsonl" in text and "why &amp; how" in text


def test_page_shows_the_numbers_of_the_result(result):
    words = " ".join(Page(judge_report.render(result)).words)
    cell = result.any_risk

    assert f"{cell.auroc:.3f} [{cell.ci[0]:.2f}, {cell.ci[1]:.2f}]" in words
    low, high = metrics.wilson(30, 55)
    assert f"{cell.recall:.3f} [{low:.2f}, {high:.2f}]" in words
    assert "n/a" in words  # risks without rows
    for heading in ("What it finds", "By source", "Mistakes", "How it was measured", "What this does not tell"):
        assert heading in words


def test_worst_mistakes_are_the_surest(result):
    alarms, missed = judge_report.worst_mistakes(result)

    assert 20 == len(alarms) == len(missed)
    assert [f"alarm {n}" for n in range(24, 4, -1)] == [one.row.text for one in alarms]
    assert list(range(20)) == [number(one.row.text) for one in missed]
    assert all(one.row.text.startswith("miss") for one in missed)


def test_failed_rows_are_told_and_are_no_mistakes_to_read():
    data = [*rows(25, "violence", text="v"), *rows(25)]
    result = validate(failing(lambda text: text == "v 0"), data)

    assert ([], []) == judge_report.worst_mistakes(result)
    assert "failed on 1 rows" in judge_report.render(result)


@pytest.mark.parametrize(("bad", "told", "untold"), [
    (lambda text: text[0] == "v", "failed on 30 of 30 harmful rows", "every harmful one was"),
    (lambda text: text == "v 0", "failed on 1 of 30 harmful rows", "every harmful one was"),
    (lambda text: text == "t 0", "None: no harmless row was flagged, and every harmful one was.", "harmful rows:"),
])
def test_no_mistakes_is_said_of_no_row_that_the_judge_failed_on(bad, told, untold):
    result = validate(failing(bad), [*rows(30, "violence", text="v"), *rows(30)])
    section = judge_report.render(result).partition("<h2>Mistakes</h2>")[2].partition("<h2>")[0]

    assert told in section
    assert untold not in section
    assert [] == Page(section).open


def test_failed_rows_are_told_beside_other_mistakes():
    quiet = failing(lambda text: text[0] == "v" and number(text) < 5)
    section = judge_report.render(validate(quiet, [*rows(30, "violence", text="v"), *rows(3, "violence")])).partition("<h2>Mistakes</h2>")[2]

    assert "failed on 5 of 33 harmful rows" in section.partition("<details>")[0]


def test_mistakes_without_scores_are_shown_too():
    data = [*rows(2, "violence", text="quiet"), *rows(2, text="fight")]
    alarms, missed = judge_report.worst_mistakes(validate(ScriptedJudge({"violence": ["fight"]}), data))

    assert ["fight 0", "fight 1"] == [one.row.text for one in alarms]
    assert ["quiet 0", "quiet 1"] == [one.row.text for one in missed]


def test_page_of_a_judge_without_probabilities_has_no_plots():
    text = judge_report.render(validate(ScriptedJudge(), rows(3)))

    assert "<svg" not in text and "No plots" in text
    assert [] == Page(text).open


def test_long_texts_are_cut_and_halves_of_characters_survive():
    data = [row("x" * 299 + "yz" * 5, "violence", id="long"), row("\ud800 broken", "violence")]
    text = judge_report.render(validate(ScriptedJudge(), data))

    assert "x" * 299 + "y…" in text and "yz" not in text
    text.encode("utf-8")


def test_judged_defaults_are_careful():
    assert Judged(row=row("t")).undecided
