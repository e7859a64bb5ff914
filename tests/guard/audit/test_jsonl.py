"""The audit record: one line for each ruling, there before its text is out, whatever happens to the process."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest
from tests.guard.build import OwnJudge, finder, risks_config

from cosa_guard import Guard
from cosa_guard.audit import AuditError, JsonlRecord
from cosa_guard.testing import FakeBackend, ScriptedJudge
from cosa_guard.verdicts import Entry, Ruling, Verdict
from cosa_sdk.decide import Evidence, decide
from cosa_sdk.errors import CosaError, JudgeError

CONFIG = risks_config()


def ruling(*found, error=None):
    evidence = Evidence(found=frozenset(found), examined=CONFIG.elements)
    return Ruling(stage="output", decision=decide(CONFIG, evidence), verdicts=(Verdict(judge="test/1", evidence=evidence, reason="secret words"),), error=error)


def entry(*found, error=None, config="d"):
    return Entry(ruling=ruling(*found, error=error), config=config, text="secret text")


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_line_says_what_was_decided_and_never_what_was_said(tmp_path):
    path = tmp_path / "audit.jsonl"
    before = time.time()
    with JsonlRecord(path) as record:
        Guard(CONFIG, judge=finder(drugs=["pill"])(), backend=FakeBackend("Take a pill, Ann."), record=record).reply("Hi, Bob.")
    first, second = lines(path)

    assert ["input", "output"] == [first["stage"], second["stage"]]
    assert ["compliant", "violates"] == [first["outcome"], second["outcome"]]
    assert {CONFIG.digest} == {first["config"], second["config"]}
    assert (["drugs"], ["scripted/1"], None) == (second["rules"], second["judges"], second["error"])
    assert before <= first["time"] <= second["time"] <= time.time()
    assert not {"pill", "Ann", "Bob"} & set(path.read_text("utf-8").replace('"', " ").replace(".", " ").split())


def test_it_appends(tmp_path):
    path = tmp_path / "audit.jsonl"
    for _ in range(2):
        with JsonlRecord(str(path)) as record:
            record(entry(config="d"))
            record(entry("drugs", error="a judge said ‘né’", config="d"))

    assert ["compliant", "violates"] * 2 == [line["outcome"] for line in lines(path)]
    assert "a judge said ‘né’" == lines(path)[1]["error"]


def test_only_its_owner_may_read_it(tmp_path):
    path = tmp_path / "audit.jsonl"
    JsonlRecord(path).close()

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_many_threads_write_whole_lines(tmp_path):
    path = tmp_path / "audit.jsonl"
    with JsonlRecord(path) as record:
        threads = [threading.Thread(target=lambda: [record(entry("drugs", config="d" * 500)) for _ in range(50)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

    assert 400 == len(lines(path))


@pytest.mark.parametrize("place", ["missing/audit.jsonl", "."])
def test_a_file_that_cannot_be_opened(tmp_path, place):
    with pytest.raises(AuditError, match="cannot open the audit record") as caught:
        JsonlRecord(tmp_path / place)

    assert isinstance(caught.value, CosaError)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_a_full_disk_releases_nothing():
    one = Guard(CONFIG, judge=finder()(), backend=FakeBackend("Hello."), record=JsonlRecord("/dev/full"))
    stream = one.stream("Hi.")

    with pytest.raises(AuditError, match="No space left"):
        next(stream)
    assert [] == one.backend.requests


def test_a_line_that_is_cut_short_is_an_error(tmp_path, monkeypatch):
    record = JsonlRecord(tmp_path / "audit.jsonl")
    monkeypatch.setattr("cosa_guard.audit.files.os.write", lambda file, data: len(data) - 1)

    with pytest.raises(AuditError, match="took only"):
        record(entry(config="d"))


def test_a_file_that_was_removed_takes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "audit.jsonl"
    record = JsonlRecord(path)
    path.unlink()
    real = time.time
    monkeypatch.setattr("cosa_guard.audit.jsonl.time.time", lambda: real() + 2)  # it is looked for once a second

    with pytest.raises(AuditError, match="was removed"):
        record(entry())


def test_a_closed_record_takes_nothing(tmp_path):
    record = JsonlRecord(tmp_path / "audit.jsonl")
    record.close()

    with pytest.raises(AuditError):
        record(entry(config="d"))


def test_a_closed_record_writes_into_no_other_file(tmp_path):
    record = JsonlRecord(tmp_path / "audit.jsonl")
    record.close()
    with open(tmp_path / "other", "wb") as other:  # most likely under the number that has become free
        with pytest.raises(AuditError):
            record(entry(config="d"))
        assert other.fileno() >= 0

    assert b"" == (tmp_path / "other").read_bytes()


def test_half_a_character_in_an_error_is_recorded_all_the_same(tmp_path):
    path = tmp_path / "audit.jsonl"

    def judge(case):
        raise JudgeError(f"cannot read {case.text}")

    with JsonlRecord(path) as record:
        reply = Guard(CONFIG, judge=OwnJudge(judge), backend=FakeBackend(), record=record).reply("\ud83d")

    assert reply.report.blocked
    assert ["undecided"] == [line["outcome"] for line in lines(path)]


WRITER = """
import sys
from cosa_guard import Guard
from cosa_guard.audit import JsonlRecord
from cosa_guard.testing import FakeBackend, ScriptedJudge
from cosa_sdk import SafetyConfig

class Endless(FakeBackend):
    def stream(self, request):
        while True:
            yield from FakeBackend(["This is a sentence. ", "And so is this one here. "] * 10).stream(request)

judge = ScriptedJudge()
judge.inline = sys.argv[2] == "inline"
config = SafetyConfig(name="endless", enforcement={"stream": "hold"})
guard = Guard(config, judge=judge, backend=Endless(), record=JsonlRecord(sys.argv[1]))
for piece in guard.stream("Go."):
    sys.stdout.write("x" if piece.text else "")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("place", ["inline", "pool"])
@pytest.mark.parametrize("after", [1, 40])
def test_the_record_survives_kill_9(tmp_path, place, after):
    path = tmp_path / "audit.jsonl"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path), place], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    with process, process.stdout as out:
        released = os.read(out.fileno(), 1)
        while len(released) < after:
            released += os.read(out.fileno(), 1000)
        process.send_signal(signal.SIGKILL)
        released += out.read()
    whole = path.read_text("utf-8").splitlines(keepends=True)
    rulings = [json.loads(line) for line in whole if line.endswith("\n")]

    assert -signal.SIGKILL == process.returncode
    assert {b"x"[0]} == set(released)
    assert len(released) >= after
    assert "input" == rulings[0]["stage"]
    # Every piece that got out has its ruling on file.
    assert len(released) <= sum(line["stage"] == "output" for line in rulings)
    assert {"compliant"} == {line["outcome"] for line in rulings}


def test_records_are_in_step_with_the_report(tmp_path):
    path = tmp_path / "audit.jsonl"
    with JsonlRecord(path) as record:
        one = Guard(CONFIG, judge=ScriptedJudge({"drugs": ["pill"]}), backend=FakeBackend(["A sentence of words. "] * 5), record=record)
        reply = one.reply("Hi.")

    assert [ruling.outcome for ruling in reply.report.rulings] == [line["outcome"] for line in lines(path)]
    assert [ruling.stage for ruling in reply.report.rulings] == [line["stage"] for line in lines(path)]
